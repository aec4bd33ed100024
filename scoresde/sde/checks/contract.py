"""Noise that rises, shapes and types, and the edges of time."""

from __future__ import annotations

import math

import torch

from scoresde.sde.checks.report import CheckRow
from scoresde.sde.checks.subject import Subject, relative
from scoresde.sde.scalar import ScalarSDE


def noise_rises(s: Subject) -> list[CheckRow]:
    """ln(noise / signal) must rise: the share of times at which it does not."""
    t = torch.linspace(s.t0, s.times[-1], 200, dtype=torch.float64)
    falls = float((s.sde.log_noise(t).diff() <= 0).double().mean())
    return [CheckRow("noise to signal rises", falls, 0.0, "" if falls == 0 else "alpha / sigma must fall at all times")]


def shapes(s: Subject) -> list[CheckRow]:
    """Shapes and types of all that takes a state, in both types; float32 against float64."""
    problems: list[str] = []
    worst = 0.0
    shapes = [s.event_shape] + ([(), (3,), (2, 3), (1, 2, 3)] if isinstance(s.sde, ScalarSDE) else [])
    for shape in shapes:
        results = {}
        for dtype in (torch.float64, torch.float32):
            x0 = torch.linspace(-1, 1, 2 * math.prod(shape)).to(dtype).reshape(2, *shape)
            t = torch.tensor([0.3 * s.sde.T, 0.7 * s.sde.T], dtype=dtype)
            z = torch.ones(2, *s.sde.state_shape(shape), dtype=dtype)
            x = s.sde.perturb(x0, t, z)
            made = {
                "perturb": x, "drift": s.sde.drift(x, t),
                "apply_diffusion": s.sde.apply_diffusion(z, t), "apply_diffusion_matrix": s.sde.apply_diffusion_matrix(z, t),
                "noise_from_score": s.sde.noise_from_score(x, t, z), "data_from_score": s.sde.data_from_score(x, t, z),
                "prior_sample": s.sde.prior_sample((2, *shape), dtype=dtype),
            }  # fmt: skip
            for name, value in made.items():
                if value.shape != z.shape or value.dtype != dtype:
                    problems.append(f"{name} gives {tuple(value.shape)}, {value.dtype} for {tuple(z.shape)}, {dtype}")
            results[dtype] = made
        for name, exact in results[torch.float64].items():
            worst = max(worst, relative(results[torch.float32][name].double(), exact))
    return [
        CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow("float32 against float64", worst, 1e-4),
    ]


def edges(s: Subject) -> list[CheckRow]:
    """Finite at both ends, and refused beyond them."""
    problems = []
    for t in (1e-5 * s.sde.T, s.sde.T):
        parts = (*s.kernel(t), *s.drift(t), s.gg(t))
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            problems.append(f"not finite at t={t:g}")
    for t in (-0.1 * s.sde.T, 1.1 * s.sde.T, math.nan):
        try:
            s.sde.kernel(torch.tensor(t, dtype=torch.float64))
            problems.append(f"t={t:g} is taken, and [0, {s.sde.T:g}] is allowed: call self.check_time(t)")
        except ValueError:
            pass
    return [CheckRow("edge times", float(len(problems)), 0.0, problems[0] if problems else "")]
