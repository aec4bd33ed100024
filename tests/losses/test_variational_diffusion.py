"""The variational bound as an objective: closed forms, entropy, gradients of the schedule, and low-discrepancy times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde import VESDE, VPSDE, GaussianMixture, ScoreModel
from scoresde.data import Digits, LevelMiddles, WithoutDequantization
from scoresde.likelihood import noisy_levels
from scoresde.losses import (
    ChainTimes,
    DenoisingScoreMatching,
    LowDiscrepancy,
    ScheduleVariance,
    UniformLogNoise,
    UniformTime,
    VariationalDiffusionLoss,
    VariationalDraw,
    VariationalSchedule,
)
from scoresde.losses.times import radical_inverse
from scoresde.networks import MLP
from scoresde.score.level_decoder import level_log_prob
from scoresde.score.quantized import Levels
from scoresde.sde import CriticallyDampedLangevin, LearnedSNRSDE, LogSNRLinearSDE, LogSNRSDE

F64 = torch.float64
HIGH, LOW = 9.0, -6.0


class Sine(LogSNRSDE):
    def log_snr(self, t):
        return HIGH + (LOW - HIGH) * torch.sin(0.5 * math.pi * t)


class Cubic(LogSNRSDE):
    def log_snr(self, t):
        return HIGH + (LOW - HIGH) * (t + 0.5 * t**2 + 2.0 * t**3) / 3.5


SHAPES = {"linear": LogSNRLinearSDE(HIGH, LOW), "sine": Sine(), "cubic": Cubic()}


def legendre(count):
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(count))
    return 0.5 * (nodes + 1.0), 0.5 * weights


def hermite(count):
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(count))
    return nodes, weights / weights.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_the_integral_depends_on_the_ends_of_gamma_only(shape, std, worst):
    """1/2 int MMSE dSNR of N(0, std^2) is 1/2 ln((1 + std^2 SNR_max) / (1 + std^2 SNR_min)) for every shape."""
    sde, (t, weight) = SHAPES[shape], legendre(60)
    score = GaussianMixture(torch.zeros(1, 1), torch.tensor([std])).score(sde)
    loss = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")
    one, zero = torch.ones(60, 1, dtype=F64), torch.zeros(60, 1, dtype=F64)
    # the residual is linear in x_0 and z: its mean square is the sum of those for (std, 0) and (0, 1)
    each = loss(score, std * one, t=t, noise=zero) + loss(score, zero, t=t, noise=one)
    wanted = 0.5 * math.log((1 + std**2 * math.exp(HIGH)) / (1 + std**2 * math.exp(LOW)))
    worst("integral of the MMSE over the SNR", off := abs(float((each * weight).sum()) - wanted))
    assert off < 1e-5


class WrongWeight(LogSNRLinearSDE):
    """A process whose loss has a wrong weight, of 1.001."""

    def in_diffusion_units(self, v, t, kernel=None):
        return super().in_diffusion_units(v, t, kernel) * math.sqrt(1.001)


PROBABILITIES = torch.tensor([0.5, 0.2, 0.05, 0.25], dtype=F64)
FOUR = LevelMiddles(4)


def exact_score(sde):
    """The score of the levels of FOUR with PROBABILITIES in one dimension."""

    def score(x, t):
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        middles = FOUR.middles(x.dtype)
        share = (PROBABILITIES.to(x).log() - 0.5 * ((x - alpha * middles) / sigma) ** 2).softmax(-1)
        return (alpha * (share * middles).sum(-1, keepdim=True) - x) / sigma**2

    return score


def expected_bound(sde, times=None):
    """The mean bound of the exact score over levels, times and noise, by quadrature."""
    loss = VariationalDiffusionLoss(sde, FOUR, times=times)
    (u, of_time), (z, of_noise) = legendre(150), hermite(41)
    u, z, k = (v.reshape(-1) for v in torch.meshgrid(u, z, torch.arange(4.0, dtype=F64), indexing="ij"))
    weight = (of_time[:, None, None] * of_noise[:, None] * PROBABILITIES).reshape(-1)
    t, x0, noise = loss.times.times(sde, u), FOUR.middles()[k.long()][:, None], z[:, None]
    draw = loss.draw(x0, t=t, noise=noise, step=0)
    draw = VariationalDraw(draw.t, draw.noise, draw.x_t, draw.kernel, x0, noise)
    return float((loss.evaluate(exact_score(sde), draw) * weight).sum())


@pytest.mark.parametrize("times", [None, UniformLogNoise(0.005, 400.0)], ids=["uniform", "log noise"])
def test_the_exact_score_gives_the_entropy(times, worst):
    """The bound of the exact score is the entropy of the levels, in bits."""
    entropy = float(-(PROBABILITIES * PROBABILITIES.log2()).sum())
    sde = LogSNRLinearSDE(12.0, -12.0)
    worst("bound of the exact score minus the entropy, bits", off := abs(expected_bound(sde, times) - entropy))
    assert off < 1e-5


def test_a_wrong_weight_is_found():
    entropy = float(-(PROBABILITIES * PROBABILITIES.log2()).sum())
    assert abs(expected_bound(WrongWeight(12.0, -12.0)) - entropy) > 1e-3


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(0.01, 50.0)], ids=repr)
def test_other_processes_bound_the_entropy(sde):
    entropy = float(-(PROBABILITIES * PROBABILITIES.log2()).sum())
    assert -1e-3 < expected_bound(sde, UniformLogNoise(0.01, 1000.0)) - entropy < 0.01


def learned(train_ends=True, **model):
    torch.manual_seed(0)
    sde = LearnedSNRSDE(6.0, -3.0, train_ends=train_ends, hidden=4).double()
    with torch.no_grad():
        sde.c += 0.5 * torch.randn(4)
    network = MLP((1, 8, 8), width=16, depth=1).double()
    torch.nn.init.normal_(network.last.weight, std=0.02)
    return sde, ScoreModel(network, sde, **model)


@pytest.fixture(scope="module")
def digits():
    return WithoutDequantization(Digits())


def test_gradients_of_the_end_points_are_those_of_the_bound(digits, worst):
    """Against central differences, and the gradient of the shape against that of the second moment of the diffusion term."""
    sde, model = learned()
    x0 = digits.train.encode(slice(16), seed=0, dtype=F64)
    bound, schedule = VariationalDiffusionLoss(sde, digits.transform), VariationalSchedule(sde, digits.transform)
    value = schedule(model, x0, step=3)
    assert torch.allclose(value, bound(model, x0, step=3), rtol=1e-12)
    value.mean().backward()
    for p in (sde.gamma_0, sde.log_rise):
        values = []
        for step in (1e-5, -2e-5):
            p.data += step
            with torch.no_grad():
                values.append(float(bound(model, x0, step=3).mean()))
        p.data += 1e-5
        worst("gradient of the end points", off := abs(float(p.grad) / ((values[0] - values[1]) / 2e-5) - 1))
        assert off < 1e-6
    shape = [sde.w, sde.a, sde.b, sde.c]
    found = [p.grad.clone() for p in shape]
    wanted = torch.autograd.grad(bound.terms(model, bound.draw(x0, step=3)).diffusion.square().mean(), shape)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_with_fixed_ends_the_gradient_is_that_of_the_variance(digits):
    sde, model = learned(train_ends=False)
    x0, times = digits.train.encode(slice(8), seed=0, dtype=F64), UniformTime()
    a = VariationalSchedule(sde, digits.transform, times=times)(model, x0, step=0)
    b = ScheduleVariance(sde, times=times)(model, x0, step=0)
    (found,), (wanted,) = (torch.autograd.grad(loss.mean(), [sde.a]) for loss in (a, b))
    factor = (1.0 - times.t_min) * 0.5 / math.log(2.0)  # of the mean over coordinates to bits/dim
    assert torch.allclose(found, wanted * factor**2, rtol=1e-6)
    assert not VariationalSchedule(sde, digits.transform)(model, x0.detach(), step=0).isnan().any()


@pytest.mark.long
def test_training_moves_the_end_points_to_a_smaller_bound():
    """From SNR_max = 1 the noise hides the levels; the bound of the exact score decreases while the end point moves."""
    sde, count = LearnedSNRSDE(0.0, -10.0, train_ends=True, hidden=4), 40
    loss = VariationalSchedule(sde, FOUR)
    optimizer = torch.optim.Adam([p for p in sde.parameters() if p.requires_grad], lr=0.2)
    k = torch.multinomial(PROBABILITIES, 64 * count, replacement=True, generator=torch.Generator().manual_seed(0))
    x0 = FOUR.encode(k[:, None], None, dtype=torch.float32).reshape(count, 64, 1)
    for step, batch in enumerate(x0):
        optimizer.zero_grad()
        loss(exact_score(sde), batch, step=step).mean().backward()
        optimizer.step()
    assert -float(sde.gamma_0.detach()) > 2.5
    with torch.no_grad():
        assert expected_bound(sde) < expected_bound(LearnedSNRSDE(0.0, -10.0)) - 0.03


class TestTimes:
    def test_a_batch_is_equally_spaced(self):
        loss = DenoisingScoreMatching(VPSDE(), times=LowDiscrepancy(UniformTime(0.1)))
        for step in (0, 5):
            position = torch.arange(step * 64, step * 64 + 64)
            t = loss.draw(torch.zeros(64, 1), step=step, indices=position).t
            assert torch.allclose(t.sort().values.diff(), torch.full((63,), 0.9 / 64), atol=1e-6)
            halves = [loss.draw(torch.zeros(32, 1), step=step, indices=part).t for part in position.split(32)]
            assert torch.equal(torch.cat(halves), t)

    def test_each_time_is_uniform(self):
        loss = DenoisingScoreMatching(VPSDE(), times=LowDiscrepancy())
        t = torch.stack([loss.draw(torch.zeros(1, 1), step=k, indices=torch.tensor([7])).t for k in range(300)])[:, 0]
        far = (t.sort().values - (torch.arange(300) + 0.5) / 300).abs().max()
        assert far < 1.95 / 300**0.5  # Kolmogorov-Smirnov, false alarms below 0.1 %

    def test_radical_inverse(self):
        found = radical_inverse(torch.tensor([0, 1, 2, 3, 6, 2**32 - 1]))
        assert found.tolist() == [0.0, 0.5, 0.25, 0.75, 0.375, 1.0 - 2.0**-32]

    def test_the_variance_of_a_batch_is_smaller(self):
        x = GaussianMixture(torch.zeros(1, 64), 0.5)
        score, data = x.score(VPSDE()), x.sample(64, seed=0)
        spread = {}
        for times in (UniformTime(0.01), LowDiscrepancy(UniformTime(0.01))):
            loss = DenoisingScoreMatching(VPSDE(), "likelihood", times=times)
            spread[type(times)] = torch.stack([loss(score, data, step=k).mean() for k in range(200)]).var()
        assert spread[UniformTime] > 3 * spread[LowDiscrepancy]


class TestDecoder:
    @pytest.mark.parametrize("std", [1e-3, 0.05, 0.3, 2.0])
    def test_it_is_the_posterior_of_equal_levels(self, std):
        transform = LevelMiddles(17)
        k = torch.randint(17, (50, 3), generator=torch.Generator().manual_seed(0))
        x0 = transform.encode(k, None, dtype=F64)
        y = x0 + std * torch.randn(50, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
        logits = -0.5 * ((y[..., None] - transform.middles()) / std) ** 2
        wanted = logits.log_softmax(-1).gather(-1, k[..., None])[..., 0]
        assert torch.allclose(level_log_prob(x0, y, torch.tensor(std), transform), wanted, atol=1e-12)

    def test_the_mean_of_the_weights_is_the_probability(self):
        """E[p(z) p(k | z) / q(z | k)] = P(k), for the exact density of the noisy states."""
        sde, t = LogSNRLinearSDE(3.0, -8.0), 1e-5
        k = torch.arange(4).repeat_interleave(4000)
        start = noisy_levels(sde, FOUR.encode(k[:, None], None, dtype=F64), FOUR, t=t)
        at = torch.tensor(t, dtype=F64)
        gap = (start.x - sde.alpha(at) * FOUR.middles()) / sde.sigma(at)
        log_p = (PROBABILITIES.log() - 0.5 * gap**2 - sde.sigma(at).log() - 0.5 * math.log(2 * math.pi)).logsumexp(1)
        found = (log_p + start.log_weight).exp().reshape(4, -1)
        # P(k) = int p(z) p(k | z) dz for the decoder of equal levels, by the same draws of all levels
        decoder = (-0.5 * gap**2).softmax(-1)
        wanted = (PROBABILITIES[:, None] * decoder.reshape(4, -1, 4).mean(1)).sum(0)
        assert torch.allclose(found.mean(1), wanted, atol=4 * float(found.std(1).max()) / 4000**0.5)

    def test_levels_of_middles(self):
        """The posterior mean of `Levels` is that of the middles, with the prior that the network gives."""
        sde = LogSNRLinearSDE(12.0, -12.0)
        t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
        x = torch.tensor([[0.3], [-0.5], [1.0]], dtype=F64)
        output = PROBABILITIES.log().expand(3, 1, 4)
        score = Levels(FOUR).score(sde, sde.kernel(t), output, x)
        assert torch.allclose(score, exact_score(sde)(x, t), rtol=1e-10)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: VariationalDiffusionLoss(VPSDE(), Digits().transform),
                "config.data={'name': 'WithoutDequantization'",
            ),
            (
                lambda: VariationalDiffusionLoss(VPSDE().discretize(100), FOUR),
                "is not allowed: the decoder of the levels",
            ),
            (lambda: VariationalDiffusionLoss(CriticallyDampedLangevin(), FOUR), "scalar coefficients"),
            (
                lambda: VariationalDiffusionLoss(VPSDE(), FOUR, times=ChainTimes()),
                r"times=ChainTimes\(\) is not allowed",
            ),
            (lambda: VariationalSchedule(VPSDE(), FOUR), r"LearnedSNRSDE\(train_ends=True\)|sde="),
            (
                lambda: VariationalSchedule(LearnedSNRSDE(), FOUR, times=LowDiscrepancy(UniformLogNoise())),
                "the schedule decides how often",
            ),
            (lambda: LowDiscrepancy(LowDiscrepancy()), "of=LowDiscrepancy"),
        ],
    )
    def test_arguments(self, make, message):
        with pytest.raises((TypeError, ValueError), match=message):
            make()

    def test_dequantized_data(self, digits):
        loss = VariationalDiffusionLoss(VPSDE(), digits.transform)
        with pytest.raises(ValueError, match="x0 is not at the middles of the levels"):
            loss.draw(Digits().train.encode(slice(4), seed=0))
