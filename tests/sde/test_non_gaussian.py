"""Processes with noise that is not Gaussian: their distributions, objectives, samplers and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from benchmarks.exact_noise_distributions import gamma_density, laplace_score, second_weight
from scoresde import VESDE, VPSDE, GaussianMixture, Quantized, ScoreModel, UniPC, log_likelihood
from scoresde.likelihood import elbo
from scoresde.losses import DenoisingScoreMatching, NoiseRegression, VariationalLoss
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.noise_distributions import CenteredGamma, Gaussian, GeneralizedNormal, NoiseSum, overlapping_scales
from scoresde.samplers import PredictorCorrector, ProbabilityFlowODE
from scoresde.samplers.discretization import ReferenceDiscretization
from scoresde.samplers.predictor_corrector import Ancestral, AnnealedLangevin, ReverseDiffusion
from scoresde.score import denoising_errors
from scoresde.sde import GammaNoise, LevelNoise, NonGaussianChain, NonGaussianSDE, StepNoise
from tests.noise_distributions_common import F64, FALSE_ALARM, HEAVY

GAMMA = NonGaussianSDE(VPSDE(), GammaNoise(0.5))
LAPLACE = NonGaussianSDE(VESDE(0.05, 5.0), LevelNoise(GeneralizedNormal(1.0)))
STEPS = NonGaussianSDE(VPSDE(1.0, 1.0), StepNoise(HEAVY)).discretize(10)
EVERY = [GAMMA, GAMMA.discretize(50), LAPLACE, STEPS]


def iterate(chain, count, seed=0):
    """The states at all instants of a chain from x_0 = 0.7, (N, count), by one step after the other."""
    times, source = chain.time(torch.arange(chain.steps)), NoiseSource.of(seed, count)
    x, found = torch.full((count,), 0.7, dtype=F64), []
    for i, t in enumerate(times):
        law, kernel = chain.noise.between(chain, times[i - 1] if i else None, t), chain.step(t)
        x = kernel.a * x + kernel.std * law.sample(source, (), step=i, purpose="iterate", dtype=F64)
        found.append(x)
    return torch.stack(found)


def direct(chain, count, i, seed=1):
    t = chain.time(torch.tensor(i))
    noise = chain.sample_noise(NoiseSource.of(seed, count), (), t, step=0, purpose="direct", dtype=F64)
    return chain.alpha(t) * 0.7 + chain.sigma(t) * noise


@pytest.mark.parametrize("theta_0", [1e-3, 0.5, 2.0])
def test_gamma_noise_is_that_of_the_paper(theta_0):
    """k_t = beta_t / (abar_t theta_0^2), kbar_t theta_t^2 = 1 - abar_t and kbar_t = sum k_i, up to rounding."""
    chain = NonGaussianSDE(VPSDE(), GammaNoise(theta_0)).discretize(100)
    times = chain.time(torch.arange(100))
    betas, abar = chain.step(times).std ** 2, chain.alpha(times) ** 2
    total = chain.noise.between(chain, None, times)
    theta = abar.sqrt() * theta_0
    torch.testing.assert_close(total.k * theta**2, 1 - abar, rtol=1e-11, atol=0)
    step = chain.noise.between(chain, times[:-1], times[1:])
    torch.testing.assert_close(step.k, (betas / (abar * theta_0**2))[1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(total.variance, torch.ones(100, dtype=F64))
    torch.testing.assert_close(step.variance, torch.ones(99, dtype=F64))


def test_a_gamma_chain_of_100_steps_agrees_with_its_closed_form():
    """KS p > .01, and moments within five standard errors. theta_0 = 0.5 leaves a skewness of .7 at the end: a Gaussian fails."""
    chain = NonGaussianSDE(VPSDE(0.1, 2.0), GammaNoise(0.5)).discretize(100)
    x = iterate(chain, 5000)[-1]
    end = chain.time(torch.tensor(99))
    alpha, sigma = float(chain.alpha(end)), float(chain.sigma(end))
    k = (sigma / alpha / 0.5) ** 2
    closed = stats.gamma(k, loc=0.7 * alpha - sigma * math.sqrt(k), scale=sigma / math.sqrt(k))
    assert stats.kstest(x.numpy(), closed.cdf).pvalue > 0.01
    assert stats.kstest(direct(chain, 5000, 99).numpy(), closed.cdf).pvalue > 0.01
    assert float(x.mean()) == pytest.approx(0.7 * alpha, abs=0.05)
    assert float(x.std()) == pytest.approx(sigma, rel=0.05)
    assert stats.kstest(x.numpy(), stats.norm(0.7 * alpha, sigma).cdf).pvalue < FALSE_ALARM  # planted


@pytest.mark.parametrize("count", [400_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_the_steps_of_a_mixture_agree_with_their_direct_sum(count):
    """Ten steps: KS p > .01, mean within .005, variance within 1 %, excess kurtosis within 5 %."""
    end = STEPS.time(torch.tensor(9))
    law = STEPS.noise.between(STEPS, None, end)
    x, y = iterate(STEPS, count)[-1], direct(STEPS, count, 9)
    assert stats.ks_2samp(x.numpy(), y.numpy()).pvalue > 0.01
    expected = float(law.excess_kurtosis)
    assert expected > 1 and float(law.variance) == pytest.approx(1, rel=1e-12)
    for values in (x, y):
        assert abs(float(values.mean() - 0.7 * STEPS.alpha(end))) < 0.005
        assert float(values.std()) == pytest.approx(float(STEPS.sigma(end)), rel=0.01)
        assert float(stats.kurtosis(values.numpy())) == pytest.approx(expected, rel=0.05)
    # planted: the noise of the first three steps
    wrong = STEPS.noise.between(STEPS, None, STEPS.time(torch.tensor(2)))
    assert float(wrong.excess_kurtosis) != pytest.approx(expected, rel=0.05)


def test_the_noise_of_a_step_adds_up_to_that_of_the_level():
    """Cumulants of x / alpha: the fourth ones of (0, s) and (s, t) add up to that of (0, t)."""
    for sde in (GAMMA, STEPS):
        s, t = torch.tensor(4.0 / 9, dtype=F64), torch.tensor(8.0 / 9, dtype=F64)

        def fourth(a, b, sde=sde):
            tau = [0.0 if u is None else (sde.sigma(u) / sde.alpha(u)) ** 2 for u in (a, b)]
            return sde.noise.between(sde, a, b).excess_kurtosis * (tau[1] - tau[0]) ** 2

        torch.testing.assert_close(fourth(None, s) + fourth(s, t), fourth(None, t), rtol=1e-9, atol=0)


def test_gamma_noise_as_the_noise_of_steps_is_summed_step_by_step():
    assert isinstance(CenteredGamma(2.0, 0.5).sum_of_steps(torch.tensor([0.5, 0.2])), NoiseSum)


@pytest.mark.parametrize("sde", EVERY, ids=repr)
def test_draws_depend_only_on_seed_step_and_index(sde):
    """So that restarts and several processes see the same noise. Objectives, and samplers with their start."""
    objective, x0 = NoiseRegression(sde, seed=3), torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    whole = objective.draw(x0, step=5, indices=torch.arange(6))
    for rows in (torch.tensor([4]), torch.tensor([5, 1, 2])):
        part = objective.draw(x0[rows], step=5, indices=rows)
        torch.testing.assert_close(part.x_t, whole.x_t[rows])
        assert torch.equal(part.t, whole.t[rows])
    assert float((whole.x_t - whole.kernel.mean(x0) - whole.kernel.scale(whole.noise)).abs().max()) < 1e-5
    sampler = Ancestral(4)
    samples = sampler(sde, lambda x, t: -x, (5, 2), seed=2).samples
    later = sampler(sde, lambda x, t: -x, (2, 2), seed=2, first=3).samples
    torch.testing.assert_close(samples[3:], later)


def test_the_steps_of_a_sampler_have_the_noise_of_the_process():
    """A step with score 0 from T, where the noise of the start is known: x_s = x_t / a + std n."""
    times, count = (1.0, 0.9, 0.5), 4000
    states = []
    Ancestral(times, denoise=False)(
        GAMMA, lambda x, t: 0 * x, (count, 1), dtype=F64, callback=lambda k, t, x: states.append(x.clone())
    )
    s, t = torch.tensor(0.5, dtype=F64), torch.tensor(0.9, dtype=F64)
    kernel = GAMMA.transition(s, t)
    noise = ((states[2] - states[1] / kernel.a) / kernel.std).flatten().numpy()
    k = float(GAMMA.noise.between(GAMMA, s, t).k)
    closed = stats.gamma(k, loc=-math.sqrt(k), scale=1 / math.sqrt(k))
    assert stats.kstest(noise, closed.cdf).pvalue > 0.01
    start = (states[0] / GAMMA.prior_std()).flatten().numpy()
    assert abs(start.mean()) < 0.06 and start.std() == pytest.approx(1, abs=0.06)


def test_ancestral_sampling_has_a_bias_that_gaussian_noise_does_not_have():
    """A standard error of .015. docs/noise_distributions.md states the bias: the reverse of a gamma process has jumps whose rates
    depend on the state, and a mean plus noise of one distribution does not have them."""
    assert second_weight(VPSDE(), lambda n, t: -0.5 * n**2, 50, 1000) == pytest.approx(0.7, abs=0.06)
    biased = second_weight(GAMMA, gamma_density(GAMMA), 50, 1000)
    assert abs(biased - 0.7) > 0.2


def test_exponent_2_is_the_code_of_gaussian_noise():
    """beta = 2: density, target, kernel, levels and losses of given noise equal those of the Gaussian code to 1e-10."""
    base = VESDE(0.05, 5.0)
    sde = NonGaussianSDE(base, LevelNoise(GeneralizedNormal(2.0)))
    noise, x0 = (torch.randn(8, 3, dtype=F64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    t = torch.linspace(0.1, 0.9, 8, dtype=F64)
    assert (sde.noise_target(noise, t) - noise).abs().max() < 1e-10
    score = GaussianMixture([[0.0, 0.0, 0.0]], 1.0).score(base)

    def plain(x, t):
        return score(x, t)

    ours, theirs = (DenoisingScoreMatching(p)(plain, x0, t=t, noise=noise) for p in (sde, base))
    assert (ours - theirs).abs().max() < 1e-10
    torch.testing.assert_close(sde.prior_log_prob(x0), base.prior_log_prob(x0), rtol=1e-10, atol=0)


def test_prediction_of_gaussian_noise_is_denoising_score_matching():
    model, x0 = ScoreModel(MLP((2,)), VPSDE()), torch.ones(4, 2)
    assert torch.equal(NoiseRegression(VPSDE())(model, x0, step=1), DenoisingScoreMatching(VPSDE())(model, x0, step=1))
    draw = NoiseRegression(VPSDE(), p=1).draw(x0, step=1)
    expected = (draw.noise - model.noise(draw.x_t, draw.t)).abs().mean(1)
    torch.testing.assert_close(NoiseRegression(VPSDE(), p=1)(model, x0, step=1), expected)


def test_the_target_is_the_score_of_the_noise():
    noise, t = torch.tensor([[0.3, -2.0]], dtype=F64), torch.tensor([0.5])
    torch.testing.assert_close(LAPLACE.noise_target(noise, t), math.sqrt(2) * noise.sign())
    law = GAMMA.noise.between(GAMMA, None, t)
    torch.testing.assert_close(GAMMA.noise_target(noise, t), -law.score(noise))


def minor_weight(sde, score, count, steps, snr):
    levels = len(overlapping_scales(1.0, 5.0, 0.05, (1,)))
    sampler = PredictorCorrector(None, AnnealedLangevin(snr, steps), ReferenceDiscretization(levels))
    x = sampler(sde.discretize(levels), score, (count, 1), dtype=F64 if count == 2000 else torch.float32).samples
    return float((x > 0).double().mean()), float(x[x < 0].std())


def test_a_minor_mode_keeps_its_weight():
    """A 95/5 mixture, annealed Langevin dynamics with its exact score at the default levels: the minor weight within .02.

    2000 samples have a standard error of .005."""
    means, weights = torch.tensor([-1.5, 1.5], dtype=F64), torch.tensor([0.95, 0.05], dtype=F64)

    def score(x, t):
        return laplace_score(x, LAPLACE.sigma(t)[:, None], means, 0.3, weights)

    found, spread = minor_weight(LAPLACE, score, 2000, 60, 0.5)
    assert abs(found - 0.05) < 0.02
    assert spread == pytest.approx(0.3, rel=0.07)
    assert (
        minor_weight(LAPLACE, score, 2000, 1, 0.05)[0] > 0.3
    )  # planted: steps that are too short to follow the levels


@pytest.mark.long
def test_a_minor_mode_keeps_its_weight_with_a_trained_network():
    generator = torch.Generator().manual_seed(0)
    x0 = 0.3 * torch.randn(20_000, 1, generator=generator)
    x0 += torch.where(torch.rand(20_000, 1, generator=generator) < 0.05, 1.5, -1.5)
    levels = len(overlapping_scales(1.0, 5.0, 0.05, (1,)))
    chain = LAPLACE.discretize(levels)
    torch.manual_seed(0)
    model, loss = ScoreModel(MLP((1,)), chain), DenoisingScoreMatching(chain)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4000)
    for _ in range(4000):
        optimizer.zero_grad()
        loss(model, x0[torch.randint(len(x0), (512,), generator=generator)]).mean().backward()
        optimizer.step()
        schedule.step()
    found, _ = minor_weight(LAPLACE, model, 4000, 60, 0.5)
    assert abs(found - 0.05) < 0.02


MODEL = ScoreModel(MLP((2,)), GAMMA)


@pytest.mark.parametrize(
    "call",
    [
        lambda: UniPC(5)(GAMMA, MODEL, (2, 2)),
        lambda: ProbabilityFlowODE()(GAMMA, MODEL, (2, 2)),
        lambda: PredictorCorrector(ReverseDiffusion())(GAMMA, MODEL, (2, 2)),
        lambda: log_likelihood(GAMMA, MODEL, torch.zeros(2, 2)),
        lambda: elbo(GAMMA, MODEL, torch.zeros(2, 2)),
        lambda: denoising_errors(GAMMA, MODEL, torch.zeros(2, 2), torch.tensor([0.5, 1.0])),
        lambda: GaussianMixture([[0.0, 0.0]], 1.0).score(GAMMA)(torch.zeros(1, 2), torch.ones(1)),
        lambda: VariationalLoss(GAMMA.discretize(50), Quantized(2)),
        lambda: Ancestral(5, variance=lambda level: level)(GAMMA, MODEL, (2, 2)),
    ],
)
def test_what_needs_gaussian_noise_is_refused(call):
    with pytest.raises(TypeError, match="needs Gaussian noise"):
        call()


def test_refusals():
    for make, error, message in (
        (lambda: NonGaussianSDE(VPSDE(), Gaussian()), TypeError, "noise=.*ProcessNoise"),
        (lambda: NonGaussianSDE(GAMMA, GammaNoise()), ValueError, "sde=.*continuous time"),
        (lambda: NonGaussianSDE(VPSDE().discretize(100), GammaNoise()), ValueError, "sde=.*discretize"),
        (lambda: NonGaussianSDE(3, GammaNoise()), TypeError, "sde=3"),
        (lambda: NonGaussianChain(VPSDE(), 10), TypeError, "give a NonGaussianSDE"),
        (lambda: GammaNoise(0.0), ValueError, "theta_0="),
        (lambda: LevelNoise(3), TypeError, "noise=3"),
        (lambda: StepNoise(GeneralizedNormal(1.0, 2.0)), ValueError, "variance"),
        (lambda: NoiseRegression(GAMMA, p=3), ValueError, "p=3"),
        (lambda: DenoisingScoreMatching(GAMMA, "likelihood"), ValueError, "weighting='likelihood'"),
        (lambda: DenoisingScoreMatching(STEPS), TypeError, "NoiseRegression"),
        (lambda: STEPS.prior_log_prob(torch.zeros(1, 2)), TypeError, "density"),
        (lambda: NoiseRegression(STEPS.sde)(MODEL, torch.zeros(1, 2)), TypeError, "discretize"),
    ):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("sde", EVERY, ids=repr)
def test_prints_as_its_call(sde):
    import scoresde.noise_distributions as distributions
    import scoresde.sde as processes

    assert eval(repr(sde), {**vars(distributions), **vars(processes)}) == sde
