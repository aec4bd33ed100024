"""Distributions of t: their draws and densities; no distribution changes the objective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from scoresde.losses import ChainTimes, DenoisingScoreMatching, TimeDistribution, UniformLogNoise, UniformTime
from scoresde.sde import VESDE, VPSDE, SubVPSDE
from tests.losses.common import F32, F64, SDES, C, U, gaussian_score, normal

DISTRIBUTIONS = [
    UniformTime(),
    UniformTime(1e-3),
    UniformLogNoise(),
    UniformLogNoise(0.02, 3.0),
    UniformLogNoise(t_min=1e-3),
]


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_a_distribution_s_density_is_the_slope_of_its_times(distribution, sde):
    """times(u) inverts the distribution function: dt / du = (T - t_min) / density, by central differences."""
    u, h = torch.linspace(0.05, 0.95, 19, dtype=F64), 1e-5
    slope = (distribution.times(sde, u + h) - distribution.times(sde, u - h)) / (2 * h)
    assert torch.allclose(
        slope, (sde.T - distribution.t_min) / distribution.density(sde, distribution.times(sde, u)), rtol=1e-6
    )
    ends = distribution.times(sde, torch.tensor([1e-12, 1 - 1e-12], dtype=F64))
    assert float(ends[0]) >= distribution.t_min * (1 - 1e-9) and float(ends[1]) <= 1.0


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_log_noise_is_uniform_in_its_range(sde):
    distribution, u = UniformLogNoise(0.02, 3.0), torch.linspace(0.01, 0.99, 9, dtype=F64)
    t = distribution.times(sde, u)
    ratio = (sde.sigma(t) / sde.alpha(t)).log()
    assert torch.allclose(ratio, math.log(0.02) + u * math.log(150.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_log_noise_gives_every_example_the_same_likelihood_weight(sde):
    distribution = UniformLogNoise()
    t = distribution.times(sde, U[:50])
    weight = (sde.diffusion(t) / sde.sigma(t)) ** 2 / distribution.density(sde, t)
    assert torch.allclose(weight, weight[0].expand(50), rtol=1e-9)


@dataclass(frozen=True)
class Early(TimeDistribution):
    """t_min + (T - t_min) u^2: a custom distribution."""

    t_min: float

    def times(self, sde, u):
        return self.t_min + (sde.T - self.t_min) * u**2

    def density(self, sde, t):
        return 0.5 / ((t - self.t_min) / (sde.T - self.t_min)).sqrt()


@dataclass(frozen=True)
class Forgets(TimeDistribution):
    """Planted error: a distribution that omits its density."""

    distribution: TimeDistribution

    def times(self, sde, u):
        return self.distribution.times(sde, u)

    def density(self, sde, t):
        return torch.ones_like(t)


@pytest.mark.parametrize("weighting", ["variance", "likelihood"])
@pytest.mark.parametrize(
    ("sde", "distribution"),
    [
        (VPSDE(), UniformLogNoise(1e-6, 1e6, t_min=0.01)),
        (SubVPSDE(), UniformLogNoise(1e-6, 1e6, t_min=0.01)),
        (VESDE(), Early(0.01)),  # VE's ln sigma is linear in t: there UniformLogNoise is UniformTime
    ],
    ids=repr,
)
def test_the_distributions_estimate_the_same_integral(sde, distribution, weighting):
    """Two means of 20000 losses differ by less than 5 standard errors of their difference (by chance 6e-7).

    Both distributions cover all that the process reaches from t_min = 0.01 on: the integrals are over the same times.
    """
    x0, z, score = C * normal((40000, 1), "x_0"), normal((40000, 1), "z"), gaussian_score(sde, factor=0.7)

    def estimate(times, rows):
        loss = DenoisingScoreMatching(sde, weighting, times=times)
        found = loss(score, x0[rows], t=times.times(sde, U[rows]), noise=z[rows])
        return float(found.mean()), float(found.std()) / len(found) ** 0.5

    (a, error_a), (b, error_b) = (
        estimate(UniformTime(0.01), slice(0, 20000)),
        estimate(distribution, slice(20000, 40000)),
    )
    assert abs(a - b) < 5 * math.hypot(error_a, error_b)
    assert max(error_a, error_b) < 0.05 * a  # a comparison that could not see 25 % would be none
    c, error_c = estimate(Forgets(distribution), slice(20000, 40000))
    assert abs(a - c) > 5 * math.hypot(error_a, error_c)


def test_log_noise_under_ve_is_uniform_time():
    distribution = UniformLogNoise(1e-6, 1e6, t_min=0.01)
    assert torch.allclose(distribution.times(VESDE(), U), UniformTime(0.01).times(VESDE(), U), rtol=1e-12)
    assert torch.allclose(distribution.density(VESDE(), U), torch.ones_like(U), rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_chain_times_are_the_instants_with_equal_probability(steps):
    chain = VPSDE(0.1, 1.5).discretize(steps)
    u = (torch.arange(steps, dtype=F64) + 0.5) / steps
    t = ChainTimes().times(chain, u)
    assert torch.equal(chain.index(t), torch.arange(steps)) and torch.equal(t, chain.time(torch.arange(steps)))
    assert torch.equal(ChainTimes().density(chain, t), torch.ones(steps, dtype=F64))
    # the last float32 below 1, and the ends of every part
    for dtype in (F32, F64):
        last = torch.tensor([1.0], dtype=dtype) - torch.finfo(dtype).eps / 2
        assert int(chain.index(ChainTimes().times(chain, last))) == steps - 1
    parts = torch.cat([u - 0.499 / steps, u + 0.499 / steps])
    assert torch.equal(chain.index(ChainTimes().times(chain, parts)), torch.arange(steps).repeat(2))


def test_a_chain_s_loss_is_its_own_simple_loss():
    """E over the N instants of || z_theta - z ||^2 at the chain's own alpha_i, sigma_i (Ho et al. 2020, eq. 14)."""
    chain = VPSDE().discretize(1000)
    loss = DenoisingScoreMatching(chain)
    assert isinstance(loss.times, ChainTimes)
    x0, index = normal((6, 2)), torch.tensor([0, 1, 10, 400, 998, 999])
    z = normal((6, 2), "z")
    found = loss(lambda x, t: 0.1 * x, x0, t=chain.time(index), noise=z)
    alpha, sigma = chain.alphas[index, None], chain.sigmas[index, None]
    wanted = ((sigma * 0.1 * (alpha * x0 + sigma * z) + z) ** 2).mean(1)
    assert torch.allclose(found, wanted, rtol=1e-12)
    drawn = chain.index(loss.draw(x0.repeat(300, 1)).t)
    assert len(drawn.unique()) > 500
