"""The fixed grid: its order before and after the score's correction, samples that do not know each other, failures, grids.

Reference: SciPy's eighth-order method at 1e-9 with the exact divergence, which shares nothing with it but the process.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde import GaussianMixture, log_likelihood
from scoresde.likelihood import (
    Exact,
    FlowGrid,
    Hadamard,
    Hutchinson,
    HutchPlusPlus,
    Multistep,
    fit_grid,
    path,
    standard_grid,
)
from scoresde.likelihood.grid import allot, grid_from
from scoresde.sde import (
    VESDE,
    VPSDE,
    BlurringSDE,
    CriticallyDampedLangevin,
    LinearInterpolantSDE,
    NonlinearSDE,
    Shifted,
    SubVPSDE,
)
from scoresde.solvers import RungeKutta, ScipyODE, SolverError

F64 = torch.float64
LAW = GaussianMixture(torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64), torch.tensor([0.3, 0.2]))
X = LAW.sample(6, seed=1, dtype=F64)
MU = torch.tensor([0.5, -0.4], dtype=F64)
PROCESSES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.01, 100.0),
    "cld": CriticallyDampedLangevin(),
    "blur": BlurringSDE((2,), blur=1.0),
    "shifted": Shifted(VPSDE(), MU),
    "interpolant": LinearInterpolantSDE(),
}
NODES = {"cld": (64, 96, 128, 192, 256)}  # its clock is three times as long
_REFERENCE = {}
_RIGHT = {}


def reference(name):
    if name not in _REFERENCE:
        sde = PROCESSES[name]
        solver = ScipyODE("DOP853", 1e-9, 1e-9)
        _REFERENCE[name] = log_likelihood(sde, LAW.score(sde), X, solver=solver, divergence=Exact()).log_prob
    return _REFERENCE[name]


def errors(name, nodes):
    """Root mean square over the samples, in nats, for each number of nodes."""
    sde = PROCESSES[name]
    found = [log_likelihood(sde, LAW.score(sde), X, solver=Multistep(nodes=n), divergence=Exact()) for n in nodes]
    return [float((f.log_prob - reference(name)).square().mean().sqrt()) for f in found]


def right_errors(name):
    """``errors`` at ``nodes_of(name)`` without a planted error, computed once."""
    if name not in _RIGHT:
        _RIGHT[name] = errors(name, nodes_of(name))
    return _RIGHT[name]


def order(nodes, found):
    """Slope of the least-squares line through (ln nodes, -ln error)."""
    x, y = torch.tensor(nodes, dtype=F64).log(), -torch.tensor(found, dtype=F64).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def nodes_of(name):
    return NODES.get(name, (32, 48, 64, 96, 128))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n not in ("vp", "ve") else n for n in PROCESSES]
)
def test_order_four_with_the_score_s_correction(name, worst):
    """At least 3.5 over a factor of four in nodes; where the cubics are not yet in their element it falls faster."""
    nodes, found = nodes_of(name), right_errors(name)
    worst(f"multistep with {nodes[-1]} nodes against SciPy at 1e-9, nats, {name}", found[-1])
    assert order(nodes, found) > 3.5, found
    assert found[-1] < 5e-4


LONG = [pytest.param(name, marks=pytest.mark.long) for name in PROCESSES if name != "vp"]


@pytest.mark.parametrize("name", ["vp", *LONG])
def test_order_three_without_it(name, monkeypatch):
    """Step 1 alone is Adams-Moulton's third order, and the correction is what takes the error down from there. The latent has
    the jumps in it either way, and under Langevin diffusion that is a good part of the correction."""
    nodes = (256, 384, 512, 768, 1024) if name == "cld" else (64, 96, 128, 192, 256)
    monkeypatch.setattr(path, "_dot", lambda a, b: torch.zeros(len(a), dtype=F64))
    found = errors(name, nodes)
    monkeypatch.undo()
    assert order(nodes, found) == pytest.approx(3.0, abs=0.5), found
    assert errors(name, nodes[-1:])[0] < (0.25 if name == "cld" else 0.15) * found[-1]


def sign_flipped(monkeypatch):
    dot = path._dot
    monkeypatch.setattr(path, "_dot", lambda a, b: -dot(a, b))


def gaussian_trace_dropped(monkeypatch):
    points = path.white_path

    def without_trace(*args):
        found = points(*args)
        return replace(found, gaussian_trace=0.0 * found.gaussian_trace)

    monkeypatch.setattr(path, "white_path", without_trace)


def corrector_of_lower_order(monkeypatch):
    """The state goes on from the predicted place in place of the corrected one."""
    adams = path.adams

    def lower(u, order):
        predictors, _ = adams(u, order)
        return predictors, [torch.cat((p, p.new_zeros(1))) for p in predictors]

    monkeypatch.setattr(path, "adams", lower)
    monkeypatch.setattr(path, "_dot", lambda a, b: torch.zeros(len(a), dtype=F64))


@pytest.mark.parametrize("plant", [sign_flipped, gaussian_trace_dropped])
def test_a_planted_error_is_seen(plant, monkeypatch):
    nodes, right = nodes_of("vp"), right_errors("vp")
    plant(monkeypatch)
    found = errors("vp", nodes)
    assert order(nodes, found) < 3.5 or found[-1] > 5e-4
    assert found[-1] > 10 * right[-1]


def test_a_corrector_that_is_left_out_is_seen(monkeypatch):
    nodes = (64, 96, 128, 192, 256)
    corrector_of_lower_order(monkeypatch)
    assert order(nodes, errors("vp", nodes)) < 2.5


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
def test_a_sample_does_not_know_its_batch(name, divergence):
    sde = PROCESSES[name]
    whole = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(16), divergence=divergence, seed=3)
    alone = log_likelihood(sde, LAW.score(sde), X[4:5], solver=Multistep(16), divergence=divergence, seed=3, first=4)
    for field in ("log_prob", "solver_error", "latent", "prior_log_prob"):
        assert torch.allclose(getattr(whole, field)[4:5], getattr(alone, field), rtol=1e-10, atol=1e-10)


class Counted:
    """Calls of the score, and its samples."""

    def __init__(self, score, forward=False):
        self.score, self.calls, self.samples = score, 0, []

    def __call__(self, x, t):
        self.calls += 1
        self.samples.append(len(x))
        return self.score(x, t)


@pytest.mark.parametrize("divergence", [Exact(), Hadamard(count=3), HutchPlusPlus(count=6)], ids=repr)
def test_evaluations_are_counted(divergence, monkeypatch):
    score, rows = Counted(LAW.score(PROCESSES["vp"])), 0
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
    """A sharp and a smooth sample: only the former is done again, and the work is the sum of what was done."""
    sde = PROCESSES["vp"]
    coarse = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(32), divergence=Exact())
    bits = coarse.solver_error / (2 * math.log(2.0))
    tolerance = float(bits.sort().values[2:4].mean())
    score = Counted(LAW.score(sde))
    found = log_likelihood(sde, score, X, solver=Multistep(32, tolerance=tolerance), divergence=Exact())
    again = bits > tolerance
    assert 0 < int(again.sum()) < 6
    assert torch.equal(found.log_prob[~again], coarse.log_prob[~again])
    assert score.samples[:32] == [6] * 32
    assert score.samples[32:96] == [int(again.sum())] * 64
    assert found.nfe == len(score.samples)
    assert float((found.solver_error / (2 * math.log(2.0))).max()) <= tolerance
    finer = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(64), divergence=Exact())
    assert torch.allclose(found.log_prob[again], finer.log_prob[again], rtol=1e-10, atol=1e-10)
    capped = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(32, tolerance=1e-12, max_nodes=100))
    assert capped.nfe == 32 + 64


class Broken:
    """LAW's score, not finite at sample ``which`` of the batch at times in (low, high)."""

    def __init__(self, which, low, high=1.0):
        self.score, self.which, self.low, self.high = LAW.score(PROCESSES["vp"]), which, low, high

    def __call__(self, x, t):
        hit = torch.zeros(len(x), dtype=torch.bool)
        hit[[w for w in self.which if w < len(x)]] = True
        broken = hit & (t > self.low) & (t < self.high)
        return torch.where(broken[:, None], math.inf, self.score(x, t))


