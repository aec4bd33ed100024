"""Sums and chains of draws, the schedules of the papers, and scores of noised distributions."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from scipy import stats

from scoresde.noise import NoiseSource
from scoresde.noise_distributions import (
    CenteredGamma,
    GammaSchedule,
    Gaussian,
    GeneralizedNormal,
    MixtureSum,
    NoiseSum,
    NormalMixture,
    chain_weights,
    overlapping_scales,
)
from scoresde.noise_distributions.base import numbered
from scoresde.samplers import AnnealedLangevin
from scoresde.samplers.base import CountedScore
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Instant, Interval
from tests.noise_distributions_common import (
    BETAS,
    F64,
    FALSE_ALARM,
    HEAVY,
    SKEWED,
    Mixed,
    draw,
    gamma,
    ks,
    moments_pvalue,
)

# sums of steps


def test_the_weights_of_a_chain_follow_its_recursion():
    betas = torch.linspace(0.01, 0.4, 12, dtype=F64)
    b = torch.zeros(0, dtype=F64)
    for t, beta in enumerate(betas, start=1):
        b = torch.cat(((1 - beta).sqrt() * b, beta.sqrt()[None]))
        torch.testing.assert_close(chain_weights(betas, t), b, rtol=1e-13, atol=0)
    together = chain_weights(betas, torch.tensor([3, 12, 1]))
    assert together.shape == (3, 12)
    for row, t in zip(together, (3, 12, 1), strict=True):
        torch.testing.assert_close(row[:t], chain_weights(betas, t))
        assert (row[t:] == 0).all()
    assert float(together[1].square().sum()) == pytest.approx(1 - float((1 - betas).prod()), rel=1e-13)


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
    with pytest.raises(ValueError, match="only for equal weights"):
        step.sum_of_steps(B)


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


X0 = 0.7


def iterate(betas, noise, count, event_shape, seed):
    """x_t = sqrt(1 - beta_t) x_{t-1} + noise(t) from x_0 = .7, with different keys for each step."""
    x = torch.full((count, *event_shape), X0, dtype=F64)
    for t, beta in enumerate(betas, start=1):
        x = (1 - beta).sqrt() * x + draw(noise(t), count, event_shape, seed=seed, step=t, purpose="chain")
    return x


@pytest.mark.parametrize("theta_0", [1e-3, 0.5, 2.0])
def test_the_gamma_schedule_is_that_of_the_paper(theta_0):
    """The identity kbar_T theta_T^2 = 1 - abar_T, and kbar_t as the sum of the k_t, up to rounding."""
    schedule = GammaSchedule(BETAS, theta_0)
    abar = (1 - BETAS).cumprod(0)
    torch.testing.assert_close(schedule.alpha_bar, abar, rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.k, BETAS / (abar * theta_0**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.theta, abar.sqrt() * theta_0, rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.k_bar, schedule.k.cumsum(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.k_bar * schedule.theta**2, 1 - abar, rtol=1e-13, atol=0)
    t = torch.tensor([1, 40, 100])
    torch.testing.assert_close(schedule.step(t).variance, BETAS[t - 1], rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.total(t).variance, 1 - abar[t - 1], rtol=1e-13, atol=0)
    assert float(schedule.total(40).k) == float(schedule.k_bar[39])
    assert float(CenteredGamma.standard(schedule.total(40).k).variance) == pytest.approx(1)


@pytest.mark.long
def test_a_gamma_chain_of_100_steps_agrees_with_its_closed_form():
    """KS p > .01 (false alarm 1 % each), mean and variance within .01 (false alarm .2 % and 3 % with 1e5 chains).
    theta_0 = 2 leaves a skewness of .3 at the end, so a Gaussian would fail."""
    schedule = GammaSchedule(BETAS, 2.0)
    x = iterate(BETAS, schedule.step, 1000, (100,), seed=3)
    abar = float(schedule.alpha_bar[-1])
    end = (x - math.sqrt(abar) * X0) / math.sqrt(1 - abar)
    closed = schedule.total(100)
    direct = draw(closed, 1000, (100,), seed=5) / math.sqrt(1 - abar)
    reference = stats.gamma(float(closed.k), loc=-math.sqrt(float(closed.k)), scale=float(closed.k) ** -0.5)
    assert ks(end, reference) > 0.01 and ks(direct, reference) > 0.01
    assert stats.ks_2samp(end.flatten().numpy(), direct.flatten().numpy()).pvalue > 0.01
    assert abs(float(x.mean()) - math.sqrt(abar) * X0) < 0.01
    assert float(x.var()) == pytest.approx(1 - abar, rel=0.01)
    # planted: the Gaussian; the shape of the last step alone at the right variance
    assert ks(draw(Gaussian(), 1000, (100,)), reference) < FALSE_ALARM
    assert ks(draw(CenteredGamma.standard(schedule.k[-1]), 1000, (100,)), reference) < FALSE_ALARM


def test_a_mixture_chain_agrees_with_its_direct_draw():
    """Ten steps: KS p > .01 (false alarm 1 %), mean within .005, variance within 1 %, excess kurtosis within 5 %."""
    betas = torch.full((10,), 0.1, dtype=F64)
    abar = 0.9**10
    b = chain_weights(betas, 10)
    noise = HEAVY.sum_of_steps(b)
    x = iterate(betas, lambda t: NoiseSum(HEAVY, betas[t - 1 : t].sqrt()), 1000, (1000,), seed=4) - math.sqrt(abar) * X0
    direct = draw(noise, 1000, (1000,))
    assert stats.ks_2samp(x.flatten().numpy(), direct.flatten().numpy()).pvalue > 0.01
    assert float(noise.variance) == pytest.approx(1 - abar, rel=1e-13)
    expected = float(noise.excess_kurtosis)
    assert expected > 1  # far from that of a Gaussian
    for values in (x, direct):
        assert abs(float(values.mean())) < 0.005
        assert float(values.var()) == pytest.approx(1 - abar, rel=0.01)
        assert float(stats.kurtosis(values.flatten().numpy())) == pytest.approx(expected, rel=0.05)
    # planted: the same variance from three steps
    wrong = HEAVY.sum_of_steps(torch.full((3,), math.sqrt((1 - abar) / 3)))
    assert stats.ks_2samp(x.flatten().numpy(), draw(wrong, 1000, (1000,)).flatten().numpy()).pvalue < FALSE_ALARM
    assert float(wrong.excess_kurtosis) != pytest.approx(expected, rel=0.05)


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


def laplace_score(x, scale, means, std, weights):
    """Of the mixture of N(m, std^2) plus Laplace noise of standard deviation ``scale``, in closed form: with b = scale
    / sqrt 2,

    p = sum_m w / (2 b) [A + B],   p' = sum_m w / (2 b^2) [B - A],   A, B = exp(std^2 / 2 b^2 -+ d / b) Phi(+-d / std -
    std / b)
    """
    b = scale / math.sqrt(2)
    d = x - means
    above, below = (
        (
            weights.log() + std**2 / (2 * b**2) - side * d / b + torch.special.log_ndtr(side * d / std - std / b)
        ).logsumexp(1)
        for side in (1, -1)
    )
    return (torch.sigmoid(below - above) - torch.sigmoid(above - below))[:, None] / b


def test_a_minor_mode_keeps_its_weight():
    """A 95/5 mixture, annealed Langevin with its exact score under beta = 1; the minor weight within .02.

    2000 samples, a standard error of .005: ten other seeds gave .051 to .066. The remaining error arises
    when the modes separate.
    """
    means, std, weights = torch.tensor([-1.5, 1.5], dtype=F64), 0.3, torch.tensor([0.95, 0.05], dtype=F64)

    def minor(scales, steps):
        source, langevin = NoiseSource.of(0, 2000), AnnealedLangevin(snr=0.5)
        x = GeneralizedNormal(1.0, 5.0).sample(source, (1,), step=0, purpose="start", dtype=F64)
        for i, scale in enumerate(scales):
            at = Instant(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, torch.ones(len(x), dtype=F64), torch.ones((), dtype=F64))
            interval = Interval(i, at, at, h=0.0, a=1.0, std=0.0, level=float(scale))
            model = Model(CountedScore(lambda x, t, b=float(scale): laplace_score(x, b, means, std, weights)), None)
            for z in source.normal((steps, 1), step=i, purpose="langevin", dtype=F64).unbind(1):
                x = langevin.step(model, x, interval, z, None)[0]
        right = x > 0
        return float(right.double().mean()), float(x[~right].std())

    scales = overlapping_scales(1.0, 5.0, 0.05, (1,), overlap=0.9)
    found, spread = minor(scales, 60)
    assert abs(found - 0.05) < 0.02
    assert spread == pytest.approx(0.3, rel=0.05)
    # planted: only the smallest level; levels with little overlap
    assert minor(scales[-1:], 300)[0] > 0.4
    few = overlapping_scales(1.0, 5.0, 0.05, (1,), overlap=0.05)
    assert minor(few, 60)[0] > 0.3


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
