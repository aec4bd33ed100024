"""Noise laws: densities against quadrature, scipy and mpmath, scores against autograd, draws by statistics.

A statistical test that compares with FALSE_ALARM passes a fresh seed with probability 1 - 1e-6 or more; those that hold
a published check to its own bound (p > .01, within 1 %, within 5 %) say their rate. Seeds are fixed, so that a failure
is a change of the code. Each is shown to fail on a planted error.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import special, stats

import scoresde.noise
from scoresde.laws import (
    CentredGamma,
    GammaSchedule,
    Gaussian,
    GeneralizedNormal,
    MixtureSum,
    NoiseLaw,
    NoiseSum,
    NormalMixture,
    chain_weights,
    overlapping_scales,
)
from scoresde.laws.base import numbered
from scoresde.laws.gamma import LARGE, cube_start, draw_log_gamma, invert, log_gamma_quantile
from scoresde.noise import NoiseSource
from scoresde.samplers import AnnealedLangevin, Step
from scoresde.sde import ScalarKernel

F64 = torch.float64
FALSE_ALARM = 1e-6
SKEWED = NormalMixture.standardised([0.3, 0.7], [-1.5, 0.2], [0.3, 1.0])
HEAVY = NormalMixture.standardised([0.9, 0.1], [0.0, 0.0], [0.5, 2.8])


def gamma(k, theta):
    return CentredGamma(k, theta), stats.gamma(k, loc=-k * theta, scale=theta)


def generalized(beta, std=1.0):
    alpha = std * math.exp(0.5 * (special.gammaln(1 / beta) - special.gammaln(3 / beta)))
    return GeneralizedNormal(beta, std), stats.gennorm(beta, scale=alpha)


class Mixed:
    """scipy's normals, mixed."""

    def __init__(self, law):
        self.parts = [(w, stats.norm(m, s)) for w, m, s in zip(law.weights, law.means, law.stds, strict=True)]

    def cdf(self, x):
        return sum(w * part.cdf(x) for w, part in self.parts)

    def logpdf(self, x):
        return np.log(sum(w * part.pdf(x) for w, part in self.parts))