@pytest.mark.parametrize("divergence", [Exact(), Hadamard(count=2), HutchPlusPlus(count=3)], ids=repr)
def test_a_score_that_is_not_finite_costs_one_sample(divergence):
    sde = PROCESSES["vp"]
    with pytest.warns(RuntimeWarning, match=r"not finite at t=0\.[3-5]\d* for batch positions \[2\].*NaN") as caught:
        found = log_likelihood(sde, Broken([2], 0.3), X, solver=Multistep(32), divergence=divergence)
    assert caught[0].filename == __file__
    clean = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(32), divergence=divergence)
    others = [0, 1, 3, 4, 5]
    assert found.failed.tolist() == [i == 2 for i in range(6)]
    assert bool(found.log_prob[2].isnan())
    assert torch.equal(found.log_prob[others], clean.log_prob[others])
    assert torch.equal(found.trace_error[others], clean.trace_error[others])


def test_samples_that_fail_only_when_done_again_leave_the_others_alone():
    """The score breaks between the nodes of the first pass: all that are done again fail, and the rest are as they were."""
    sde = PROCESSES["vp"]
    times = sde.time_of_log_spread(standard_grid(sde, 1e-5).nodes(32))
    score = LAW.score(sde)

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
    with pytest.warns(RuntimeWarning, match=r"RungeKutta.* could not go on for batch positions \[2\]"):
        found = log_likelihood(PROCESSES["vp"], Broken([2], 0.5), X, solver=RungeKutta(), divergence=Exact())
    assert found.failed.tolist() == [i == 2 for i in range(6)]
    assert bool(found.log_prob[2].isnan())
    assert bool(found.log_prob[[0, 1, 3]].isfinite().all())


