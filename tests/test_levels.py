"""Posteriors over levels: evidence and box means against 50 digits, the score against a density by quadrature.

The noise-to-signal ratio s is between 1e-3, where a box is wide and the level is certain, and 150, where a box is 5e-5
standard deviations wide and every difference cancels.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from scoresde.data import LevelMiddles, Quantized
from scoresde.likelihood import variational_bound
from scoresde.samplers import Ancestral
from scoresde.score import AnalyticVariance, ScoreModel, denoising_errors
from scoresde.score.quantized import Levels
from scoresde.sde import VESDE, VPSDE, SubVPSDE

F32, F64 = torch.float32, torch.float64
NOISES = [1e-3, 0.01, 0.1, 1.0, 10.0, 150.0]
WIDE = VESDE(1e-3, 150.0)
QUANTIZED = [Quantized(2, 0.0, 1.0), Quantized(17, -1.0, 1.0), Quantized(256, -1.0, 1.0)]


def time_of(s):
    """t at which ``WIDE`` has sigma = s, and the float that the process returns for that sigma."""
    t = torch.tensor(math.log(s / 1e-3) / math.log(150.0 / 1e-3), dtype=F64).clamp(max=1.0)
    return t, float(WIDE.sigma(t))


def places(transform, s):
    """y inside, on the edges, and outside of the data's range, by fractions and multiples of s."""
    low, high, w = transform.low, transform.high, transform.width
    inside = [low, low + w / 3, low + w, 0.5 * (low + high) + 0.1 * w, high - w / 2, high]
    return inside + [low - k * s for k in (0.5, 3.0, 12.0)] + [high + k * s for k in (0.5, 3.0, 12.0)] + [low - 2.0]


def exact_box(left, right, y, s):
    """ln [Phi(b) - Phi(a)], and mean and variance of the normal (y, s^2) truncated to the box, as mpmath numbers."""
    left, right, y, s = map(mp.mpf, (left, right, y, s))
    a, b = (left - y) / s, (right - y) / s
    if a + b > 0:  # on the side on which both are small nothing is lost
        mass = (mp.erfc(a / mp.sqrt(2)) - mp.erfc(b / mp.sqrt(2))) / 2
    else:
        mass = (mp.erfc(-b / mp.sqrt(2)) - mp.erfc(-a / mp.sqrt(2))) / 2
    first = (mp.npdf(b) - mp.npdf(a)) / mass
    second = (b * mp.npdf(b) - a * mp.npdf(a)) / mass
    return mp.log(mass), y - s * first, s**2 * (1 - second - first**2)