LAWS = {
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
every_law = pytest.mark.parametrize("name", LAWS)


def draw(noise, count=1000, event_shape=(200,), seed=1, first=0, step=0, purpose="test", dtype=F64):
    source = NoiseSource.of(seed, count, first)
    return noise.sample(source, event_shape, step=step, purpose=purpose, dtype=dtype)


def ks(values, reference):
    return stats.kstest(values.flatten().numpy(), reference.cdf).pvalue


def moments_pvalue(values, variance, kurtosis):
    """Smaller two-sided p-value of mean 0 and of the variance; the latter's error follows from the kurtosis."""
    x = values.flatten().numpy()
    errors = (
        x.mean() / math.sqrt(variance / x.size),
        (np.mean(x**2) / variance - 1) / math.sqrt((kurtosis + 2) / x.size),
    )
    return min(2 * stats.norm.sf(abs(e)) for e in errors)


# densities and scores


def nodes(law):
    """Points and weights of the trapezoidal rule in y for n = edge + e^y, or n = -e^y and e^y."""
    y = torch.linspace(-100.0, 7.0, 60001, dtype=F64)
    width = y.exp() * (y[1] - y[0])
    if isinstance(law, CentredGamma):
        return y.exp() - law.k * law.theta, width
    return torch.cat((-y.exp(), y.exp())), torch.cat((width, width))


@every_law
def test_the_density_has_mass_1_mean_0_and_its_stated_moments(name):
    law, _ = LAWS[name]
    n, width = nodes(law)
    p = width * law.log_prob(n[:, None]).exp()
    inside = p.isfinite() & law.score(n[:, None])[:, 0].isfinite()  # some of a gamma law's nodes round to the edge
    p, n = p[inside], n[inside]
    lost = 1e-5 if name == "gamma .4" else 1e-10  # (1e-16)^.4 of its mass lies within rounding of the edge
    assert float(p.sum()) == pytest.approx(1, abs=lost)
    assert float((p * n).sum()) == pytest.approx(0, abs=lost)
    assert float((p * n**2).sum()) == pytest.approx(float(law.variance), abs=lost)
    kurtosis = float((p * n**4).sum()) / float(law.variance) ** 2 - 3
    assert kurtosis == pytest.approx(float(law.excess_kurtosis), abs=10 * lost, rel=1e-8)
    if name != "gamma .4":  # the mean score is the density's jump: 0 but for the exponential law
        mean_score = float((p * law.score(n[:, None])[:, 0]).sum())
        assert mean_score == pytest.approx(-1 if name == "gamma 1" else 0, abs=1e-9)


@every_law
def test_the_density_is_scipys_and_the_score_its_derivative(name):
    law, reference = LAWS[name]
    z = draw(law, 50, (3, 2)).requires_grad_()
    log_prob = law.log_prob(z)
    assert log_prob.shape == (50,) and law.score(z).shape == z.shape
    expected = reference.logpdf(z.detach().numpy()).sum((1, 2))
    np.testing.assert_allclose(log_prob.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    (slope,) = torch.autograd.grad(log_prob.sum(), z)
    torch.testing.assert_close(law.score(z).detach(), slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [1e-3, 0.5, 19.0, 21.0, 1e3, 5e8, 1e12])
def test_a_gamma_density_is_mpmaths_at_every_shape(k):
    """Large terms cancel for large k: written plainly in float64, k = 5e8 is wrong by 1e-6."""
    law = CentredGamma.standard(k)
    with mp.workdps(60):
        theta = mp.mpf(law.theta)
        for n in (-0.99 * min(1.0, k**0.5), -0.01 * min(1.0, k**0.5), 0.3, 2.5):

            def log_p(x):
                return (k - 1) * mp.log(x + k * theta) - (x + k * theta) / theta - mp.loggamma(k) - k * mp.log(theta)

            z = torch.tensor([n], dtype=F64)
            assert float(law.log_prob(z)) == pytest.approx(float(log_p(mp.mpf(n))), rel=1e-9, abs=1e-9)
            assert float(law.score(z)) == pytest.approx(float(mp.diff(log_p, mp.mpf(n))), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("beta", [0.05, 0.3, 3.7, 100.0])
def test_a_generalized_density_is_mpmaths_at_every_power(beta):
    law = GeneralizedNormal(beta)
    with mp.workdps(40):
        b = mp.mpf(beta)
        alpha = mp.sqrt(mp.gamma(1 / b) / mp.gamma(3 / b))
        for n in (-0.9, 1e-3, 0.4, 1.6):

            def log_p(x):
                return mp.log(b / (2 * alpha * mp.gamma(1 / b))) - (abs(x) / alpha) ** b

            z = torch.tensor([n], dtype=F64)
            assert float(law.log_prob(z)) == pytest.approx(float(log_p(mp.mpf(n))), rel=1e-11, abs=1e-11)
            assert float(law.score(z)) == pytest.approx(float(mp.diff(log_p, mp.mpf(n))), rel=1e-9)
        kurtosis = mp.gamma(5 / b) * mp.gamma(1 / b) / mp.gamma(3 / b) ** 2 - 3
        assert float(law.excess_kurtosis) == pytest.approx(float(kurtosis), rel=1e-11)


def test_beta_2_is_the_gaussian():
    """Entry 45's check: to 1e-10, at every scale."""
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
    law = CentredGamma(k, 2.0)
    z = torch.tensor([-2 * k - 0.1, -2 * k, math.nan, 0.3], dtype=F64)
    log_prob = law.log_prob(z)
    assert log_prob[0] == -math.inf and log_prob[2].isnan() and log_prob[3].isfinite()
    assert float(log_prob[1]) == pytest.approx(at_edge)
    assert law.score(z).isnan().tolist() == [True, True, True, False]
    # one coordinate outside, and the event is impossible
    assert law.log_prob(torch.tensor([[0.3, -9.0]], dtype=F64)).tolist() == [-math.inf]


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1e-3, 0.3, 1.0, 40.0])
def test_a_gamma_draw_lies_inside_the_support_of_its_dtype(k, dtype):
    """Rounded to the nearest, half of those that meet the edge in float32 would be impossible."""
    law = CentredGamma(torch.linspace(k, 1.1 * k, 100), 0.7)
    z = draw(law, 100, (300,), dtype=dtype)
    assert z.dtype == dtype
    wide = z.double()
    assert (wide > -law.k.double()[:, None] * 0.7).all()
    assert law.log_prob(wide).isfinite().all() and law.score(wide).isfinite().all()


# draws


def on_a_device(a, v):
    """What an accelerator computes, here."""
    return invert(a, v, cube_start(a, v))


@pytest.mark.parametrize("quantile", [log_gamma_quantile, on_a_device])
@pytest.mark.parametrize("a", [1.0, 1.3, 2.0, 5.0, 19.0, 21.0, 150.0, 3000.0])
def test_gamma_quantiles_solve_their_equation(a, quantile):
    """In standard deviations of ln G, for every v that comes, 2^-65 to 1 - 2^-53, by mpmath. torch's P and Q have
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
    z = torch.linspace(-4.2, 4.2, 99, dtype=F64)  # as far as scipy's expansion for large shapes reaches
    g = log_gamma_quantile(torch.tensor(a, dtype=F64), torch.special.ndtr(-z)).exp()
    expected = special.gammainccinv(a, special.ndtr(-z.numpy()))
    assert np.abs(g.numpy() - expected).max() < 1e-5 * math.sqrt(a)


@pytest.mark.parametrize("a", [1e-6, 1e-3, 0.1, 0.7])
def test_small_shapes_are_drawn_in_logarithms(a):
    """Where P(G < 1e-300) is near 1. ln P is a y - ln Gamma(a + 1) for small G = e^y."""

    def cdf(y):
        low = np.exp(np.minimum(a * y - special.gammaln(a + 1), 0))
        return np.where(y < -30, low, special.gammainc(a, np.exp(np.maximum(y, -30))))

    y = draw_log_gamma(a, NoiseSource.of(1, 1000), (200,), 0, "test").flatten().numpy()
    assert stats.kstest(y, cdf).pvalue > FALSE_ALARM
    assert stats.kstest(1.05 * y, cdf).pvalue < FALSE_ALARM
    high = y[y > math.log(0.5)]  # the few large ones carry the variance
    if len(high) > 50:
        tail = special.gammaincc(a, np.exp(high)) / special.gammaincc(a, 0.5)
        assert stats.kstest(tail, "uniform").pvalue > FALSE_ALARM


@every_law
def test_draws_follow_the_law(name):
    law, reference = LAWS[name]
    z = draw(law)
    variance, kurtosis = float(law.variance), float(law.excess_kurtosis)
    assert ks(z, reference) > FALSE_ALARM
    assert moments_pvalue(z, variance, kurtosis) > FALSE_ALARM
    # planted: 5 % too wide; a mean 3 % of a standard deviation off
    assert ks(1.05 * z, reference) < FALSE_ALARM
    assert moments_pvalue(z + 0.03 * variance**0.5, variance, kurtosis) < FALSE_ALARM


@pytest.mark.parametrize("beta", [0.05, 0.3, 1.5, 30.0, 100.0])
def test_generalized_draws_at_every_power(beta):
    law, reference = generalized(beta)
    z = draw(law)
    assert ks(z, reference) > FALSE_ALARM
    assert ks(z, generalized(1.2 * beta if beta < 3 else 3.0)[1]) < FALSE_ALARM  # planted: another power, same variance


@pytest.mark.parametrize("k", [3.0, 25.0])
def test_a_gamma_law_is_told_from_its_neighbours(k):
    """Planted: the Gaussian of the same moments, the reflected law, a shape 10 % off at the same variance."""
    law = CentredGamma.standard(k)
    reference = gamma(k, k**-0.5)[1]
    assert float(law.variance) == pytest.approx(1)
    assert ks(draw(law), reference) > FALSE_ALARM
    assert ks(draw(Gaussian()), reference) < FALSE_ALARM
    assert ks(-draw(law), reference) < FALSE_ALARM
    if k < 10:
        assert ks(draw(CentredGamma.standard(1.3 * k)), reference) < FALSE_ALARM


def test_the_gaussian_is_told_from_the_mixtures():
    for law in (SKEWED, HEAVY):
        assert ks(draw(law), LAWS["gaussian"][1]) < FALSE_ALARM


SUMS = {
    "gaussian": Gaussian(),
    "laplace": GeneralizedNormal(1.0),
    "gamma": CentredGamma.standard(0.8),
    "mixture": SKEWED,
    "drawn sum": NoiseSum(SKEWED, torch.tensor([0.3, 0.4])),
    "sum of components": MixtureSum(SKEWED, torch.tensor([0.3, 0.4])),
}
every_noise = pytest.mark.parametrize("name", SUMS)


@every_noise
@pytest.mark.parametrize("event_shape", [(), (1,), (3, 2), (2, 1, 5)])
def test_a_sample_is_alone_in_any_batch(name, event_shape):
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
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is under test
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
    if isinstance(SUMS[name], NoiseLaw):
        assert SUMS[name].log_prob(low).dtype == dtype and SUMS[name].score(low).dtype == dtype


@every_noise
@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_extreme_words_stay_finite(monkeypatch, name, word):
    monkeypatch.setattr(scoresde.noise, "philox", lambda counter, key: (torch.full_like(counter[0], word),) * 4)
    z = draw(SUMS[name], 2, (3,))
    assert z.isfinite().all()
    if isinstance(SUMS[name], NoiseLaw):
        assert SUMS[name].log_prob(z).isfinite().all() and SUMS[name].score(z).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [Gaussian, lambda p: GeneralizedNormal(1.3, p), lambda p: CentredGamma(p, 0.5), lambda p: CentredGamma(2.0, p)],
)
def test_a_parameter_per_sample(make):
    """Row i of a batch is what the law with the i-th parameter gives."""
    values = torch.tensor([0.3, 1.0, 4.0])
    together = make(values)
    z = draw(together, 3, (2, 5))
    for i, value in enumerate(values.tolist()):
        alone = make(value)
        assert torch.equal(draw(alone, 1, (2, 5), first=i), z[i : i + 1])
        torch.testing.assert_close(together.log_prob(z)[i], alone.log_prob(z[i : i + 1])[0])
        torch.testing.assert_close(together.score(z)[i], alone.score(z[i : i + 1])[0])
        assert float(together.variance[i]) == pytest.approx(float(alone.variance))


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
    law = Gaussian(2.0).sum_of_steps(B)
    assert isinstance(law, Gaussian) and float(law.variance) == pytest.approx(4 * 1.15)
    per_sample = Gaussian(torch.tensor([1.0, 2.0])).sum_of_steps(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert per_sample.variance.tolist() == pytest.approx([2.0, 4.0])
    assert ks(draw(NoiseSum(Gaussian(2.0), B)), stats.norm(scale=math.sqrt(4 * 1.15))) > FALSE_ALARM


def test_gamma_steps_of_one_weight_sum_to_a_gamma():
    step = CentredGamma(0.6, 1.2)
    law = step.sum_of_steps(torch.full((5,), 0.5))
    assert isinstance(law, CentredGamma)
    reference = gamma(3.0, 0.6)[1]
    assert (float(law.k), float(law.theta)) == pytest.approx((3.0, 0.6))
    drawn = draw(NoiseSum(step, torch.full((5,), 0.5)))
    assert ks(drawn, reference) > FALSE_ALARM and ks(draw(law), reference) > FALSE_ALARM
    assert ks(drawn, gamma(2.4, 0.6 * (3 / 2.4) ** 0.5)[1]) < FALSE_ALARM  # planted: a step forgotten, right variance
    ragged = step.sum_of_steps(torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.0, 0.0]]))
    assert ragged.k.tolist() == pytest.approx([1.8, 0.6]) and ragged.theta.tolist() == pytest.approx([0.6, 0.24])
    with pytest.raises(ValueError, match="equal weights only"):
        step.sum_of_steps(B)


def test_mixture_steps_sum_to_the_mixture_of_all_their_components():
    """By t indices and one normal, by t draws, and in closed form: three steps of two components make eight normals."""
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


@pytest.mark.parametrize("law", [Gaussian(), GeneralizedNormal(1.0), CentredGamma.standard(0.8), SKEWED])
def test_a_sum_per_sample(law):
    """A row's sum does not depend on the rows beside it."""
    gamma_steps = isinstance(law, CentredGamma)
    rows = torch.tensor([[0.3, 0.3, 0.3] if gamma_steps else [0.3, 0.4, 0.5], [0.2, 0.0, 0.0]])
    together = law.sum_of_steps(rows)
    z = draw(together, 2, (4,))
    for i, row in enumerate(rows):
        assert torch.equal(draw(law.sum_of_steps(row), 1, (4,), first=i)[0], z[i])
        assert float(together.variance[i]) == pytest.approx(float(law.sum_of_steps(row).variance))


def test_the_keys_of_a_sums_steps_differ():
    assert len({zlib.crc32(numbered("noise", i).encode()) for i in range(10000)}) == 10000
    z = draw(NoiseSum(Gaussian(), torch.eye(200)), 200, (50,))  # row i is step i of sample i
    assert len(z.unique()) == z.numel()
    assert moments_pvalue(z, 1.0, 0.0) > FALSE_ALARM


# the published checks


BETAS = torch.linspace(1e-3, 0.1, 100, dtype=F64)
X0 = 0.7


def iterate(betas, noise, count, event_shape, seed):
    """x_t = sqrt(1 - beta_t) x_{t-1} + noise(t) from x_0 = .7, seeds of its own at every step."""
    x = torch.full((count, *event_shape), X0, dtype=F64)
    for t, beta in enumerate(betas, start=1):
        x = (1 - beta).sqrt() * x + draw(noise(t), count, event_shape, seed=seed, step=t, purpose="chain")
    return x


@pytest.mark.parametrize("theta_0", [1e-3, 0.5, 2.0])
def test_the_gamma_schedule_is_the_papers(theta_0):
    """Entry 24's identity kbar_T theta_T^2 = 1 - abar_T, and kbar_t the sum of the k_t, to rounding."""
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
    assert float(CentredGamma.standard(schedule.total(40).k).variance) == pytest.approx(1)


@pytest.mark.long
def test_entry_24_a_gamma_chain_of_100_steps_is_its_closed_form():
    """KS p > .01 (false alarm 1 % each), mean and variance within .01 (false alarm .2 % and 3 % with 1e5 chains).
    theta_0 = 2 leaves a skewness of .3 at the end, so that a Gaussian would not do."""
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
    assert ks(draw(CentredGamma.standard(schedule.k[-1]), 1000, (100,)), reference) < FALSE_ALARM


def test_entry_25_a_mixture_chain_is_its_direct_draw():
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
    assert expected > 1  # far from a Gaussian's
    for values in (x, direct):
        assert abs(float(values.mean())) < 0.005
        assert float(values.var()) == pytest.approx(1 - abar, rel=0.01)
        assert float(stats.kurtosis(values.flatten().numpy())) == pytest.approx(expected, rel=0.05)
    # planted: the same variance from three steps
    wrong = HEAVY.sum_of_steps(torch.full((3,), math.sqrt((1 - abar) / 3)))
    assert stats.ks_2samp(x.flatten().numpy(), draw(wrong, 1000, (1000,)).flatten().numpy()).pvalue < FALSE_ALARM
    assert float(wrong.excess_kurtosis) != pytest.approx(expected, rel=0.05)


def test_entry_45_the_mean_target_is_the_score_of_the_noised_law():
    """x = x_0 + sigma n, x_0 of a 1-D mixture and n of Laplace. By quadrature, the mean of grad log p over a bin (a, b)
    is (p(b) - p(a)) / P(a < x < b), and E[score(n) / sigma | x in the bin] is the same within .05. 2e6 draws; the 16
    bins' standard errors are .0125 at most: false alarm 1e-3."""
    sigma, law = 0.5, GeneralizedNormal(1.0)
    means, stds, weights = torch.tensor([-1.5, 1.0]), torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.7])
    source = NoiseSource.of(5, 2000)
    k = (source.uniform((1000,), step=0, purpose="k", dtype=F64) > 0.3).long()
    x0 = means[k] + stds[k] * source.normal((1000,), step=0, purpose="x0", dtype=F64)
    n = law.sample(source, (1000,), step=0, purpose="n", dtype=F64)
    x, target = (x0 + sigma * n).flatten().numpy(), (law.score(n) / sigma).flatten().numpy()
    # p on a fine grid: the mixture convolved with Laplace, by the trapezoidal rule over x_0
    grid = torch.linspace(-6, 6, 4001, dtype=F64)
    prior = sum(
        w * torch.exp(-0.5 * ((grid - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        for w, m, s in zip(weights, means, stds, strict=True)
    )
    edges = torch.linspace(-2.4, 2.2, 17, dtype=F64)
    inner = torch.linspace(-2.4, 2.2, 16 * 40 + 1, dtype=F64)
    density = law.log_prob(((inner[:, None] - grid) / sigma).reshape(-1, 1)).exp().reshape(len(inner), -1) / sigma
    p = (density * prior).sum(1) * (grid[1] - grid[0])
    mass = torch.stack([torch.trapezoid(p[i : i + 41], inner[i : i + 41]) for i in range(0, 640, 40)])
    score = ((p[40::40] - p[:-40:40]) / mass).numpy()
    which = np.digitize(x, edges.numpy())
    count = np.bincount(which, minlength=18)[1:17]
    found = np.bincount(which, target, minlength=18)[1:17] / count
    assert (np.sqrt((8 - found**2) / count)).max() < 0.0125
    assert np.abs(found - score).max() < 0.05
    # planted: the Gaussian's target for Laplace's noise; alpha left out of the target
    for wrong in (-n / sigma, law.score(n) * float(law.alpha) / sigma):
        mean = np.bincount(which, wrong.flatten().numpy(), minlength=18)[1:17] / count
        assert np.abs(mean - score).max() > 0.1


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("event", [(1,), (4, 16), (3, 32, 32)])
@pytest.mark.parametrize("overlap", [0.1336, 0.5, 0.9])
def test_lengths_at_neighbouring_levels_overlap(overlap, event, beta):
    """By quadrature of the smaller of scipy's two densities; with one level less they overlap by less than was asked."""
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


def test_in_many_dimensions_gaussian_levels_are_ncsnv2s():
    """Its technique 2 in 3 x 32 x 32: half of the draws within three standard deviations, sqrt(2 d) (r - 1) = 3 r, levels of
    that ratio from 50 to 0.01."""
    levels = len(overlapping_scales(2.0, 50.0, 0.01, (3, 32, 32), 2 * stats.norm.cdf(-1.5)))
    r = 1 / (1 - 3 / math.sqrt(2 * 3072))
    assert abs(levels - math.log(5000) / math.log(r)) < 0.03 * levels


def laplace_score(x, scale, means, std, weights):
    """Of the mixture of N(m, std^2) plus Laplace noise of standard deviation ``scale``, in closed form: with b = scale / sqrt 2,

    p = sum_m w / (2 b) [A + B],   p' = sum_m w / (2 b^2) [B - A],   A, B = exp(std^2 / 2 b^2 -+ d / b) Phi(+-d / std - std / b)
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


def test_entry_45_a_minor_mode_keeps_its_weight():
    """Entry 45: a 95/5 mixture, annealed Langevin with its exact score under beta = 1; the minor weight within .02.

    2000 samples, a standard error of .005: ten other seeds gave .051 to .066. Left over is what is frozen in as the modes part.
    """
    means, std, weights = torch.tensor([-1.5, 1.5], dtype=F64), 0.3, torch.tensor([0.95, 0.05], dtype=F64)
    one = torch.ones((), dtype=F64)
    still = ScalarKernel(one, 0 * one)

    def minor(scales, steps):
        source, langevin = NoiseSource.of(0, 2000), AnnealedLangevin(snr=0.5)
        x = GeneralizedNormal(1.0, 5.0).sample(source, (1,), step=0, purpose="start", dtype=F64)
        for i, scale in enumerate(scales):
            step = Step(i, one, one, 0 * one, scale, still, still)
            for z in source.normal((steps, 1), step=i, purpose="langevin", dtype=F64).unbind(1):
                x = langevin.step(step, x, laplace_score(x, float(scale), means, std, weights), z)[0]
        right = x > 0
        return float(right.double().mean()), float(x[~right].std())

    scales = overlapping_scales(1.0, 5.0, 0.05, (1,), overlap=0.9)
    found, spread = minor(scales, 60)
    assert abs(found - 0.05) < 0.02
    assert spread == pytest.approx(0.3, rel=0.05)
    # planted: the smallest level alone; levels that hardly overlap
    assert minor(scales[-1:], 300)[0] > 0.4
    few = overlapping_scales(1.0, 5.0, 0.05, (1,), overlap=0.05)
    assert minor(few, 60)[0] > 0.3


def test_the_score_of_the_minor_mode_is_that_of_a_quadrature():
    means, weights = torch.tensor([-1.5, 1.5], dtype=F64), torch.tensor([0.95, 0.05], dtype=F64)
    x = torch.linspace(-4, 4, 41, dtype=F64)[:, None]
    y = torch.linspace(-4.5, 4.5, 9001, dtype=F64)  # all kinks lie on its points
    prior = (weights * torch.exp(-0.5 * ((y[:, None] - means) / 0.3) ** 2)).sum(1)

    def log_density(at, scale):
        kernel = GeneralizedNormal(1.0, scale).log_prob((at - y).reshape(-1, 1)).exp()
        return (kernel.reshape(len(at), -1) * prior).sum(1).log()

    for scale in (0.05, 0.5, 5.0):
        wanted = (log_density(x + 0.001, scale) - log_density(x - 0.001, scale)) / 0.002
        assert torch.allclose(laplace_score(x, scale, means, 0.3, weights)[:, 0], wanted, rtol=1e-3, atol=1e-3)


# the door


@pytest.mark.parametrize(
    "bad", [{"beta": 0.0}, {"smallest": 0.0}, {"largest": 0.01}, {"overlap": 1.0}, {"overlap": 0.0}], ids=repr
)
def test_bad_levels(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}="):
        overlapping_scales(**({"beta": 1.0, "largest": 10.0, "smallest": 0.01, "event_shape": (2,)} | bad))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", None, True, torch.zeros(2), torch.ones(2, 2)])
def test_bad_scales(value):
    for name, make in (("std", Gaussian), ("std", lambda v: GeneralizedNormal(1.0, v)), ("k", CentredGamma.standard)):
        with pytest.raises(ValueError, match=f"{name}="):
            make(value)
    with pytest.raises(ValueError, match="theta="):
        CentredGamma(1.0, value)


@pytest.mark.parametrize("beta", [0.0, -1.0, 0.01, 101.0, math.nan, "2", None, torch.tensor(2.0)])
def test_bad_powers(beta):
    with pytest.raises(ValueError, match="beta="):
        GeneralizedNormal(beta)


@pytest.mark.parametrize(
    ("weights", "means", "stds", "message"),
    [
        ([0.5, 0.5], [0.0, 1.0], [1.0, 1.0], "mean 0.5"),
        ([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0], "variance 2"),
        ([0.5, -0.5], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([0.5, math.nan], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([1.0], [math.inf], [1.0], "means="),
        ([1.0], [0.0], [0.0], "stds="),
        ([0.5, 0.5], [0.0], [1.0, 1.0], "means has shape"),
        ([0.5, 0.5], [0.0, 0.0], [[1.0], [1.0]], "stds has shape"),
        ([], [], [], "weights has shape"),
    ],
)
def test_bad_mixtures(weights, means, stds, message):
    with pytest.raises(ValueError, match=message):
        NormalMixture(weights, means, stds)


def test_mixtures_are_kept_as_numbers():
    law = NormalMixture(torch.tensor([1.0, 3.0]), [0.0, 0.0], [1.0, 1.0])
    assert law.weights == (0.25, 0.75) and law == NormalMixture([1, 3], [0, 0], [1, 1])
    assert repr(law) == "NormalMixture(weights=(0.25, 0.75), means=(0.0, 0.0), stds=(1.0, 1.0))"
    assert float(SKEWED.variance) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "b", [[1.0], 1.0, torch.tensor(1.0), torch.ones(0), torch.ones(1, 1, 1), torch.tensor([1.0, -1.0]), torch.zeros(2),
          torch.tensor([math.nan]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])],
)  # fmt: skip
@pytest.mark.parametrize("law", [Gaussian(), GeneralizedNormal(1.0), CentredGamma(1.0, 1.0), HEAVY])
def test_bad_weights(law, b):
    with pytest.raises(ValueError, match=r"^b"):
        law.sum_of_steps(b)


@pytest.mark.parametrize(
    "t", [0, 101, 1.0, True, None, torch.tensor([1, 0]), torch.tensor([1.0]), torch.ones(1, 1).long()]
)
def test_bad_steps_of_a_chain(t):
    schedule = GammaSchedule(BETAS)
    for take in (schedule.step, schedule.total, lambda t: chain_weights(BETAS, t)):
        with pytest.raises(ValueError, match="t="):
            take(t)


@pytest.mark.parametrize(
    "betas", [[0.1], torch.tensor(0.1), torch.zeros(0), torch.tensor([0.1, 1.0]), torch.tensor([0.0])]
)
def test_bad_betas(betas):
    for take in (GammaSchedule, lambda b: chain_weights(b, 1)):
        with pytest.raises(ValueError, match="betas="):
            take(betas)
    with pytest.raises(ValueError, match="theta_0="):
        GammaSchedule(BETAS, 0.0)


@pytest.mark.parametrize("law", [Gaussian(), GeneralizedNormal(1.0), CentredGamma(1.0, 1.0), HEAVY])
def test_bad_events(law):
    for evaluate in (law.log_prob, law.score):
        with pytest.raises(TypeError, match="z has dtype"):
            evaluate(torch.ones(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="z has shape"):
            evaluate(torch.ones(0, 2))


def test_a_parameter_for_another_batch_is_refused():
    for law in (Gaussian(torch.ones(3)), GeneralizedNormal(1.0, torch.ones(3)), CentredGamma(torch.ones(3), 1.0)):
        for use in (lambda law: draw(law, 4, (2,)), lambda law: law.log_prob(torch.ones(4, 2))):
            with pytest.raises(ValueError, match=r"\(3,\): give shape \(\) or \(4,\)"):
                use(law)
    with pytest.raises(ValueError, match=r"\(3,\): give shape \(\) or \(4,\)"):
        draw(HEAVY.sum_of_steps(torch.ones(3, 2)), 4, (2,))