def test_float32_scores_are_summed_in_float64():
    sde = PROCESSES["vp"]
    wide = log_likelihood(sde, LAW.score(sde), X, solver=Multistep(48), divergence=Exact())
    narrow = log_likelihood(sde, LAW.score(sde), X.float(), solver=Multistep(48), divergence=Exact())
    assert narrow.log_prob.dtype == F64
    assert narrow.latent.dtype == torch.float32
    assert torch.allclose(narrow.log_prob, wide.log_prob, atol=2e-4)


class TestRefusals:
    def test_a_process_without_kernels(self):
        sde = NonlinearSDE(PROCESSES["vp"].drift, PROCESSES["vp"].diffusion)
        with pytest.raises(TypeError, match="no closed-form kernel, which Multistep needs: give solver=ScipyODE"):
            log_likelihood(sde, lambda x, t: -x, torch.ones(2, 2), solver=Multistep())

    def test_another_t_min_than_the_grid_s(self):
        grid = standard_grid(PROCESSES["vp"], 1e-3)
        with pytest.raises(ValueError, match=r"t_min=1e-05 is not the grid's 0\.001"):
            log_likelihood(PROCESSES["vp"], LAW.score(PROCESSES["vp"]), X, solver=Multistep(grid=grid))

    def test_another_process_than_the_grid_s(self):
        grid = standard_grid(PROCESSES["subvp"], 1e-5)
        with pytest.raises(ValueError, match=r"the grid runs from u=.*: make a grid for this process"):
            log_likelihood(PROCESSES["vp"], LAW.score(PROCESSES["vp"]), X, solver=Multistep(grid=grid))

    def test_a_start_without_noise(self):
        with pytest.raises(ValueError, match=r"t_min=0\.0 is not allowed: .*no noise there"):
            log_likelihood(PROCESSES["vp"], LAW.score(PROCESSES["vp"]), X, t_min=0.0)

    @pytest.mark.parametrize(
        "options", [{"nodes": 3}, {"nodes": 4.0}, {"nodes": 64, "max_nodes": 32}, {"tolerance": 0.0}], ids=str
    )
    def test_parameters_are_named(self, options):
        name = list(options)[-1]
        with pytest.raises(ValueError, match=f"{name}="):
            Multistep(**options)

    def test_no_graph_unless_it_is_asked_for(self):
        """A graph that follows x through some of the steps would give a gradient, and a wrong one."""
        x = X.clone().requires_grad_(True)
        for solver in (Multistep(16), RungeKutta(), ScipyODE()):
            found = log_likelihood(PROCESSES["vp"], LAW.score(PROCESSES["vp"]), x, solver=solver)
            assert not found.log_prob.requires_grad

    def test_gradients_through_an_adaptive_solver(self):
        with pytest.raises(ValueError, match="keeps no graph: differentiable=True needs Multistep"):
            log_likelihood(PROCESSES["vp"], LAW.score(PROCESSES["vp"]), X, solver=ScipyODE(), differentiable=True)


