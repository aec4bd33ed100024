"""The stated error of ``Multistep`` against known errors, on grids that fit the data and grids that do not."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import GaussianMixture, log_likelihood
from scoresde.likelihood import (
    DEFAULT_TOLERANCE,
    Exact,
    FlowGrid,
    Hadamard,
    Hutchinson,
    Multistep,
    fit_grid,
    standard_grid,
)
from scoresde.likelihood.estimate import between_orders, quadrature_square
from scoresde.likelihood.grid import grid_from, mean_and_spread
from scoresde.sde import VESDE, VPSDE, BlurringSDE, SubVPSDE
from scoresde.solvers.quadrature import Increments

F64 = torch.float64
PROCESSES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 50.0)}
ANGLE = torch.arange(6, dtype=F64) * math.tau / 6
THIN = torch.tensor([0.5, 1e-3, 1e-3, 1e-3], dtype=F64)
DISTRIBUTIONS = {
    "shifted": GaussianMixture(torch.full((1, 2), 10.0, dtype=F64), 0.3),
    "thin": GaussianMixture(torch.zeros(1, 4, dtype=F64), THIN[None]),
    "ring": GaussianMixture(3.0 * torch.stack((ANGLE.cos(), ANGLE.sin()), 1), 0.05),
    "wide": GaussianMixture(torch.zeros(1, 2, dtype=F64), 20.0),
}


def points(name):
    """12 samples; every third one is twice as far from the mean."""
    x, mean = DISTRIBUTIONS[name].sample(12, seed=1, dtype=F64), DISTRIBUTIONS[name].means.mean(0)
    return torch.where(torch.arange(12)[:, None] % 3 == 0, mean + 2.0 * (x - mean), x)


_TRUTH = {}


def truth(process, name):
    """log p of the flow: that of the distribution at t_min, with the prior in place of p_T at the latent of a fine grid."""
    if (process, name) not in _TRUTH:
        sde, distribution, x = PROCESSES[process], DISTRIBUTIONS[name], points(name)
        start, end = torch.tensor([1e-5, sde.T], dtype=F64)
        latent = log_likelihood(
            sde, distribution.score(sde), x, solver=Multistep(200, even(sde)), divergence=Hadamard()
        ).latent
        mismatch = distribution.log_prob_at(sde, latent, end) - sde.prior_log_prob(latent)
        _TRUTH[process, name] = distribution.log_prob_at(sde, x, start) - mismatch
    return _TRUTH[process, name]


def even(sde):
    """A user's grid, with nodes equally spaced in u."""
    u = tuple(sde.log_spread(torch.tensor([1e-5, sde.T], dtype=F64)).tolist())
    return FlowGrid(1e-5, u, (0.0, 1.0), (), 0.5)


def ratios(process, name, solver, divergence, seed=3):
    """|error| / stated error of every point; 0 if the error is below that of the reference."""
    sde = PROCESSES[process]
    found = log_likelihood(
        sde, DISTRIBUTIONS[name].score(sde), points(name), solver=solver, divergence=divergence, seed=seed
    )
    error = (found.log_prob - truth(process, name)).abs()
    return torch.where(error < 2e-5, 0.0, error / found.standard_error)


@pytest.mark.covering
@pytest.mark.parametrize("process", [pytest.param(p, marks=pytest.mark.long) if p == "subvp" else p for p in PROCESSES])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("nodes", [8, 16, 48])
def test_the_stated_error_is_honest_on_any_grid(process, name, nodes):
    """``benchmarks/likelihood_honesty.py`` is the long version."""
    sde = PROCESSES[process]
    found = [
        ratios(process, name, Multistep(nodes, grid), divergence)
        for grid in (None, even(sde))
        for divergence in ((Exact(), Hadamard()) if nodes == 16 else (Exact(),))
    ]
    ratio = torch.cat(found)
    assert float((ratio <= 2.0).double().mean()) >= 0.9
    assert float(ratio.max()) <= 10.0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_fitted_grid_is_honest_and_better_than_the_standard_one(name):
    sde, distribution = PROCESSES["vp"], DISTRIBUTIONS[name]
    grid = fit_grid(sde, distribution.score(sde), distribution.sample(8, seed=9, dtype=F64), fine=100)
    found = {}
    for key, solver in (("fitted", Multistep(24, grid)), ("standard", Multistep(24))):
        ratio = ratios("vp", name, solver, Exact())
        assert float((ratio <= 2.0).double().mean()) >= 0.9 and float(ratio.max()) <= 10.0
        result = log_likelihood(sde, distribution.score(sde), points(name), solver=solver, divergence=Exact())
        inside = torch.arange(12) % 3 != 0
        found[key] = float((result.log_prob - truth("vp", name))[inside].square().mean().sqrt())
    assert found["fitted"] < found["standard"]


