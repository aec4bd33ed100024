"""Processes, draws and a closed-form score for the tests of objectives."""

from __future__ import annotations

import torch

from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, SubVPSDE

F32, F64 = torch.float32, torch.float64


SDES = [VPSDE(), SubVPSDE(), VESDE()]


C = 0.6


def normal(shape, purpose="x", dtype=F64):
    return NoiseSource.of(2, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


def per_event(coefficient, x):
    return coefficient.reshape(-1, *[1] * (x.ndim - 1))


def gaussian_score(sde, mean=0.0, std=C, factor=1.0):
    """The score of data N(mean, std^2) in every coordinate, times a factor."""

    def score(x, t):
        alpha, variance = sde.alpha(t), sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2
        return -factor * (x - per_event(alpha * mean, x)) / per_event(variance, x)

    return score


U = NoiseSource.of(8, 40000).uniform((), step=0, purpose="u", dtype=F64)
