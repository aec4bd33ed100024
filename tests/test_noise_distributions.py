"""Noise distributions: densities compared with quadrature, SciPy and mpmath, scores with autograd, samples by statistics.

A statistical test with FALSE_ALARM passes for another seed with probability 1 - 1e-6 or more. Tests with a published
bound (p > .01, within 1 %, within 5 %) state their false-alarm rate. Seeds are fixed, so a failure means that the code
has changed. Each test is shown to fail on a planted error.
"""

from __future__ import annotations

import math
import random

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import special, stats

import scoresde.noise
from scoresde.noise import NoiseSource
from scoresde.noise_distributions import (
    CenteredGamma,
    DensityNoise,
    Gaussian,
    GeneralizedNormal,
    MixtureSum,
    NoiseSum,
)
from scoresde.noise_distributions.gamma import LARGE, cube_start, draw_log_gamma, invert, log_gamma_quantile
from tests.noise_distributions_common import F64, FALSE_ALARM, HEAVY, SKEWED, Mixed, draw, gamma, ks, moments_pvalue
from tests.params import some_long


def generalized(beta, std=1.0):
    alpha = std * math.exp(0.5 * (special.gammaln(1 / beta) - special.gammaln(3 / beta)))
    return GeneralizedNormal(beta, std), stats.gennorm(beta, scale=alpha)


DISTRIBUTIONS = {
    "gaussian": (Gaussian(), stats.norm()),
    "gaussian .7": (Gaussian(0.7), stats.norm(scale=0.7)),
    "generalized .6": generalized(0.6),
    "laplace": generalized(1.0, 1.3),
    "generalized 2": generalized(2.0),
    "generalized 5": generalized(5.0),
    "gamma .4": gamma(0.4, 1.5),
    "gamma 1": gamma(1.0, 1.0),
    "gamma 7": gamma(7.0, 0.4),
    "gamma 300": gamma(300.0, 300.0**-0.5),
    "skewed mixture": (SKEWED, Mixed(SKEWED)),
    "heavy mixture": (HEAVY, Mixed(HEAVY)),
}


DRAWN_BY_OTHERS = (
    "gaussian .7",
    "generalized .6",
    "generalized 2",
    "generalized 5",
    "gamma 1",
    "gamma 300",
    "heavy mixture",
)
"""Distributions whose sampling code is tested by another one of ``DISTRIBUTIONS``."""

every_distribution = pytest.mark.parametrize("name", DISTRIBUTIONS)


# densities and scores


def nodes(noise):
    """Points and weights of the trapezoidal rule in y for n = edge + e^y, or n = -e^y and e^y."""
    y = torch.linspace(-100.0, 7.0, 60001, dtype=F64)
    width = y.exp() * (y[1] - y[0])
    if isinstance(noise, CenteredGamma):
        return y.exp() - noise.k * noise.theta, width
    return torch.cat((-y.exp(), y.exp())), torch.cat((width, width))


@every_distribution
def test_the_density_has_mass_1_mean_0_and_its_stated_moments(name):
    noise, _ = DISTRIBUTIONS[name]
    n, width = nodes(noise)
    p = width * noise.log_prob(n[:, None]).exp()
    inside = (
        p.isfinite() & noise.score(n[:, None])[:, 0].isfinite()
    )  # some nodes of a gamma distribution round to the edge
    p, n = p[inside], n[inside]
    lost = 1e-5 if name == "gamma .4" else 1e-10  # (1e-16)^.4 of the mass is within rounding of the edge
    assert float(p.sum()) == pytest.approx(1, abs=lost)
    assert float((p * n).sum()) == pytest.approx(0, abs=lost)
    assert float((p * n**2).sum()) == pytest.approx(float(noise.variance), abs=lost)
    kurtosis = float((p * n**4).sum()) / float(noise.variance) ** 2 - 3
    assert kurtosis == pytest.approx(float(noise.excess_kurtosis), abs=10 * lost, rel=1e-8)
    if (
        name != "gamma .4"
    ):  # the mean score is the jump of the density, which is 0 except for the exponential distribution
        mean_score = float((p * noise.score(n[:, None])[:, 0]).sum())
        assert mean_score == pytest.approx(-1 if name == "gamma 1" else 0, abs=1e-9)


