"""The error of particles falls like one over the square root of their number, where that of plain guidance levels out."""

from __future__ import annotations

import pytest
import torch

from benchmarks.particles import SDE, functions, problem, rms, sampler
from scoresde.samplers import UniPC

pytestmark = pytest.mark.long


def test_the_error_falls_like_one_over_the_root_of_the_number(worst):
    """Three modes: from 32 to 2048 particles the error falls 8 times. That of plain guidance is 5 times as large."""
    one, y = problem(2, 0.3), torch.tensor([[0.4]])
    draws = functions(one.prior.posterior(one.operator, y.double(), one.std).sample(2**20, seed=1, dtype=torch.float64))
    mean, std = draws.mean(0), draws.std(0)
    score, _ = one.guidance(y)["TweedieMoments"]
    errors = {}
    for count, populations in ((32, 200), (256, 50), (2048, 16)):
        found = sampler(count, 100, None)(SDE, score, (populations, 2), seed=count).particles
        means = (found.log_weights.exp()[..., None] * functions(found.states)).sum(1)
        errors[count] = rms((means - mean) / std)
        worst(f"error of posterior means by {count} particles", errors[count])
    plain = rms((functions(UniPC(100)(SDE, score, (2**13, 2), seed=0).samples).mean(0) - mean) / std)
    for count, error in errors.items():
        assert error < 1.4 * count**-0.5, count
    assert plain > 5.0 * errors[2048]