def test_the_default_refines_single_points():
    """For nine narrow modes and 64 nodes, one sample in 200 is wrong by .37 nats. Its stated error is large, so it is refined."""
    sde, axis = SubVPSDE(), torch.linspace(-0.9, 0.9, 3, dtype=F64)
    distribution = GaussianMixture(torch.cartesian_prod(axis, axis), 0.03)
    x, score = distribution.sample(200, seed=1, dtype=F64)[10:17], distribution.score(sde)
    once, found = (log_likelihood(sde, score, x, solver=solver) for solver in (Multistep(), None))
    start, end = torch.tensor([1e-5, 1.0], dtype=F64)
    exact = (
        distribution.log_prob_at(sde, x, start)
        - distribution.log_prob_at(sde, found.latent, end)
        + found.prior_log_prob
    )
    bound = DEFAULT_TOLERANCE * 2 * math.log(2.0)
    again = once.solver_error > bound
    assert bool(again[4]) and int(again.sum()) < len(x)
    assert torch.equal(found.log_prob[~again], once.log_prob[~again])
    assert abs(float(once.log_prob[4] - exact[4])) > 0.3
    assert float((found.log_prob - exact).abs().max()) < bound


def test_the_prior_in_place_of_p_t():
    """At T the correction uses the gradient of the prior, because the prior may differ from p_T.

    Under VE, data around 10 has p_T around 10, and the prior is around 0. With the score in place of the prior's gradient,
    the error at 64 nodes was .009 nats for all points, seven times the stated error.
    """
    sde, distribution, x = PROCESSES["ve"], DISTRIBUTIONS["shifted"], points("shifted")
    for solver, most in ((Multistep(64), 3e-3), (Multistep(64, tolerance=1e-4), 1e-4)):
        found = log_likelihood(sde, distribution.score(sde), x, solver=solver, divergence=Exact())
        error = (found.log_prob - truth("ve", "shifted")).abs()
        assert float(error.max()) < most
        assert float((error / found.solver_error).max()) < 2.0


def test_honest_under_blurring():
    """Every mode has its own rate on a common clock. With 8 nodes the divergence is not resolved."""
    sde, distribution = BlurringSDE((8,), blur=3.0), GaussianMixture(torch.zeros(1, 8, dtype=F64), 0.2)
    x = distribution.sample(6, seed=1, dtype=F64)

    def run(nodes):
        return log_likelihood(sde, distribution.score(sde), x, solver=Multistep(nodes), divergence=Exact(), t_min=1e-3)

    exact = run(256).log_prob
    for nodes in (8, 12, 32):
        found = run(nodes)
        assert float(((found.log_prob - exact).abs() / found.solver_error).max()) < 3.0


def test_noise_of_the_probes_is_no_integration_error():
    """With one probe ``solver_error`` remains near that of the exact trace, because ``trace_error`` states the noise."""
    sde, turn = PROCESSES["vp"], torch.linalg.qr(torch.arange(64.0, dtype=F64).sin().reshape(8, 8))[0]
    covariance = turn @ torch.linspace(0.1, 1.0, 8, dtype=F64).square().diag() @ turn.mT
    distribution = GaussianMixture(torch.zeros(1, 8), covariances=(0.5 * (covariance + covariance.mT))[None])
    x = distribution.sample(8, seed=1, dtype=F64)
    exact, noisy, fixed = (
        log_likelihood(sde, distribution.score(sde), x, solver=Multistep(48), divergence=divergence)
        for divergence in (Exact(), Hutchinson(count=2), Hutchinson(count=2, fixed=True))
    )
    assert float(noisy.trace_error.min()) > 3.0 * float(exact.solver_error.max())
    assert float(noisy.solver_error.max()) < 1.5 * float(exact.solver_error.max())
    assert bool(fixed.solver_error.isfinite().all())


