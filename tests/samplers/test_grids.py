"""Time grids: their equations, their ends, and the default of the exponential integrators."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from scoresde.samplers import DEIS, EDM, DPMSolverPlusPlus, ProbabilityFlowODE, UniPC, grids
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.exponential import (
    AdamsBashforth,
    DPMSolverSingleStep,
    ExponentialMultistep,
    ExponentialRungeKutta,
)
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, SubVPSDE
from scoresde.solvers import RungeKutta
from tests.samplers.orders import mixture, slope

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 50.0), "langevin": CriticallyDampedLangevin()}


@pytest.mark.covering
@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("grid", [grids.focused, grids.quadratic, grids.karras, grids.log_noise, grids.uniform])
def test_a_grid_decreases_from_T_to_t_min(name, grid):
    sde = SDES[name]
    for steps in (1, 2, 9, 50):
        times = grid(sde, steps, t_min=2e-3)
        assert times.dtype == torch.float64
        assert len(times) == steps + 1
        assert (float(times[0]), float(times[-1])) == (sde.T, 2e-3)
        assert bool((times.diff() < 0).all())


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_every_step_of_focused_has_the_same_integral_of_the_density(name):
    sde, given = SDES[name], {"level": 0.5, "width": 1.5, "floor": 0.2}
    u = sde.log_noise(grids.focused(sde, 6, **given)).tolist()
    parts = [
        quad(lambda v: 1.0 / math.cosh((v - math.log(0.5)) / 1.5) + 0.2, low, high, epsabs=1e-12)[0]
        for high, low in pairwise(u)
    ]
    assert parts == pytest.approx([parts[0]] * 6, rel=1e-7)


def test_steps_are_shortest_at_the_level():
    sde = VPSDE()
    u = sde.log_noise(grids.focused(sde, 40, level=0.37))
    shortest = int(u.diff().abs().argmin())
    assert u[shortest] > math.log(0.37) > u[shortest + 1]
    assert float(u.diff().abs().max()) > 3.0 * float(u.diff().abs().min())


def test_quadratic_is_even_in_the_root_of_time():
    times = grids.quadratic(VPSDE(), 4, t_min=0.04)
    assert times.tolist() == pytest.approx([1.0, 0.64, 0.36, 0.16, 0.04])


@pytest.mark.parametrize(
    "make",
    [UniPC, DPMSolverPlusPlus, DEIS, AdamsBashforth, DPMSolverSingleStep, ExponentialRungeKutta, ExponentialMultistep],
)
def test_the_default_grid_is_focused(make):
    sde = VPSDE()
    assert torch.equal(make(7).discretization.times(sde), grids.focused(sde, 7))
    assert torch.equal(make(ExactTransitions(7, grids.karras)).discretization.times(sde), grids.karras(sde, 7))
    assert torch.equal(EDM(7).discretization.times(sde), grids.karras(sde, 7))


def test_unipc_has_a_lower_order_where_steps_are_few():
    assert [UniPC(n).order for n in (1, 9, 14, 15, 30)] == [2, 2, 2, 3, 3]
    assert UniPC(torch.linspace(1.0, 0.01, 6)).order == 2
    assert UniPC(20, grid=grids.karras).order == 3
    assert UniPC(5, 3).order == 3


@pytest.mark.parametrize(("order", "least"), [(2, 1.85), (3, 2.7)])
def test_the_order_holds_on_the_default_grid(order, least):
    """Errors of DPM-Solver++ over 16 to 81 steps, against the flow solved at 1e-11."""
    sde, shape = VPSDE(), (16, 2)
    score, grid = mixture().score(sde), partial(grids.focused, t_min=0.02)
    start = sde.prior_sample(shape, seed=3, dtype=torch.float64)

    def end(sampler):
        return sampler(sde, score, shape, start=start).state

    exact = end(ProbabilityFlowODE(RungeKutta(rtol=1e-11, atol=1e-11), t_min=0.02, denoise=False))
    counts = [16, 24, 36, 54, 81]
    errors = [
        float((end(DPMSolverPlusPlus(n, order, denoise=False, grid=grid)) - exact).square().mean().sqrt())
        for n in counts
    ]
    assert slope(errors, counts) > least


def test_refusals():
    for name in ("level", "width", "floor"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            grids.focused(VPSDE(), 5, **{name: 0.0})
    with pytest.raises(ValueError, match="t_min=0"):
        grids.focused(VPSDE(), 5, t_min=0.0)
    with pytest.raises(ValueError, match="steps=0"):
        grids.quadratic(VPSDE(), 0)
