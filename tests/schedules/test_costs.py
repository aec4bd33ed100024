"""Costs of steps against direct computations, closed forms of Gaussian data, and figures that were measured elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scoresde import EDMSDE, VESDE, VPSDE, GaussianMixture, SubVPSDE
from scoresde.likelihood import variational_bound
from scoresde.samplers import DDIM, Ancestral, UniPC
from scoresde.schedules import analytic_costs, analytic_grids, bound_costs, decoder_costs, grid_cost, optimal_grids
from scoresde.score import AnalyticVariance, DenoisingErrors, denoising_errors
from scoresde.sde import CriticallyDampedLangevin

F64 = torch.float64
STD = 0.5
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(sigma_max=5.0), EDMSDE(sigma_max=5.0), VPSDE().discretize(50)]


def instants(sde, count=8):
    return torch.linspace(0.1 * sde.T, sde.T, count, dtype=F64)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("variance", ["upper", "lower", "optimal"])
def test_a_cost_is_a_divergence_of_two_gaussians(sde, variance):
    """By torch.distributions, from the posterior of the process: x_0 and its estimate differ by sqrt(e)."""
    times = instants(sde)
    e = torch.linspace(0.1, 0.3, 8, dtype=F64)
    costs = bound_costs(sde, DenoisingErrors(times, e, e), variance=variance)
    for j, i in ((1, 0), (5, 2), (7, 0), (7, 6)):
        s, t = times[i], times[j]
        zero, x_hat = torch.zeros(1, dtype=F64), e[j : j + 1].sqrt()
        q, std = sde.posterior(zero, zero, s, t)
        p, _ = sde.posterior(zero, x_hat, s, t)
        forward = sde.transition(s, t).level()
        r = {"upper": forward, "lower": std, "optimal": (std**2 + (p - q) ** 2).sqrt()}[variance]
        wanted = kl_divergence(Normal(q, std), Normal(p, r))
        assert float(costs[j, i]) == pytest.approx(float(wanted), rel=1e-7, abs=1e-12)
    assert bool(costs.triu().eq(math.inf)[torch.triu(torch.ones(8, 8)) > 0].all())


@pytest.mark.parametrize("variance", ["upper", "optimal"])
def test_the_cost_of_the_decoder_is_an_expected_log_density(variance):
    sde, e = VPSDE(), torch.linspace(0.1, 0.3, 8, dtype=F64)
    times = instants(sde)
    found = decoder_costs(sde, DenoisingErrors(times, e, e), variance=variance)
    r = sde.sigma(times) if variance == "upper" else e.sqrt()
    log_prob = Normal(torch.zeros(8, dtype=F64), r).log_prob(e.sqrt())  # quadratic in x_0 - x_hat
    torch.testing.assert_close(found, -log_prob, rtol=1e-12, atol=0.0)


def gaussian(sde, times, std=STD):
    errors = DenoisingErrors.of_gaussian(sde, times, std=std)
    alpha, prior = float(sde.alpha(times[-1])), float(sde.sigma(times[-1])) ** 2
    first = 0.5 * ((alpha * std) ** 2 + prior - 1.0 - math.log(prior))  # KL(q(x_T | x_0) || N(0, 1))
    return errors, first


@pytest.mark.parametrize("steps", [5, 10, 50, 200])
def test_the_bound_of_gaussian_data_with_the_optimal_variance_is_the_entropy(steps):
    """-E ln p(x_0) >= the entropy; equal but for the difference of q(x_T) and the prior, for every grid."""
    chain = VPSDE().discretize(200)
    times = chain.time(torch.arange(200))
    errors, prior = gaussian(chain, times)
    costs, decoder = bound_costs(chain, errors), decoder_costs(chain, errors)
    grid = times[torch.linspace(0, 200, steps + 1).round().long()[1:] - 1].flip(0)
    entropy = 0.5 * math.log(2 * math.pi * math.e * STD**2)
    bound = grid_cost(times, costs, grid, decoder=decoder) + prior
    assert -1e-12 < bound - entropy < 2e-9
    wrong = DenoisingErrors(times, errors.data_error * 1.01, errors.noise_square)
    assert (
        grid_cost(times, bound_costs(chain, wrong), grid, decoder=decoder_costs(chain, wrong)) + prior > entropy + 1e-4
    )


def test_best_grids_of_a_chain_of_200_instants():
    """Watson et al.'s dynamic programming for Gaussian data of standard deviation 1/2 and the forward variance."""
    chain = VPSDE().discretize(200)
    times = chain.time(torch.arange(200))
    errors, prior = gaussian(chain, times)
    costs, decoder = (f(chain, errors, variance="upper") for f in (bound_costs, decoder_costs))
    found = optimal_grids(times, costs, 20, decoder=decoder)
    uniform = {}
    for k in (5, 10, 20):
        grid = times[torch.linspace(0, 200, k + 1).round().long()[1:] - 1].flip(0)
        uniform[k] = grid_cost(times, costs, grid, decoder=decoder) + prior
        assert float(found.totals[k - 1]) + prior < uniform[k] - 0.02
    assert float(found.totals[9]) + prior == pytest.approx(0.772, abs=5e-4)  # an independent program has .772
    assert uniform[10] == pytest.approx(0.820, abs=5e-4)  # and .820


