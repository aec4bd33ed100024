"""Multistep on single samples: independence of the batch, counted evaluations, tolerance, precision, failures, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import log_likelihood
from scoresde.likelihood import Exact, Hadamard, Hutchinson, HutchPlusPlus, Multistep, standard_grid
from scoresde.sde import NonlinearSDE
from scoresde.solvers import RungeKutta, ScipyODE, SolverError
from tests.likelihood.common import DISTRIBUTION, F64, PROCESSES, Broken, X


@pytest.mark.parametrize(
    ("name", "divergence"),
    [
        ("vp", Exact()),
        ("vp", Hutchinson()),
        ("vp", HutchPlusPlus(count=3)),
        ("shifted", Hadamard()),
        ("blur", Hadamard(count=2)),
        ("cld", Hadamard(count=2)),
    ],
    ids=repr,
)
def test_a_sample_does_not_depend_on_its_batch(name, divergence):
    sde = PROCESSES[name]
    whole = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(16), divergence=divergence, seed=3)
    alone = log_likelihood(
        sde, DISTRIBUTION.score(sde), X[4:5], solver=Multistep(16), divergence=divergence, seed=3, first=4
    )
    for field in ("log_prob", "solver_error", "latent", "prior_log_prob"):
        assert torch.allclose(getattr(whole, field)[4:5], getattr(alone, field), rtol=1e-10, atol=1e-10)


class Counted:
    """Counts the calls of the score and its samples."""

    def __init__(self, score, forward=False):
        self.score, self.calls, self.samples = score, 0, []

    def __call__(self, x, t):
        self.calls += 1
        self.samples.append(len(x))
        return self.score(x, t)


@pytest.mark.parametrize("divergence", [Exact(), Hadamard(count=3), HutchPlusPlus(count=6)], ids=repr)
def test_evaluations_are_counted(divergence, monkeypatch):
    score, rows = Counted(DISTRIBUTION.score(PROCESSES["vp"])), 0
    quadratic = type(divergence)._quadratic

    def counting(product, probes):
        nonlocal rows
        rows += len(probes)
        return quadratic(product, probes)

    monkeypatch.setattr(type(divergence), "_quadratic", staticmethod(counting))
    found = log_likelihood(PROCESSES["vp"], score, X, solver=Multistep(20), divergence=divergence)
    assert found.nfe == score.calls == 20
    sketches = 20 * 2 if isinstance(divergence, HutchPlusPlus) else 0
    assert found.vjps == rows + sketches == 20 * (2 if divergence.exact else divergence.products)
    forward = Counted(smooth_score)  # every product of forward mode passes through the score
    divergence = Hutchinson(count=2, forward=True)
    found = log_likelihood(PROCESSES["vp"], forward, X, solver=Multistep(20), divergence=divergence)
    assert (found.nfe, found.vjps) == (20, 40)
    assert forward.calls == found.nfe + found.vjps


def smooth_score(x, t):
    return -x / (1.0 + 0.1 * x**2)


def test_the_tolerance_is_met_by_doubling_for_each_sample_that_needs_it():
    """Of a sharp and a smooth sample only the sharp one is computed again. The work is the sum of both passes."""
    sde = PROCESSES["vp"]
    coarse = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(32), divergence=Exact())
    bits = coarse.solver_error / (2 * math.log(2.0))
    tolerance = float(bits.sort().values[2:4].mean())
    score = Counted(DISTRIBUTION.score(sde))
    found = log_likelihood(sde, score, X, solver=Multistep(32, tolerance=tolerance), divergence=Exact())
    again = bits > tolerance
    assert 0 < int(again.sum()) < 6
    assert torch.equal(found.log_prob[~again], coarse.log_prob[~again])
    assert score.samples[:32] == [6] * 32
    assert score.samples[32:96] == [int(again.sum())] * 64
    assert found.nfe == len(score.samples)
    assert float((found.solver_error / (2 * math.log(2.0))).max()) <= tolerance
    finer = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(64), divergence=Exact())
    assert torch.allclose(found.log_prob[again], finer.log_prob[again], rtol=1e-10, atol=1e-10)
    capped = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(32, tolerance=1e-12, max_nodes=100))
    assert capped.nfe == 32 + 64


@pytest.mark.parametrize("divergence", [Exact(), Hadamard(count=2), HutchPlusPlus(count=3)], ids=repr)
def test_a_score_that_is_not_finite_costs_one_sample(divergence):
    sde = PROCESSES["vp"]
    with pytest.warns(RuntimeWarning, match=r"not finite at t=0\.[3-5]\d* for batch positions \[2\].*NaN") as caught:
        found = log_likelihood(sde, Broken([2], 0.3), X, solver=Multistep(32), divergence=divergence)
    assert caught[0].filename == __file__
    clean = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(32), divergence=divergence)
    others = [0, 1, 3, 4, 5]
    assert found.failed.tolist() == [i == 2 for i in range(6)]
    assert bool(found.log_prob[2].isnan())
    assert torch.equal(found.log_prob[others], clean.log_prob[others])
    assert torch.equal(found.trace_error[others], clean.trace_error[others])


def test_samples_that_fail_when_refined_do_not_affect_the_others():
    """The score is not finite between the nodes of the first pass: all refined samples fail, and the others are unchanged."""
    sde = PROCESSES["vp"]
    times = sde.time_of_log_spread(standard_grid(sde, 1e-5).nodes(32))
    score = DISTRIBUTION.score(sde)

    def between(x, t):
        inside = (t > times[20] + 1e-9) & (t < times[21] - 1e-9)
        return torch.where(inside[:, None], math.nan, score(x, t))

    coarse = log_likelihood(sde, between, X, solver=Multistep(32), divergence=Exact())
    tolerance = float(coarse.solver_error.sort().values[2:4].mean()) / (2 * math.log(2.0))
    with pytest.warns(RuntimeWarning, match="not finite"):
        found = log_likelihood(sde, between, X, solver=Multistep(32, tolerance=tolerance), divergence=Exact())
    again = coarse.solver_error > tolerance * 2 * math.log(2.0)
    assert torch.equal(found.failed, again)
    assert torch.equal(found.log_prob[~again], coarse.log_prob[~again])


def test_all_fail():
    with pytest.raises(SolverError, match=r"not finite at t=.* for batch positions \[0, 1, 2, 3, 4, 5\]"):
        log_likelihood(PROCESSES["vp"], Broken(range(6), 0.5), X)


def test_runge_kutta_warns_too():
    with pytest.warns(RuntimeWarning, match=r"RungeKutta.* failed for batch positions \[2\]"):
        found = log_likelihood(
            PROCESSES["vp"], Broken([2], 0.5), X, solver=RungeKutta(rtol=1e-3, atol=1e-3), divergence=Exact()
        )
    assert found.failed.tolist() == [i == 2 for i in range(6)]
    assert bool(found.log_prob[2].isnan())
    assert bool(found.log_prob[[0, 1, 3]].isfinite().all())


def test_float32_scores_are_summed_in_float64():
    sde = PROCESSES["vp"]
    wide = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(48), divergence=Exact())
    narrow = log_likelihood(sde, DISTRIBUTION.score(sde), X.float(), solver=Multistep(48), divergence=Exact())
    assert narrow.log_prob.dtype == F64
    assert narrow.latent.dtype == torch.float32
    assert torch.allclose(narrow.log_prob, wide.log_prob, atol=2e-4)


class TestRefusals:
    def test_a_process_without_kernels(self):
        sde = NonlinearSDE(PROCESSES["vp"].drift, PROCESSES["vp"].diffusion)
        with pytest.raises(TypeError, match="no closed-form kernel: give solver=ScipyODE"):
            log_likelihood(sde, lambda x, t: -x, torch.ones(2, 2), solver=Multistep())

    def test_another_t_min_than_the_grid_s(self):
        grid = standard_grid(PROCESSES["vp"], 1e-3)
        with pytest.raises(ValueError, match=r"t_min=1e-05 differs from the grid.s t_min=0\.001"):
            log_likelihood(PROCESSES["vp"], DISTRIBUTION.score(PROCESSES["vp"]), X, solver=Multistep(grid=grid))

    def test_another_process_than_the_grid_s(self):
        grid = standard_grid(PROCESSES["subvp"], 1e-5)
        with pytest.raises(ValueError, match=r"the grid runs from u=.*: make a grid for this process"):
            log_likelihood(PROCESSES["vp"], DISTRIBUTION.score(PROCESSES["vp"]), X, solver=Multistep(grid=grid))

    def test_a_start_without_noise(self):
        with pytest.raises(ValueError, match=r"t_min=0\.0 is not allowed: .*no noise there"):
            log_likelihood(PROCESSES["vp"], DISTRIBUTION.score(PROCESSES["vp"]), X, t_min=0.0)

    @pytest.mark.parametrize(
        "options", [{"nodes": 3}, {"nodes": 4.0}, {"nodes": 64, "max_nodes": 32}, {"tolerance": 0.0}], ids=str
    )
    def test_parameters_are_named(self, options):
        name = list(options)[-1]
        with pytest.raises(ValueError, match=f"{name}="):
            Multistep(**options)

    def test_no_graph_unless_requested(self):
        """A graph to x through only some of the steps would give a wrong gradient."""
        x = X.clone().requires_grad_(True)
        for solver in (Multistep(16), RungeKutta(), ScipyODE()):
            found = log_likelihood(PROCESSES["vp"], DISTRIBUTION.score(PROCESSES["vp"]), x, solver=solver)
            assert not found.log_prob.requires_grad

    def test_gradients_through_an_adaptive_solver(self):
        with pytest.raises(ValueError, match="does not support differentiable=True: give solver=Multistep"):
            log_likelihood(
                PROCESSES["vp"], DISTRIBUTION.score(PROCESSES["vp"]), X, solver=ScipyODE(), differentiable=True
            )
