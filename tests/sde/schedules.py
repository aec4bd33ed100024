"""The processes for the tests of noise schedules."""

from __future__ import annotations

import torch
from hypothesis import settings

from scoresde.sde import EDMSDE, CosineVPSDE, LearnedSNRSDE, LinearInterpolantSDE, LogSNRLinearSDE, Schedule
from tests.params import examples

F32, F64 = torch.float32, torch.float64
LIGHT = settings(max_examples=examples(100), deadline=None, derandomize=True)


def bent():
    """A learned schedule that is no longer linear, the same at each call."""
    sde = LearnedSNRSDE(12.0, -14.0, hidden=16)
    with torch.no_grad():
        sde.a += 4.0 + 3.0 * torch.cos(torch.arange(16.0))
        sde.b -= 10.0
    return sde


CLOSED = {
    "cosine": CosineVPSDE(),
    "cosine s=0": CosineVPSDE(0.0, 50.0),
    "edm": EDMSDE(),
    "interpolant": LinearInterpolantSDE(),
    "interpolant short": LinearInterpolantSDE(0.1),
    "log snr": LogSNRLinearSDE(),
    "log snr wide": LogSNRLinearSDE(10.0, -14.0),
}
LEARNED = {"learned": LearnedSNRSDE(), "learned bent": bent()}
GIVEN = {
    "given pair": Schedule(lambda t: torch.exp(-t), lambda t: t * (2.0 + torch.sin(t)), T=6.0),
    "given vp": Schedule.from_log_snr(lambda t: -2.0 * torch.log(torch.expm1(t + 3 * t**2)), T=2.0),
    "given ve": Schedule.from_log_snr(lambda t: -4.0 * torch.log(0.1 + 3 * t), variance_preserving=False),
}
ALL = CLOSED | LEARNED | GIVEN


def scalar(value, dtype=F64):
    return torch.tensor(value, dtype=dtype)