class TestQuadrature:
    u = torch.tensor([0.0, 0.3, 0.7, 1.4, 1.9, 2.0, 3.0], dtype=F64)

    def test_a_quadratic_is_resolved(self):
        g = (self.u**2 - self.u)[:, None]
        assert float(quadrature_square(self.u, 4, g, None).max()) < 1e-28

    def test_a_cubic_s_difference_between_orders(self):
        """For u^3, the error of the quadratic through three of four nodes is the integral of their product."""
        weights, first = between_orders(self.u, 4), Increments.of(self.u, 4).first
        g = self.u**3
        k = 2  # the interval (.7, 1.4): the quadratic is through .7, 1.4 and 1.9
        found = float(weights[k] @ g[first[k] : first[k] + 4])
        a, b, c = 0.7, 1.4, 1.9
        poly = torch.tensor([0.25, -(a + b + c) / 3.0, (a * b + a * c + b * c) / 2.0, -a * b * c], dtype=F64)
        powers = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=F64)
        assert found == pytest.approx(float((poly * (b**powers - a**powers)).sum()), rel=1e-10)

    def test_noise_is_subtracted(self):
        noise = torch.full((7, 1), 4.0, dtype=F64)
        weights = between_orders(self.u, 4)
        expected = float(weights.square().sum() * 4.0)
        torch.manual_seed(0)
        g = 2.0 * torch.randn(7, 4000, dtype=F64)
        whole = quadrature_square(self.u, 4, g, None)
        assert float(whole.mean()) == pytest.approx(expected, rel=0.1)
        assert float(quadrature_square(self.u, 4, g, noise).mean()) < 0.3 * expected

    @pytest.mark.parametrize("nodes", [2, 3, 4])
    def test_few_nodes(self, nodes):
        assert between_orders(self.u[:nodes], 4).shape == (nodes - 1, nodes)


class TestMeanAndSpread:
    def test_each_coordinate_has_its_mean(self):
        x = torch.tensor([10.0, -3.0], dtype=F64) + torch.tensor([-1.0, 1.0] * 5, dtype=F64)[:, None]
        center, spread = mean_and_spread(x)
        assert center == pytest.approx((10.0, -3.0))
        assert spread == pytest.approx(math.sqrt(10 / 9))

    def test_few_examples_share_one_mean(self):
        center, spread = mean_and_spread(torch.tensor([[1.0, 3.0]], dtype=F64))
        assert center == (2.0,) and spread == pytest.approx(math.sqrt(2.0))

    @pytest.mark.parametrize("value", [0.0, 7.0])
    def test_examples_that_do_not_differ(self, value):
        _, spread = mean_and_spread(torch.full((9, 2), value))
        assert spread == (value or 1.0)

    def test_a_grid_for_other_data_is_refused(self):
        grid = standard_grid(VPSDE(), 1e-5, center=(1.0, 2.0, 3.0))
        with pytest.raises(ValueError, match="center has 3 numbers, but the event has 2 coordinates"):
            log_likelihood(VPSDE(), lambda x, t: -x, torch.ones(1, 2), solver=Multistep(grid=grid))

    def test_the_center_is_in_the_text_and_optional(self):
        grid = standard_grid(VPSDE(), 1e-5, 0.3, (1.0, 2.0))
        assert FlowGrid.from_json(grid.to_json()) == grid
        old = grid.to_json().replace(', "center": [1.0, 2.0]', "")
        assert FlowGrid.from_json(old) == standard_grid(VPSDE(), 1e-5, 0.3)

    def test_likelihood_does_not_change_with_the_place_of_the_data(self):
        """A fitted grid moves with the data: under VE, log p at x + 100 for moved data equals log p at x."""
        sde, found = VESDE(0.01, 50.0), []
        for place in (0.0, 100.0):
            distribution = GaussianMixture(torch.tensor([[place, place], [place + 1.0, place]], dtype=F64), 0.2)
            x = distribution.sample(8, seed=1, dtype=F64)
            grid = fit_grid(sde, distribution.score(sde), x, fine=60)
            result = log_likelihood(sde, distribution.score(sde), x, solver=Multistep(32, grid), divergence=Exact())
            found.append(result.log_prob - result.prior_log_prob)
        assert torch.allclose(*found, atol=1e-6)


def test_a_grid_is_made_where_the_trace_hardly_varies():
    """A spread below the range of float32 is replaced by the smallest spread that counts."""
    u = torch.linspace(-5.0, 3.0, 200, dtype=torch.float64)
    spread = torch.cat((torch.full((100,), 1e-60, dtype=torch.float64), torch.ones(100, dtype=torch.float64)))
    grid = grid_from(1e-3, u, torch.ones(198, dtype=torch.float64), spread, 0.5, 0.1)
    assert min(grid.spread) == 1e-30 and max(grid.spread) > 0.9