def test_costs_of_a_grid_sum_to_the_variational_bound():
    """The bound of each sample, by another program: their mean is that of the errors, within 4.5 standard errors."""
    sde, data = VPSDE(), GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), stds=torch.tensor([0.2, 0.4]))
    x, times = data.sample(2000, dtype=F64), torch.tensor([0.01, 0.1, 0.2, 0.3, 0.5, 1.0], dtype=F64)
    errors = denoising_errors(sde, data.score(sde), x, times)
    found = variational_bound(sde, data.score(sde), x, times, variance=AnalyticVariance.of(sde, errors))
    alpha, prior = float(sde.alpha(times[-1])), float(sde.sigma(times[-1])) ** 2
    first = 0.5 * (alpha**2 * float(x.square().mean()) + prior - 1.0 - math.log(prior))
    cost = grid_cost(times, bound_costs(sde, errors), times.flip(0), decoder=decoder_costs(sde, errors)) + first
    standard_error = float(found.log_prob.std()) / 2 / len(x) ** 0.5
    assert abs(cost + float(found.log_prob.mean()) / 2) < 4.5 * standard_error < 0.15


def test_analytic_costs_are_those_of_the_paper():
    """ln(1 - (1 - alpha_(t|s)) E ||score||^2 / d) / 2, with alpha_(t|s) = (alpha_t / alpha_s)^2 here."""
    sde = VPSDE()
    times = instants(sde)
    errors = DenoisingErrors.of_gaussian(sde, times, std=STD)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    score = 1.0 / (alpha**2 * STD**2 + sigma**2)  # E ||score||^2 / d
    for j, i in ((1, 0), (5, 2), (7, 0)):
        wanted = 0.5 * torch.log(1.0 - (1.0 - (alpha[j] / alpha[i]) ** 2) * score[j])
        assert float(analytic_costs(sde, errors)[j, i]) == pytest.approx(float(wanted), rel=1e-10)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_analytic_grids_are_those_of_the_bound_with_the_optimal_variance(sde):
    """For an exact score the two costs of a grid differ by a number that depends on its ends alone."""
    times = instants(sde, 12)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    gamma = sum(w * sigma**2 / (alpha**2 * c + sigma**2) for w, c in ((0.5, 0.01), (0.5, 1.0)))  # two variances
    errors = DenoisingErrors(times, (sigma / alpha) ** 2 * (1.0 - gamma), gamma)
    ours, theirs = optimal_grids(times, bound_costs(sde, errors), 11), analytic_grids(sde, errors, 11)
    ends = 2.0 * float(sde.log_noise(times[-1]) - sde.log_noise(times[0]))  # ln(sigma^2 / alpha^2)
    torch.testing.assert_close(ours.totals, theirs.totals + 0.5 * ends, rtol=0.0, atol=1e-9)
    for k in range(1, 12):
        assert torch.equal(ours.grid(k), theirs.grid(k))


def test_an_estimate_of_the_noise_above_one_counts_as_one():
    times = instants(VPSDE(), 3)
    one, more = (DenoisingErrors(times, torch.ones(3), torch.full((3,), g)) for g in (1.0, 1.3))
    assert torch.equal(analytic_costs(VPSDE(), one), analytic_costs(VPSDE(), more))
    assert bool(analytic_costs(VPSDE(), more)[2, :2].isfinite().all())


def test_found_grids_are_used_by_samplers():
    data = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), stds=torch.tensor(0.2))
    sde = VPSDE()
    times = torch.linspace(0.002, 1.0, 60, dtype=F64)
    errors = denoising_errors(sde, data.score(sde), data.sample(1000), times)
    grid = optimal_grids(times, bound_costs(sde, errors), 10).grid(10)
    for sampler in (DDIM(grid), Ancestral(grid), UniPC(grid)):
        result = sampler(sde, data.score(sde), (16, 2))
        assert torch.equal(result.times, grid) and result.samples.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: bound_costs(VPSDE(), e, variance="best"), "variance='best'"),
        (lambda e: decoder_costs(VPSDE(), e, variance="lower"), "variance='lower'"),
        (lambda e: bound_costs(VPSDE().discretize(30), e), "each instant of a chain once"),
        (
            lambda e: bound_costs(VPSDE(), DenoisingErrors(e.times - e.times[0], e.data_error, e.noise_square)),
            "sigma > 0",
        ),
        (lambda e: bound_costs(VPSDE(T=0.5), e), "times has times from 0.1 to 1"),
        (lambda e: analytic_grids(VPSDE(), e, 100), "at most 99"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call(DenoisingErrors.of_gaussian(VPSDE(), torch.linspace(0.1, 1.0, 100), std=STD))


def test_a_process_of_matrices_is_refused():
    errors = DenoisingErrors.of_gaussian(VPSDE(), torch.linspace(0.1, 1.0, 3))
    for function in (bound_costs, decoder_costs, analytic_costs):
        with pytest.raises(TypeError):
            function(CriticallyDampedLangevin(), errors)
