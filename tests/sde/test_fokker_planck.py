"""Simulated paths of dx = -x^3 dt + dw compared with the Fokker-Planck equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from scoresde.sde import NonlinearSDE
from tests.params import some_long
from tests.sde import fokker_planck
from tests.sde.fokker_planck import GRID, WIDTH
from tests.sde.nonlinear import CUBIC


def chi_square(sde, t, n=65536):
    """Chi-squared of a histogram of x_t from two modes and the Fokker-Planck density; its limit for 1 false alarm in 1e6."""
    p = fokker_planck.density(t)
    draws = sde.simulate(fokker_planck.START.sample(n, seed=9), torch.tensor(t), seed=5)[:, 0].numpy()
    edges = GRID[::30] + 0.5 * WIDTH  # whole cells
    inside = np.add.reduceat(p, np.arange(1, len(GRID) - 1, 30)) * WIDTH
    expected, counts = n * inside[: len(edges) - 1], np.histogram(draws, edges)[0]
    kept = expected > 20
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    return statistic, chi2.isf(1e-6, kept.sum())


def test_the_fokker_planck_solution():
    """It conserves mass, has the initial and the stationary distribution as limits, and solves its equation."""
    start = fokker_planck.START.log_prob(torch.from_numpy(GRID)[:, None]).exp().numpy()
    rest = np.exp(-0.5 * GRID**4)
    assert np.allclose(fokker_planck.density(0.0), start, atol=1e-9)
    assert np.allclose(fokker_planck.density(50.0), rest / rest.sum() / WIDTH, atol=1e-6)
    p, h = fokker_planck.density(0.3), 1e-4
    assert p.sum() * WIDTH == pytest.approx(1.0, abs=1e-9)
    change = (fokker_planck.density(0.3 + h) - fokker_planck.density(0.3 - h)) / (2 * h)
    inside = slice(2, -2)
    flux = np.gradient(GRID**3 * p + 0.5 * np.gradient(p, GRID), GRID)
    assert np.allclose(change[inside], flux[inside], atol=1e-3 * np.abs(flux).max())


@pytest.mark.parametrize("t", some_long([0.1, 1.0], [0.1]))
def test_simulated_paths_follow_the_fokker_planck_equation(t):
    """1 false alarm in 1e6. The next test detects a drift of 1.1 x^3, or noise of 1.05 in place of 1."""
    statistic, critical = chi_square(NonlinearSDE(CUBIC.f, CUBIC.g, steps=200), t)
    assert statistic < critical


@pytest.mark.parametrize(("f", "g"), [pytest.param(1.1, 1.0, marks=pytest.mark.long), (1.0, 1.05)])
def test_the_histogram_sees_an_error(f, g):
    planted = NonlinearSDE(lambda x, t: -f * x**3, lambda t: torch.full_like(t, g), steps=200)
    statistic, critical = chi_square(planted, 1.0)
    assert statistic > critical