@pytest.mark.parametrize("s", NOISES)
@pytest.mark.parametrize("transform", QUANTIZED, ids=repr)
def test_boxes_against_50_digits(transform, s):
    t, s = time_of(s)
    y = places(transform, s)
    log_evidence, mean = Levels(transform).boxes(WIDE.kernel(t.expand(len(y))), torch.tensor(y, dtype=F64)[:, None])
    assert log_evidence.shape == mean.shape == (len(y), 1, transform.levels)
    edges = transform.edges().tolist()
    some = sorted({0, 1, transform.levels // 3, transform.levels // 2, transform.levels - 1})
    with mp.workdps(60):
        for i, yi in enumerate(y):
            for k in some:
                log_mass, box_mean, _ = exact_box(edges[k], edges[k + 1], yi, s)
                # relative where the evidence is exp(-1e6) and the like; absolute by what cancels in a box of 5e-5 s
                assert abs(float(log_evidence[i, 0, k]) - log_mass) < 1e-14 * abs(log_mass) + 1e-10
                # 12 s away ln Phi = -75 is known to a few 1e-14, of which a box is 6e-4: the mass, and with it the distance
                # of 1800 to the mean, to 1e-10
                far = abs(yi - edges[k]) > 4 * s
                assert abs(float(mean[i, 0, k]) - box_mean) < (5e-5 if far else 1e-6) * transform.width


@pytest.mark.parametrize("s", [0.03, 0.2, 2.0])
def test_boxes_by_quadrature(s):
    """The two integrals themselves: of the normal density over a box, and of x_0 times this density."""
    transform, y = Quantized(5, -1.0, 1.0), [-1.3, -0.35, 0.0, 0.9]
    t, s = time_of(s)
    log_evidence, mean = Levels(transform).boxes(WIDE.kernel(t.expand(4)), torch.tensor(y, dtype=F64)[:, None])
    edges, seen = transform.edges().tolist(), 0
    for i, yi in enumerate(y):
        for k in range(5):
            left, right, density = edges[k], edges[k + 1], stats.norm(yi, s).pdf
            if density(min(max(yi, left), right)) < 1e-200:
                continue  # too small for SciPy
            mass = integrate.quad(density, left, right, epsabs=0, epsrel=1e-11)[0]
            first = integrate.quad(lambda x, p=density, c=left: (x - c) * p(x), left, right, epsabs=0, epsrel=1e-11)[0]
            assert float(log_evidence[i, 0, k]) == pytest.approx(math.log(mass), rel=1e-10, abs=1e-10)
            assert float(mean[i, 0, k]) == pytest.approx(left + first / mass, abs=1e-10)
            seen += 1
    assert seen >= 8


@pytest.mark.parametrize("s", NOISES)
def test_the_slope_of_a_box_mean_is_its_variance(s):
    """d E[x_0 | y, k] / dy = Var[x_0 | y, k] / s^2, which a divergence needs; autograd against 50 digits."""
    transform = Quantized(17, -1.0, 1.0)
    t, s = time_of(s)
    y = torch.tensor(places(transform, s)[1::2], dtype=F64)
    edges = transform.edges().tolist()
    for k in (0, 5, 16):
        leaf = y[:, None].clone().requires_grad_()
        mean = Levels(transform).boxes(WIDE.kernel(t.expand(len(y))), leaf)[1]
        slope = torch.autograd.grad(mean[..., k].sum(), leaf)[0][:, 0]
        with mp.workdps(60):
            for i, yi in enumerate(y.tolist()):
                variance = exact_box(edges[k], edges[k + 1], yi, s)[2]
                # a slope lies in [0, 1]; its terms are (distance / s)^2, and their rounding is amplified as much again. A
                # box at 40 s has lost to a nearer one by exp(-800), or x_t does not occur
                z = min(abs(yi - edges[k]), abs(yi - edges[k + 1])) / s
                assert abs(float(slope[i]) - variance / mp.mpf(s) ** 2) < 1e-8 + 1e-15 * z**4


@pytest.mark.parametrize("s", NOISES)
@pytest.mark.parametrize("transform", QUANTIZED, ids=repr)
def test_box_variances_against_50_digits(transform, s):
    """To 1e-4 of the largest variance of the box, also where the box is 1e-5 standard deviations wide."""
    t, s = time_of(s)
    y = torch.tensor(places(transform, s), dtype=F64)[:, None]
    kernel, levels = WIDE.kernel(t.expand(len(y))), Levels(transform)
    found = levels._box_variances(kernel, y, levels.boxes(kernel, y)[0])
    edges = transform.edges().tolist()
    some = sorted({0, 1, transform.levels // 3, transform.levels - 1})
    with mp.workdps(60):
        for i, yi in enumerate(y.flatten().tolist()):
            for k in some:
                wanted = exact_box(edges[k], edges[k + 1], yi, s)[2]
                assert abs(float(found[i, 0, k]) - wanted) < 1e-4 * min(s**2, transform.width**2 / 12) + 1e-3 * wanted


class Constant(nn.Module):
    """Returns the same logits for every coordinate."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x, label):
        return self.logits.expand(*x.shape, -1)


PROBABILITIES = torch.tensor([0.1, 0.4, 0.05, 0.2, 0.25], dtype=F64)
FIVE = Quantized(5, -1.0, 1.0)


def log_density(x, alpha, sigma):
    """ln p_t(x) of one coordinate: the density of the data, flat in each box, against the kernel, by mpmath's quadrature."""
    x, alpha, sigma = map(mp.mpf, (x, alpha, sigma))
    center, s = x / alpha, sigma / alpha
    total, edges = mp.mpf(0), [mp.mpf(-1) + mp.mpf(2) * k / 5 for k in range(6)]
    for k in range(5):
        left, right = edges[k], edges[k + 1]
        cuts = [center + j * s for j in (-30, -12, -5, -2, 0, 2, 5, 12, 30)]
        cuts = [left, *[c for c in cuts if left < c < right], right]
        mass = mp.quad(lambda u: mp.exp(-(((x - alpha * u) / sigma) ** 2) / 2), cuts)
        total += mp.mpf(float(PROBABILITIES[k])) * mass * mp.mpf(5) / 2
    return mp.log(total / (sigma * mp.sqrt(2 * mp.pi)))


@pytest.mark.parametrize(
    ("sde", "t"),
    [(VPSDE(), 1e-3), (VPSDE(), 0.1), (VPSDE(), 0.6), (SubVPSDE(), 0.05), (WIDE, 0.2), (WIDE, 0.5), (WIDE, 1.0)],
)
def test_the_score_is_that_of_the_boxes(sde, t):
    """For independent pixels the logarithms of the level probabilities are the exact logits, for any event shape."""
    t = torch.tensor(t, dtype=F64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    points = [alpha * u for u in (-0.95, -0.6001, 0.03, 0.7)] + [alpha + 2 * sigma, -alpha - 3 * sigma]
    model = ScoreModel(Constant(PROBABILITIES.log()), sde, Levels(FIVE))
    x = torch.tensor(points, dtype=F64).reshape(2, 3, 1)
    score = model(x, t.expand(2))
    assert score.shape == x.shape
    with mp.workdps(30):
        for xi, found in zip(points, score.flatten().tolist(), strict=True):
            h = mp.mpf(sigma) * mp.mpf("1e-6")  # central difference: an error of h^2 / sigma^2 = 1e-12
            up, down = (log_density(mp.mpf(xi) + d, alpha, sigma) for d in (h, -h))
            wanted = (up - down) / (2 * h)
            assert abs(found - wanted) * sigma < 1e-8


@pytest.mark.parametrize("transform", [FIVE, LevelMiddles(5, -1.0, 1.0)], ids=repr)
@pytest.mark.parametrize("s", [0.01, 0.05, 0.3, 1.0, 10.0])
def test_the_variance_is_the_slope_of_the_mean(transform, s):
    """Var[x_0 | x_t] = s^2 d E[x_0 | x_t] / dy for the exact logits of independent pixels, by autograd."""
    t, s = time_of(s)
    x = torch.linspace(-1.5, 1.5, 31, dtype=F64)[:, None].requires_grad_()
    model = ScoreModel(Constant(PROBABILITIES.log()), WIDE, Levels(transform))
    times = t.expand(31)
    score, variance = model.score_and_variance(x, times, torch.tensor(1.0))
    (slope,) = torch.autograd.grad(model.denoised(x, times).sum(), x)
    assert torch.equal(score, model(x, times)) and model.has_variance
    torch.testing.assert_close(variance, s**2 * slope, rtol=1e-5, atol=1e-9)


def test_the_variance_is_that_of_an_enumeration():
    """Two pixels that depend on each other: mean and variance from the sum over all levels, of integrals over their boxes."""
    sde, t = VPSDE(), torch.full((3,), 0.3, dtype=F64)
    alpha, sigma = float(sde.alpha(t[0])), float(sde.sigma(t[0]))
    x = torch.tensor([[-0.2, -0.1], [0.9, 0.4], [-0.7, 0.3]], dtype=F64)
    score, variance = ScoreModel(Twin(sde), sde, Levels(FIVE), data_std=None).score_and_variance(
        x, t, torch.tensor(1.0)
    )
    u = torch.linspace(-1.0, 1.0, 10_001, dtype=F64)
    u = 0.5 * (u[1:] + u[:-1])
    box = FIVE.decode(u)
    for row, found, deviation in zip(x, variance, score, strict=True):
        near = (-((row[:, None] - alpha * u) ** 2) / (2 * sigma**2)).exp()
        mass = torch.zeros(2, 5, dtype=F64).index_add_(1, box, near)
        weights = PROBABILITIES[box] * torch.stack((near[0] * mass[1, box], near[1] * mass[0, box]))
        weights = weights / weights.sum(1, keepdim=True)
        mean = (weights * u).sum(1)
        torch.testing.assert_close(found, (weights * (u - mean[:, None]) ** 2).sum(1), rtol=1e-6, atol=0.0)
        torch.testing.assert_close((row + sigma**2 * deviation) / alpha, mean, rtol=1e-6, atol=1e-8)


def test_the_bound_with_the_variance_of_the_logits_is_larger_than_with_a_measured_one():
    """And the variance is calibrated: its mean is the squared error. Samples take it too."""
    sde, times = VPSDE(), torch.linspace(0.05, 1.0, 11, dtype=F64)
    levels = torch.multinomial(PROBABILITIES, 3000, replacement=True, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3000, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    x = FIVE.low + FIVE.width * (levels[:, None] + noise)
    model = ScoreModel(Constant(PROBABILITIES.log()), sde, Levels(FIVE))
    errors = denoising_errors(sde, model, x, times)
    measured = variational_bound(sde, model, x, times, variance=AnalyticVariance.of(sde, errors))
    own = variational_bound(sde, model, x, times, variance="model")
    gain = own.log_prob - measured.log_prob
    assert float(gain.mean()) > 4.0 * float(gain.std()) / 3000**0.5
    state = sde.perturb(
        x, times[4].expand(3000), torch.randn(3000, 1, generator=torch.Generator().manual_seed(2), dtype=F64)
    )
    variance = model.score_and_variance(state, times[4].expand(3000), torch.tensor(1.0))[1]
    square = (x - model.denoised(state, times[4].expand(3000))).square()
    assert abs(float((square - variance).mean())) < 4.0 * float((square - variance).std()) / 3000**0.5
    assert Ancestral(5, variance="model")(sde, model, (4, 1)).samples.shape == (4, 1)
    with pytest.raises(
        TypeError,
        match=r"score=<ScoreModel> has no variance: give a LearnedVarianceModel, a ScoreModel with the prediction",
    ):
        Ancestral(5, variance="model")(sde, ScoreModel(Constant(PROBABILITIES.log()), sde), (4, 1))


def test_wrong_logits_are_detected():
    t = torch.tensor([0.1], dtype=F64)
    x = torch.tensor([[0.03]], dtype=F64)
    right = ScoreModel(Constant(PROBABILITIES.log()), VPSDE(), Levels(FIVE))(x, t)
    wrong = ScoreModel(Constant((1.05 * PROBABILITIES).log() * 1.05), VPSDE(), Levels(FIVE))(x, t)
    assert abs(float(right - wrong)) * float(VPSDE().sigma(t)) > 1e-4


class Twin(nn.Module):
    """Two pixels that always have the same level: the exact logits of one are the prior times the other's evidence."""

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, x, label):
        t = self.sde.time_of_log_noise(label)
        edges, s = FIVE.edges().numpy(), (self.sde.sigma(t) / self.sde.alpha(t)).numpy()[:, None, None]
        other = (x / self.sde.alpha(t)[:, None]).flip(1).detach().numpy()[..., None]
        evidence = stats.norm.cdf(edges[1:], other, s) - stats.norm.cdf(edges[:-1], other, s)
        return PROBABILITIES.log() + torch.from_numpy(evidence).log()


@pytest.mark.parametrize("t", [0.05, 0.3, 0.8])
def test_pixels_that_depend_on_each_other(t):
    """p_t(x) = sum_k p_k e_k(x_1) e_k(x_2), its gradient by central differences in 40 digits."""
    sde, t = VPSDE(), torch.full((3,), t, dtype=F64)
    alpha, sigma = float(sde.alpha(t[0])), float(sde.sigma(t[0]))
    x = torch.tensor([[-0.2, -0.1], [0.9, 0.4], [-0.7, 0.3]], dtype=F64)
    score = ScoreModel(Twin(sde), sde, Levels(FIVE), data_std=None)(x, t)

    def log_p(a, b):
        def evidence(v, k):
            ends = [(mp.mpf(alpha) * (mp.mpf(-1) + mp.mpf(2) * (k + j) / 5) - v) / sigma for j in (0, 1)]
            return mp.ncdf(ends[1]) - mp.ncdf(ends[0])

        return mp.log(sum(mp.mpf(float(PROBABILITIES[k])) * evidence(a, k) * evidence(b, k) for k in range(5)))

    with mp.workdps(40):
        h = mp.mpf("1e-9")
        for (a, b), found in zip(x.tolist(), score.tolist(), strict=True):
            a, b = mp.mpf(a), mp.mpf(b)
            wanted = [(log_p(a + h, b) - log_p(a - h, b)) / (2 * h), (log_p(a, b + h) - log_p(a, b - h)) / (2 * h)]
            assert max(abs(f - w) for f, w in zip(found, wanted, strict=True)) * sigma < 1e-8


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("s", NOISES)
def test_no_nan_in_values_and_gradients(s, dtype):
    """Also a thousand s away from the data, with extreme logits, and for the gradient of the logits."""
    transform = Quantized(17, -1.0, 1.0)
    t, s = time_of(s)
    y = [*places(transform, s), -1.0 - 1000 * s, 1.0 + 1000 * s]
    x = torch.tensor(y, dtype=dtype)[:, None].requires_grad_()
    logits = torch.linspace(-200.0, 200.0, 17, dtype=dtype).requires_grad_()
    model = ScoreModel(Constant(logits), WIDE, Levels(transform))
    times = t.to(dtype).expand(len(y))
    score, posterior = model(x, times), model.posterior(x, times)
    assert score.dtype == dtype and posterior.mean.dtype == dtype
    assert ((posterior.mean >= -1) & (posterior.mean <= 1)).all()
    for value in (score, posterior.mean, posterior.logits):
        assert torch.isfinite(value).all()
        for gradient in torch.autograd.grad(value.sum(), (x, logits), retain_graph=True):
            assert torch.isfinite(gradient).all()


def test_the_evidence_decides_if_the_noise_is_small():
    """For s far below the width of a box the mean is x_t itself and the score is zero: the density is flat within a box."""
    transform = Quantized(17, -1.0, 1.0)
    x = transform.encode(torch.arange(17)[:, None], None, dtype=F64)
    t = time_of(1e-3)[0].expand(17)
    model = ScoreModel(Constant(torch.linspace(-9.0, 9.0, 17, dtype=F64)), WIDE, Levels(transform))
    posterior = model.posterior(x, t)
    assert torch.equal(posterior.logits.argmax(-1).flatten(), torch.arange(17))
    # half a box is 29 s: what leaks over its edge is exp(-430)
    assert torch.allclose(posterior.mean, x, atol=1e-12) and float(model(x, t).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 5), (2, 1, 5), (1, 3, 5), (3, 5)])
def test_an_output_of_another_shape_is_refused(shape):
    class Shaped(nn.Module):
        def forward(self, x, label):
            return torch.zeros(shape)

    model = ScoreModel(Shaped(), VPSDE(), Levels(FIVE))
    for call in (model, model.denoised, model.posterior):
        with pytest.raises(ValueError, match=r"must have shape \(2, 3, 5\), one logit for each level"):
            call(torch.zeros(2, 3), torch.tensor([0.5, 0.6]))
