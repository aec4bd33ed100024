"""Geometric Brownian motion, log-normal at every time: paths, orders and the reverse process with state-dependent diffusion."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.likelihood import Exact, Hutchinson, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.samplers import ProbabilityFlowODE, ReverseSDESampler
from scoresde.sde import NonlinearSDE
from scoresde.solvers import ScipyODE, TorchSDE
from tests.sde.nonlinear import EVENTS, F64, MU, NU, LogNormal, geometric, normal, per_event


def score(x, t):
    return LogNormal(t).score(x)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_flow_carries_quantiles(by_hand, event):
    """x(t) = exp(m_t + sqrt(v_t) z), so the flow is x (m' + v' z / (2 sqrt v)). Without D, or with all of it, the test fails."""
    sde = geometric(divergence=(lambda x, t: 2 * NU**2 * x) if by_hand else None)
    t, z = torch.linspace(0.0, 1.0, 5, dtype=F64), normal((5, *event))
    distribution = LogNormal(t)
    x, v = distribution.at(z), per_event(distribution.moments()[1], z)
    wanted = x * (MU - 0.5 * NU**2 + 0.5 * NU**2 * z / v.sqrt())
    flow, d = sde.flow_drift(x, t, distribution.score(x)), sde.diffusion_divergence(x, t)
    assert flow.shape == x.shape and torch.allclose(flow, wanted, rtol=1e-12)
    assert torch.allclose(d, 2 * NU**2 * x, rtol=1e-13)
    for planted in (flow + 0.5 * d, flow - 0.5 * d):
        assert not torch.allclose(planted, wanted, rtol=0.1)
    # the reverse drift differs from the flow by half of the diffusion terms
    assert torch.allclose(sde.reverse_drift(x, t, distribution.score(x)), 2 * wanted - MU * x, rtol=1e-12)


def test_the_flow_sampler_keeps_the_distribution():
    """ProbabilityFlowODE from T to t_min maps each quantile to the same quantile, and the encoding inverts it."""
    sde, z = geometric((2,)), normal((6, 2))
    start, end = (LogNormal(torch.tensor(t, dtype=F64)).at(z) for t in (1.0, 0.1))
    sampler = ProbabilityFlowODE(ScipyODE(rtol=1e-8, atol=1e-8), t_min=0.1, denoise=False)
    found = sampler(sde, score, (6, 2), start=start).samples
    assert torch.allclose(found, end, rtol=1e-6)
    assert torch.allclose(sampler.encode(sde, score, end), start, rtol=1e-6)


@pytest.mark.parametrize("by_hand", [False, True])
def test_likelihood_with_a_diffusion_of_x(by_hand):
    """log p of the log-normal distribution at t_min. The divergence of the flow includes D, a second derivative of g."""
    sde, x = (
        geometric((2,), divergence=(lambda x, t: 2 * NU**2 * x) if by_hand else None),
        LogNormal(0.1).at(normal((6, 2))),
    )
    for divergence in (Exact(), Hutchinson(count=2)):  # random signs give the exact trace of a diagonal Jacobian
        found = log_likelihood(sde, score, x, t_min=0.1, divergence=divergence, tolerance=1e-8)
        assert torch.allclose(found.log_prob, LogNormal(0.1).log_prob(x), atol=1e-6)


def log_moments(draws, t):
    """Deviation of mean and variance of ln x from those of the log-normal distribution, in standard errors."""
    m, v = LogNormal(torch.tensor(t, dtype=F64)).moments()
    u = (draws.log() - m) / v.sqrt()
    return [float(u.mean()) * u.numel() ** 0.5, float((u**2).mean() - 1) * (u.numel() / 2) ** 0.5]


def euler_bias(steps):
    """Bias of ln x in standard deviations of the distribution. Euler's leading error is of order h in both moments."""
    return 2.0 * NU**2 / steps


def test_simulated_paths_are_log_normal():
    """Mean and variance of ln x_t, 20000 draws, 5 standard errors (a false alarm in 1.7e6 for each) beyond Euler's bias."""
    n, t = 20000, 0.7
    x0 = LogNormal(0.0).sample(n, dtype=F64)
    draws = geometric(steps=100).simulate(x0, torch.tensor(t, dtype=F64))
    assert max(map(abs, log_moments(draws, t))) < 5 + euler_bias(100) * n**0.5
    other = NonlinearSDE(lambda x, t: MU * x, lambda x, t: 1.1 * NU * x, steps=100)
    assert max(map(abs, log_moments(other.simulate(x0, torch.tensor(t, dtype=F64)), t))) > 10


REVERSE_STEPS = 100


def reverse_draws(sde, n, change=lambda drift, x, t: drift):
    """The reverse SDE from T = 1 to 0.1 by torchsde, optionally with a changed drift."""

    def drift(x, t):
        t = t.expand(len(x))
        return change(sde.reverse_drift(x, t, score(x, t)), x, t)

    def diffusion(x, t):
        return sde.apply_diffusion(torch.ones_like(x), t.expand(len(x)), x)

    start, noise = sde.prior_sample((n, 1), seed=3, dtype=F64), NoiseSource.of(3, n)
    with torch.no_grad():
        return TorchSDE("milstein").solve(drift, diffusion, start, 1.0, 0.1, 0.9 / REVERSE_STEPS, noise)


def test_the_reverse_process_keeps_the_distribution():
    """As above, 20000 samples of ln x_0.1. With half of D, or none, the test fails."""
    n, sde, allowed = 20000, geometric(), 5 + euler_bias(REVERSE_STEPS) * 20000**0.5
    assert max(map(abs, log_moments(reverse_draws(sde, n), 0.1))) < allowed
    for share in (0.5, 1.0):
        planted = reverse_draws(sde, n, lambda drift, x, t, k=share: drift + k * sde.diffusion_divergence(x, t))
        assert max(map(abs, log_moments(planted, 0.1))) > 3 * allowed


def test_the_reverse_sampler_keeps_the_distribution():
    n = 20000
    sampler = ReverseSDESampler(TorchSDE("milstein"), steps=REVERSE_STEPS, t_min=0.1, denoise=False)
    draws = sampler(geometric(), score, (n, 1), seed=3, dtype=F64).samples
    assert max(map(abs, log_moments(draws, 0.1))) < 5 + euler_bias(REVERSE_STEPS) * n**0.5


ORDERS = {"euler": 0.5, "milstein": 1.0, "srk": 1.5}


@pytest.mark.parametrize("method", ORDERS)
def test_forward_solves_have_their_strong_order(method):
    """Error against x_0 exp((MU - NU^2 / 2) t + NU w) on the same Brownian path, known from f = 0, g = 1. The times differ."""
    n, order = 2000, ORDERS[method]
    t, x0 = torch.linspace(0.5, 1.0, n, dtype=F64), torch.ones(n, 1, dtype=F64)
    sde = geometric(solver=TorchSDE(method))
    brownian = NonlinearSDE(lambda x, t: 0 * x, lambda t: torch.ones_like(t))

    def error(steps):
        w = brownian.simulate(0 * x0, t, steps=steps)
        exact = ((MU - 0.5 * NU**2) * t[:, None] + NU * w).exp()
        return float(((sde.simulate(x0, t, steps=steps) - exact) ** 2).mean().sqrt())

    found = math.log(error(16) / error(64), 4)
    assert order - 0.15 < found < order + 0.25
