"""Sums and chains of draws, the schedules of the papers, and scores of noised distributions."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.exact_noise_distributions import laplace_score
from scoresde.noise import NoiseSource
from scoresde.noise_distributions import (
    CenteredGamma,
    Gaussian,
    GeneralizedNormal,
    MixtureSum,
    NoiseSum,
    NormalMixture,
    overlapping_scales,
)
from scoresde.noise_distributions.base import numbered
from tests.noise_distributions_common import (
    F64,
    FALSE_ALARM,
    SKEWED,
    Mixed,
    draw,
    gamma,
    ks,
    moments_pvalue,
)

# sums of steps


B = torch.tensor([0.9, 0.5, 0.3], dtype=F64)


def test_gaussian_steps_sum_to_a_gaussian():
    noise = Gaussian(2.0).sum_of_steps(B)
    assert isinstance(noise, Gaussian) and float(noise.variance) == pytest.approx(4 * 1.15)
    per_sample = Gaussian(torch.tensor([1.0, 2.0])).sum_of_steps(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert per_sample.variance.tolist() == pytest.approx([2.0, 4.0])
    assert ks(draw(NoiseSum(Gaussian(2.0), B)), stats.norm(scale=math.sqrt(4 * 1.15))) > FALSE_ALARM


def test_gamma_steps_of_one_weight_sum_to_a_gamma():
    step = CenteredGamma(0.6, 1.2)
    noise = step.sum_of_steps(torch.full((5,), 0.5))
    assert isinstance(noise, CenteredGamma)
    reference = gamma(3.0, 0.6)[1]
    assert (float(noise.k), float(noise.theta)) == pytest.approx((3.0, 0.6))
    drawn = draw(NoiseSum(step, torch.full((5,), 0.5)))
    assert ks(drawn, reference) > FALSE_ALARM and ks(draw(noise), reference) > FALSE_ALARM
    assert ks(drawn, gamma(2.4, 0.6 * (3 / 2.4) ** 0.5)[1]) < FALSE_ALARM  # planted: a step forgotten, right variance
    ragged = step.sum_of_steps(torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.0, 0.0]]))
    assert ragged.k.tolist() == pytest.approx([1.8, 0.6]) and ragged.theta.tolist() == pytest.approx([0.6, 0.24])
    assert isinstance(step.sum_of_steps(B), NoiseSum)


def test_mixture_steps_sum_to_the_mixture_of_all_their_components():
    """By t indices and one normal number, by t draws, and in closed form: three steps of two components give eight normals."""
    parts = zip(SKEWED.weights, SKEWED.means, SKEWED.stds, strict=True)
    chosen = list(itertools.product(list(parts), repeat=3))
    b = B.tolist()
    scale = math.sqrt(1.15)
    expanded = NormalMixture(
        [math.prod(w for w, _, _ in c) for c in chosen],
        [sum(bi * m for bi, (_, m, _) in zip(b, c, strict=True)) / scale for c in chosen],
        [math.sqrt(sum((bi * s) ** 2 for bi, (_, _, s) in zip(b, c, strict=True))) / scale for c in chosen],
    )
    direct, stepped = SKEWED.sum_of_steps(B), NoiseSum(SKEWED, B)
    assert isinstance(direct, MixtureSum)
    for noise in (direct, stepped):
        assert float(noise.variance) == pytest.approx(1.15, rel=1e-12)
        assert float(noise.excess_kurtosis) == pytest.approx(float(expanded.excess_kurtosis), rel=1e-9)
        assert ks(draw(noise) / scale, Mixed(expanded)) > FALSE_ALARM
    # planted: one index for all steps
    one = SKEWED.sum_of_steps(torch.tensor([scale]))
    assert ks(draw(one) / scale, Mixed(expanded)) < FALSE_ALARM


@pytest.mark.parametrize("noise", [Gaussian(), GeneralizedNormal(1.0), CenteredGamma.standard(0.8), SKEWED])
def test_a_sum_per_sample(noise):
    """The sum of a row does not depend on the other rows."""
    gamma_steps = isinstance(noise, CenteredGamma)
    rows = torch.tensor([[0.3, 0.3, 0.3] if gamma_steps else [0.3, 0.4, 0.5], [0.2, 0.0, 0.0]])
    together = noise.sum_of_steps(rows)
    z = draw(together, 2, (4,))
    for i, row in enumerate(rows):
        assert torch.equal(draw(noise.sum_of_steps(row), 1, (4,), first=i)[0], z[i])
        assert float(together.variance[i]) == pytest.approx(float(noise.sum_of_steps(row).variance))


def test_the_keys_of_a_sums_steps_differ():
    assert len({zlib.crc32(numbered("noise", i).encode()) for i in range(10000)}) == 10000
    z = draw(NoiseSum(Gaussian(), torch.eye(200)), 200, (50,))  # row i is step i of sample i
    assert len(z.unique()) == z.numel()
    assert moments_pvalue(z, 1.0, 0.0) > FALSE_ALARM


def test_the_mean_target_is_the_score_of_the_noised_distribution():
    """x = x_0 + sigma n, x_0 of a 1-D mixture and n of Laplace. By quadrature, the mean of grad log p over a bin (a, b)
    is (p(b) - p(a)) / P(a < x < b), and E[score(n) / sigma | x in the bin] is the same within .05. 2e6 draws; the 16
    bins' standard errors are .0125 at most: false alarm 1e-3."""
    sigma, noise = 0.5, GeneralizedNormal(1.0)
    means, stds, weights = torch.tensor([-1.5, 1.0]), torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.7])
    source = NoiseSource.of(5, 2000)
    k = (source.uniform((1000,), step=0, purpose="k", dtype=F64) > 0.3).long()
    x0 = means[k] + stds[k] * source.normal((1000,), step=0, purpose="x0", dtype=F64)
    n = noise.sample(source, (1000,), step=0, purpose="n", dtype=F64)
    x, target = (x0 + sigma * n).flatten().numpy(), (noise.score(n) / sigma).flatten().numpy()
    # p on a fine grid: the mixture convolved with Laplace, by the trapezoidal rule over x_0
    grid = torch.linspace(-6, 6, 4001, dtype=F64)
    prior = sum(
        w * torch.exp(-0.5 * ((grid - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        for w, m, s in zip(weights, means, stds, strict=True)
    )
    edges = torch.linspace(-2.4, 2.2, 17, dtype=F64)
    inner = torch.linspace(-2.4, 2.2, 16 * 40 + 1, dtype=F64)
    density = noise.log_prob(((inner[:, None] - grid) / sigma).reshape(-1, 1)).exp().reshape(len(inner), -1) / sigma
    p = (density * prior).sum(1) * (grid[1] - grid[0])
    mass = torch.stack([torch.trapezoid(p[i : i + 41], inner[i : i + 41]) for i in range(0, 640, 40)])
    score = ((p[40::40] - p[:-40:40]) / mass).numpy()
    which = np.digitize(x, edges.numpy())
    count = np.bincount(which, minlength=18)[1:17]
    found = np.bincount(which, target, minlength=18)[1:17] / count
    assert (np.sqrt((8 - found**2) / count)).max() < 0.0125
    assert np.abs(found - score).max() < 0.05
    # planted: the Gaussian's target for Laplace's noise; alpha left out of the target
    for wrong in (-n / sigma, noise.score(n) * float(noise.alpha) / sigma):
        mean = np.bincount(which, wrong.flatten().numpy(), minlength=18)[1:17] / count
        assert np.abs(mean - score).max() > 0.1


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("event", [(1,), (4, 16), (3, 32, 32)])
@pytest.mark.parametrize("overlap", [0.1336, 0.5, 0.9])
def test_lengths_at_neighboring_levels_overlap(overlap, event, beta):
    """By quadrature of the smaller of scipy's two densities; with one level less the overlap is too small."""
    scales = overlapping_scales(beta, 10.0, 0.01, event, overlap)
    assert float(scales[0]) == 10.0 and float(scales[-1]) == pytest.approx(0.01)
    ratio = (scales[:-1] / scales[1:]).numpy()
    assert np.allclose(ratio, ratio[0], rtol=1e-12)

    def shared(r):
        near, far = (stats.gengamma(math.prod(event) / beta, beta, scale=s) for s in (1.0, r))
        y = np.linspace(math.log(near.ppf(1e-12)), math.log(far.isf(1e-12)), 100001)
        x = np.exp(y)
        return np.trapezoid(np.minimum(near.pdf(x), far.pdf(x)) * x, y)

    assert shared(ratio[0]) > overlap - 1e-6
    if len(scales) > 2:
        assert shared(1000.0 ** (1 / (len(scales) - 2))) < overlap


def test_in_many_dimensions_gaussian_levels_are_those_of_ncsnv2():
    """Its technique 2 in 3 x 32 x 32: half of the draws within three standard deviations, sqrt(2 d) (r - 1) = 3 r, levels of
    that ratio from 50 to 0.01."""
    levels = len(overlapping_scales(2.0, 50.0, 0.01, (3, 32, 32), 2 * stats.norm.cdf(-1.5)))
    r = 1 / (1 - 3 / math.sqrt(2 * 3072))
    assert abs(levels - math.log(5000) / math.log(r)) < 0.03 * levels


def test_the_score_of_the_minor_mode_is_that_of_a_quadrature():
    means, weights = torch.tensor([-1.5, 1.5], dtype=F64), torch.tensor([0.95, 0.05], dtype=F64)
    x = torch.linspace(-4, 4, 41, dtype=F64)[:, None]
    y = torch.linspace(-4.5, 4.5, 9001, dtype=F64)  # all kinks are grid points
    prior = (weights * torch.exp(-0.5 * ((y[:, None] - means) / 0.3) ** 2)).sum(1)

    def log_density(at, scale):
        kernel = GeneralizedNormal(1.0, scale).log_prob((at - y).reshape(-1, 1)).exp()
        return (kernel.reshape(len(at), -1) * prior).sum(1).log()

    for scale in (0.05, 0.5, 5.0):
        wanted = (log_density(x + 0.001, scale) - log_density(x - 0.001, scale)) / 0.002
        assert torch.allclose(laplace_score(x, scale, means, 0.3, weights)[:, 0], wanted, rtol=1e-3, atol=1e-3)