@every_distribution
def test_the_density_agrees_with_scipy_and_the_score_is_its_derivative(name):
    noise, reference = DISTRIBUTIONS[name]
    z = draw(noise, 50, (3, 2)).requires_grad_()
    log_prob = noise.log_prob(z)
    assert log_prob.shape == (50,) and noise.score(z).shape == z.shape
    expected = reference.logpdf(z.detach().numpy()).sum((1, 2))
    np.testing.assert_allclose(log_prob.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    (slope,) = torch.autograd.grad(log_prob.sum(), z)
    torch.testing.assert_close(noise.score(z).detach(), slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [1e-3, 0.5, 19.0, 21.0, 1e3, 5e8, 1e12])
def test_a_gamma_density_agrees_with_mpmath_for_every_shape(k):
    """Large terms cancel for large k: the naive formula in float64 has an error of 1e-6 for k = 5e8."""
    noise = CenteredGamma.standard(k)
    with mp.workdps(60):
        theta = mp.mpf(noise.theta)
        for n in (-0.99 * min(1.0, k**0.5), -0.01 * min(1.0, k**0.5), 0.3, 2.5):

            def log_p(x):
                return (k - 1) * mp.log(x + k * theta) - (x + k * theta) / theta - mp.loggamma(k) - k * mp.log(theta)

            z = torch.tensor([n], dtype=F64)
            assert float(noise.log_prob(z)) == pytest.approx(float(log_p(mp.mpf(n))), rel=1e-9, abs=1e-9)
            assert float(noise.score(z)) == pytest.approx(float(mp.diff(log_p, mp.mpf(n))), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("beta", [0.05, 0.3, 3.7, 100.0])
def test_a_generalized_density_agrees_with_mpmath_for_every_power(beta):
    noise = GeneralizedNormal(beta)
    with mp.workdps(40):
        b = mp.mpf(beta)
        alpha = mp.sqrt(mp.gamma(1 / b) / mp.gamma(3 / b))
        for n in (-0.9, 1e-3, 0.4, 1.6):

            def log_p(x):
                return mp.log(b / (2 * alpha * mp.gamma(1 / b))) - (abs(x) / alpha) ** b

            z = torch.tensor([n], dtype=F64)
            assert float(noise.log_prob(z)) == pytest.approx(float(log_p(mp.mpf(n))), rel=1e-11, abs=1e-11)
            assert float(noise.score(z)) == pytest.approx(float(mp.diff(log_p, mp.mpf(n))), rel=1e-9)
        kurtosis = mp.gamma(5 / b) * mp.gamma(1 / b) / mp.gamma(3 / b) ** 2 - 3
        assert float(noise.excess_kurtosis) == pytest.approx(float(kurtosis), rel=1e-11)


def test_beta_2_is_the_gaussian():
    """Agreement with the Gaussian to 1e-10, at every scale."""
    z = 3 * draw(Gaussian(), 100, (5,))
    for std in (1.0, 0.01, torch.linspace(0.1, 5, 100)):
        one, other = GeneralizedNormal(2.0, std), Gaussian(std)
        torch.testing.assert_close(one.log_prob(z), other.log_prob(z), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(one.score(z), other.score(z), rtol=1e-10, atol=1e-10)


def test_a_gaussian_draw_is_the_keyed_normal():
    source = NoiseSource.of(3, 8)
    for dtype in (F64, torch.float32):
        found = Gaussian().sample(source, (4,), step=2, purpose="a", dtype=dtype)
        assert torch.equal(found, source.normal((4,), step=2, purpose="a", dtype=dtype))


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_generalized_score_at_0_is_0(beta):
    assert GeneralizedNormal(beta).score(torch.zeros(1, 3)).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(("k", "at_edge"), [(0.5, math.inf), (1.0, -math.log(2.0)), (3.0, -math.inf)])
def test_outside_the_support(k, at_edge):
    noise = CenteredGamma(k, 2.0)
    z = torch.tensor([-2 * k - 0.1, -2 * k, math.nan, 0.3], dtype=F64)
    log_prob = noise.log_prob(z)
    assert log_prob[0] == -math.inf and log_prob[2].isnan() and log_prob[3].isfinite()
    assert float(log_prob[1]) == pytest.approx(at_edge)
    assert noise.score(z).isnan().tolist() == [True, True, True, False]
    # one coordinate outside of the support makes the density of the event 0
    assert noise.log_prob(torch.tensor([[0.3, -9.0]], dtype=F64)).tolist() == [-math.inf]


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1e-3, 0.3, 1.0, 40.0])
def test_a_gamma_draw_lies_inside_the_support_of_its_dtype(k, dtype):
    """With rounding to nearest, half of the samples at the edge in float32 would be outside of the support."""
    noise = CenteredGamma(torch.linspace(k, 1.1 * k, 100), 0.7)
    z = draw(noise, 100, (300,), dtype=dtype)
    assert z.dtype == dtype
    wide = z.double()
    assert (wide > -noise.k.double()[:, None] * 0.7).all()
    assert noise.log_prob(wide).isfinite().all() and noise.score(wide).isfinite().all()


# draws


def on_a_device(a, v):
    """The computation of other devices, on the CPU."""
    return invert(a, v, cube_start(a, v))


@pytest.mark.parametrize("quantile", [log_gamma_quantile, on_a_device])
@pytest.mark.parametrize("a", [1.0, 1.3, 2.0, 5.0, 19.0, 21.0, 150.0, 3000.0])
def test_gamma_quantiles_solve_their_equation(a, quantile):
    """In standard deviations of ln G, for every possible v, 2^-65 to 1 - 2^-53, by mpmath. torch's P and Q have
    errors of 1e-9 from a = 20 on."""
    off = 2e-9 if quantile is on_a_device and a > 20 else 1e-13
    v = [2.0**-65, 1e-12, 1e-4, 0.03, 0.3, 0.499, 0.501, 0.7, 0.99, 1 - 1e-6, 1 - 2.0**-30, 1 - 2.0**-53]
    y = quantile(torch.tensor(a, dtype=F64), torch.tensor(v, dtype=F64))
    with mp.workdps(40):
        for vi, yi in zip(v, y.tolist(), strict=True):
            g = mp.exp(yi)
            residual = mp.gammainc(a, g, mp.inf, regularized=True) - mp.mpf(vi)
            density = mp.exp(a * mp.mpf(yi) - g - mp.loggamma(a))  # of ln G
            assert abs(residual / density) * math.sqrt(a) < off


def test_a_gamma_draw_is_its_stated_function_of_the_uniforms():
    """Shape 1: G = -ln v with v of two words, fine in the tail; shape 1/2: that of shape 3/2 times u^2."""
    source = NoiseSource.of(2, 20000)
    high, low, u = source.uniform((4, 3), step=3, purpose="p", dtype=F64).unbind(-1)
    v = high + (low - 0.5) / 2**32
    g = draw_log_gamma(1.0, source, (4,), 3, "p").exp()
    assert float(((-g).exp() / v - 1).abs().max()) < 1e-13
    assert float(((-g).exp() / high - 1).abs().max()) > 1e-7  # planted: one word
    half = draw_log_gamma(0.5, source, (4,), 3, "p") - draw_log_gamma(1.5, source, (4,), 3, "p")
    torch.testing.assert_close(half, 2 * u.log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [0.99 * LARGE, LARGE, 5e8, 1e13])
def test_gamma_quantiles_of_large_shapes(a):
    z = torch.linspace(-4.2, 4.2, 99, dtype=F64)  # up to the limit of SciPy's expansion for large shapes
    g = log_gamma_quantile(torch.tensor(a, dtype=F64), torch.special.ndtr(-z)).exp()
    expected = special.gammainccinv(a, special.ndtr(-z.numpy()))
    assert np.abs(g.numpy() - expected).max() < 1e-5 * math.sqrt(a)


@pytest.mark.parametrize("a", some_long([1e-6, 1e-3, 0.1, 0.7], [1e-3, 0.7]))
def test_small_shapes_are_drawn_in_logarithms(a):
    """Shapes with P(G < 1e-300) close to 1. ln P is a y - ln Gamma(a + 1) for small G = e^y."""

    def cdf(y):
        low = np.exp(np.minimum(a * y - special.gammaln(a + 1), 0))
        return np.where(y < -30, low, special.gammainc(a, np.exp(np.maximum(y, -30))))

    y = draw_log_gamma(a, NoiseSource.of(1, 1000), (200,), 0, "test").flatten().numpy()
    assert stats.kstest(y, cdf).pvalue > FALSE_ALARM
    assert stats.kstest(1.05 * y, cdf).pvalue < FALSE_ALARM
    high = y[y > math.log(0.5)]  # the variance is due to a few large values
    if len(high) > 50:
        tail = special.gammaincc(a, np.exp(high)) / special.gammaincc(a, 0.5)
        assert stats.kstest(tail, "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("name", some_long(DISTRIBUTIONS, DRAWN_BY_OTHERS))
def test_draws_follow_the_distribution(name):
    noise, reference = DISTRIBUTIONS[name]
    z = draw(noise)
    variance, kurtosis = float(noise.variance), float(noise.excess_kurtosis)
    assert ks(z, reference) > FALSE_ALARM
    assert moments_pvalue(z, variance, kurtosis) > FALSE_ALARM
    # planted: 5 % too wide; a mean with an error of 3 % of a standard deviation
    assert ks(1.05 * z, reference) < FALSE_ALARM
    assert moments_pvalue(z + 0.03 * variance**0.5, variance, kurtosis) < FALSE_ALARM


@pytest.mark.parametrize("beta", some_long([0.05, 0.3, 1.5, 30.0, 100.0], [0.3, 30.0, 100.0]))
def test_generalized_draws_at_every_power(beta):
    noise, reference = generalized(beta)
    z = draw(noise)
    assert ks(z, reference) > FALSE_ALARM
    assert ks(z, generalized(1.2 * beta if beta < 3 else 3.0)[1]) < FALSE_ALARM  # planted: another power, same variance


@pytest.mark.parametrize("k", some_long([3.0, 25.0], [25.0]))
def test_a_gamma_distribution_is_distinguished_from_similar_ones(k):
    """Planted: the Gaussian of the same moments, the reflected distribution, a shape 10 % off at the same variance."""
    noise = CenteredGamma.standard(k)
    reference = gamma(k, k**-0.5)[1]
    assert float(noise.variance) == pytest.approx(1)
    assert ks(draw(noise), reference) > FALSE_ALARM
    assert ks(draw(Gaussian()), reference) < FALSE_ALARM
    assert ks(-draw(noise), reference) < FALSE_ALARM
    if k < 10:
        assert ks(draw(CenteredGamma.standard(1.3 * k)), reference) < FALSE_ALARM


def test_the_gaussian_is_distinguished_from_the_mixtures():
    for noise in (SKEWED, HEAVY):
        assert ks(draw(noise), DISTRIBUTIONS["gaussian"][1]) < FALSE_ALARM


SUMS = {
    "gaussian": Gaussian(),
    "laplace": GeneralizedNormal(1.0),
    "gamma": CenteredGamma.standard(0.8),
    "mixture": SKEWED,
    "drawn sum": NoiseSum(SKEWED, torch.tensor([0.3, 0.4])),
    "sum of components": MixtureSum(SKEWED, torch.tensor([0.3, 0.4])),
}


every_noise = pytest.mark.parametrize("name", SUMS)


@every_noise
@pytest.mark.parametrize("event_shape", [(), (1,), (3, 2), (2, 1, 5)])
def test_a_sample_does_not_depend_on_the_batch(name, event_shape):
    noise = SUMS[name]
    alone = draw(noise, 1, event_shape, first=5)[0]
    assert alone.shape == event_shape
    for first, count in ((0, 7), (5, 7), (3, 64)):
        batch = draw(noise, count, event_shape, first=first)
        assert batch.shape == (count, *event_shape)
        assert torch.equal(batch[5 - first], alone)


@every_noise
def test_every_part_of_the_key_matters(name):
    base = {"count": 1, "event_shape": (64,), "seed": 3, "first": 8, "step": 2, "purpose": "a"}
    others = [{}, {"seed": 4}, {"first": 9}, {"step": 3}, {"purpose": "b"}, {"seed": 8, "first": 3}]
    found = torch.cat([draw(SUMS[name], **(base | other)) for other in others])
    assert len(torch.unique(found)) == found.numel()
    assert len(torch.unique(found.sign(), dim=0)) == len(found)


@every_noise
def test_no_global_random_state_is_read_or_changed(name):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the test is about the global state
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        found.append(draw(SUMS[name], 6, (4,)))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert random.getstate() == before[2]
    assert torch.equal(*found)


@every_noise
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lower_precision_is_the_rounded_float64(name, dtype):
    low, high = draw(SUMS[name], 50, (40,), dtype=dtype), draw(SUMS[name], 50, (40,))
    assert low.dtype == dtype
    moved = low != high.to(dtype)  # a gamma draw at the edge of its support stays inside
    assert not moved.any() or (name == "gamma" and (low[moved] == low.min()).all())
    if isinstance(SUMS[name], DensityNoise):
        assert SUMS[name].log_prob(low).dtype == dtype and SUMS[name].score(low).dtype == dtype


@every_noise
@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_extreme_words_stay_finite(monkeypatch, name, word):
    monkeypatch.setattr(scoresde.noise, "philox", lambda counter, key: (torch.full_like(counter[0], word),) * 4)
    z = draw(SUMS[name], 2, (3,))
    assert z.isfinite().all()
    if isinstance(SUMS[name], DensityNoise):
        assert SUMS[name].log_prob(z).isfinite().all() and SUMS[name].score(z).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [Gaussian, lambda p: GeneralizedNormal(1.3, p), lambda p: CenteredGamma(p, 0.5), lambda p: CenteredGamma(2.0, p)],
)
def test_a_parameter_per_sample(make):
    """Row i of a batch is the sample of the distribution with parameter i."""
    values = torch.tensor([0.3, 1.0, 4.0])
    together = make(values)
    z = draw(together, 3, (2, 5))
    for i, value in enumerate(values.tolist()):
        alone = make(value)
        assert torch.equal(draw(alone, 1, (2, 5), first=i), z[i : i + 1])
        torch.testing.assert_close(together.log_prob(z)[i], alone.log_prob(z[i : i + 1])[0])
        torch.testing.assert_close(together.score(z)[i], alone.score(z[i : i + 1])[0])
        assert float(together.variance[i]) == pytest.approx(float(alone.variance))