class TestGrids:
    SDE = PROCESSES["vp"]

    @classmethod
    @cache
    def text(cls):
        """A fitted grid's JSON, made once."""
        return cls().fitted().to_json()

    def fitted(self, **options):
        return fit_grid(self.SDE, LAW.score(self.SDE), X, fine=60, **options)

    def test_round_trip_as_text(self):
        for grid in (standard_grid(self.SDE, 1e-5), self.fitted()):
            assert FlowGrid.from_json(grid.to_json()) == grid
        assert "pilot" in self.fitted().summary and repr(self.fitted()).startswith("FlowGrid(t_min=1e-05, u=(")
        assert self.fitted() == self.fitted()

    @pytest.mark.parametrize(
        "damage", ["cut", "null", "list", "missing", "falling", "nan", "short", "share", "negative"]
    )
    def test_damaged_text_is_refused(self, damage):
        text = self.text()
        fields = json.loads(text)
        if damage == "missing":
            del fields["share"]
        elif damage == "falling":
            fields["u"][3] = fields["u"][5]
        elif damage == "nan":
            fields["spread"][3] = math.nan
        elif damage == "short":
            fields["spread"] = fields["spread"][:-1]
        elif damage == "share":
            fields["share"][-1] = 0.9999
        elif damage == "negative":
            fields["spread"][0] = -1.0
        plain = {"cut": text[:-30], "null": "null", "list": "[1, 2]"}
        with pytest.raises(ValueError, match=r"FlowGrid|u=|spread|share"):
            FlowGrid.from_json(plain.get(damage, json.dumps(fields)))

    def test_nodes_rise_between_the_ends(self):
        for grid in (standard_grid(self.SDE, 1e-5), self.fitted()):
            for count in (4, 5, 64):
                u = grid.nodes(count)
                assert len(u) == count
                assert bool((u.diff() > 0).all())
                assert (float(u[0]), float(u[-1])) == (grid.u[0], grid.u[-1])

    def test_a_fitted_grid_beats_the_standard_one(self):
        """At equal nodes, on samples that it did not see."""
        x = LAW.sample(12, seed=8, dtype=F64)
        score = LAW.score(self.SDE)
        exact = log_likelihood(self.SDE, score, x, solver=Multistep(512), divergence=Exact()).log_prob
        grid = fit_grid(self.SDE, score, LAW.sample(24, seed=9, dtype=F64), fine=120)
        error = {
            name: float(
                (log_likelihood(self.SDE, score, x, solver=Multistep(32, g), divergence=Exact()).log_prob - exact).std()
            )
            for name, g in {"fitted": grid, "standard": None}.items()
        }
        assert error["fitted"] < error["standard"]

    @pytest.mark.parametrize("divergence", [Hadamard(count=3), HutchPlusPlus(count=6), Hutchinson(count=2, fixed=True)])
    def test_probes_of_a_fitted_grid(self, divergence):
        """As many as were asked for, in all; what cannot be shared out is the same at every node."""
        grid = self.fitted()
        found = log_likelihood(self.SDE, LAW.score(self.SDE), X, solver=Multistep(32, grid), divergence=divergence)
        assert found.vjps == 32 * divergence.products
        assert bool(found.standard_error.isfinite().all())

    def test_more_probes_where_their_spread_is_larger(self):
        grid = self.fitted()
        u = grid.nodes(32)
        weights = torch.ones(32, dtype=F64)
        counts = grid.allotment(u, weights, 8)
        spread = torch.from_numpy(np.interp(u.numpy(), grid.u, grid.spread))
        assert sum(counts) == 32 * 8
        assert min(counts) >= 1
        assert counts[int(spread.argmax())] == max(counts) > min(counts)

    def test_a_gaussian_s_own_score_has_nothing_to_learn_from(self):
        """No bend and no spread: nodes and probes are even, not undefined."""
        u = torch.linspace(-7.0, 5.0, 60, dtype=F64)
        grid = grid_from(1e-5, u, torch.zeros(58, dtype=F64), torch.zeros(60, dtype=F64), 0.5, 0.5)
        steps = grid.nodes(9).diff()
        assert torch.allclose(steps, steps.mean())
        assert grid.allotment(grid.nodes(9), torch.ones(9, dtype=F64), 3) == [3] * 9
        fitted = fit_grid(self.SDE, lambda x, t: -x, X, fine=40)
        assert sum(fitted.allotment(fitted.nodes(8), torch.ones(8, dtype=F64), 3)) == 24

    def test_a_score_that_breaks_makes_no_grid(self):
        with pytest.raises(SolverError, match="no grid is made"):
            fit_grid(self.SDE, Broken([1], 0.5), X, fine=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 1e30), min_size=1, max_size=40), st.integers(1, 9))
def test_allot(wanted, mean):
    """The mean is kept, nobody goes without, and who wants more does not get less, to rounding."""
    wanted = torch.tensor(wanted, dtype=F64)
    found = torch.tensor(allot(wanted, mean), dtype=F64)
    assert int(found.sum()) == mean * len(wanted)
    assert int(found.min()) >= 1
    ranked = found[wanted.argsort()]
    assert bool((ranked.diff() >= -1).all())


def test_allot_is_proportional():
    assert allot(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=F64), 3) == [1, 2, 3, 6]
    assert allot(torch.tensor([0.0, 0.0, 10.0, 40.0], dtype=F64), 3) == [1, 1, 2, 8]
    assert allot(torch.zeros(3, dtype=F64), 4) == [4, 4, 4]
