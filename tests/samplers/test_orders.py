"""Orders of convergence of all predictors, by exact propagation of moments.

For data N(m, v) and the exact score, a predictor's step is affine in the state and the noise: x -> c x + b + n z. Its three
numbers are read off by calling the step itself on three inputs, so the distribution of the sampler's output is known
without sampling:
mean and variance obey m <- c m + b, v <- c^2 v + n^2. The error against the true distribution at t_min must fall as
steps^-order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from scoresde.samplers import Ancestral, EulerMaruyama, PredictorCorrector, ProbabilityFlowODE, ReverseDiffusion
from scoresde.samplers.base import CountedScore
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.predictor_corrector import Predictor
from scoresde.samplers.predictor_corrector.correctors import AnnealedLangevin
from scoresde.sde import VESDE, VPSDE, SubVPSDE
from scoresde.solvers import ScipyODE
from tests.params import whole

MEAN, STD = 0.6, 0.4
T_MIN = 1e-2
# mild processes, so that 100 steps are in the asymptotic range
SDES = {"vp": VPSDE(0.1, 8.0), "subvp": SubVPSDE(0.1, 8.0), "ve": VESDE(0.2, 2.0)}


def true_distribution(sde, t):
    t = torch.as_tensor(t, dtype=torch.float64)
    return sde.alpha(t) * MEAN, (sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2


def score(sde):
    def value(x, t):
        mean, variance = true_distribution(sde, t)
        return (mean[:, None] - x) / variance[:, None]

    return value


def grid(sde, steps):
    return torch.linspace(sde.T, T_MIN, steps + 1, dtype=torch.float64)


def intervals(discretization, sde, x):
    return discretization.intervals(sde, discretization.times(sde), x)


def propagated(sde, predictor, steps):
    """Mean and variance of the sampler's output, started from the true distribution at T."""
    mean, variance = true_distribution(sde, sde.T)
    s = score(sde)
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    model = Model(CountedScore(s), sde)
    for interval in intervals(ExactTransitions(steps, grid), sde, x):
        state, _, _ = predictor.step(model, x, interval, z if predictor.stochastic else None, None)
        b, c, n = state[0, 0], state[1, 0] - state[0, 0], state[2, 0] - state[0, 0]
        mean, variance = c * mean + b, c**2 * variance + n**2
    return mean, variance


def error(sde, predictor, steps):
    mean, variance = propagated(sde, predictor, steps)
    true_mean, true_variance = true_distribution(sde, T_MIN)
    return float((mean - true_mean).abs() + (variance - true_variance).abs())


def slope(sde, predictor):
    """Least-squares slope of -log2(error) over step counts from 100 on: five under `make test-all`, three by default."""
    counts = [100, 200, 400, 800, 1600] if whole() else [100, 200, 400]
    y = torch.tensor([-math.log2(error(sde, predictor, n)) for n in counts])
    k = torch.arange(len(counts), dtype=torch.float32)
    return float(((k - k.mean()) * (y - y.mean())).sum() / ((k - k.mean()) ** 2).sum())


PREDICTORS = [
    EulerMaruyama(),
    EulerMaruyama(flow=True),
    ReverseDiffusion(),
    ReverseDiffusion(flow=True),
    Ancestral(variance="upper"),
    Ancestral(variance="lower"),
]


@pytest.mark.covering
@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
@pytest.mark.parametrize("name", SDES)
def test_first_order(name, predictor):
    assert 0.85 < slope(SDES[name], predictor) < 1.3


@dataclass(frozen=True)
class Planted(Predictor):
    """Euler-Maruyama with a factor on the score's term and on the noise."""

    drift: float = 1.0
    noise: float = 1.0

    def step(self, model, x, interval, z, past):
        at, h = interval.at, interval.h
        mean = x - (at.F * x - at.g**2 * self.drift * model.score(x, at)) * h
        return mean + self.noise * at.g * h**0.5 * z, mean, None


@pytest.mark.covering
@pytest.mark.parametrize("planted", [Planted(drift=2.0), Planted(drift=0.5), Planted(noise=0.0), Planted(noise=2**0.5)])
@pytest.mark.parametrize("name", SDES)
def test_planted_errors_do_not_converge(name, planted):
    """With a factor 2 in g^2, an extra factor 1/2, or a missing noise term, the error does not converge."""
    assert slope(SDES[name], planted) < 0.5


def test_the_method_without_planted_errors_converges():
    assert 0.85 < slope(SDES["subvp"], Planted()) < 1.3


def test_upper_is_exact_for_a_standard_normal_under_vp():
    """DDPM's sigma_t^2 = beta_t is the optimal variance for x_0 ~ N(0, I): moments stay at (0, 1) for any number of steps."""
    sde = VPSDE()
    x = torch.tensor([[1.0]], dtype=torch.float64)
    interval, model = intervals(ExactTransitions(7), sde, x)[3], Model(CountedScore(lambda x, t: -x), sde)
    mean, *_ = Ancestral(variance="upper").step(model, x, interval, torch.zeros_like(x), None)
    noise, *_ = Ancestral(variance="upper").step(model, 0 * x, interval, x, None)
    assert torch.allclose(mean**2 + noise**2, torch.ones(()).double(), atol=1e-14)


def test_lower_is_exact_for_data_at_a_single_point():
    """The variance of q(x_s | x_t, x_0) is exact where x_0 is known: one step from any t gives the distribution at s."""
    for sde in SDES.values():
        times = torch.tensor([0.8, 0.3], dtype=torch.float64)
        point, t, s = 0.7, times[0], times[1]
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
        value = (sde.alpha(t) * point - x) / sde.sigma(t) ** 2
        (interval,) = intervals(ExactTransitions(1, lambda sde, n, times=times: times), sde, x)
        state, *_ = Ancestral(variance="lower").step(
            Model(CountedScore(lambda x, t, v=value: v), sde), x, interval, z, None
        )
        b, c, n = state[0, 0], state[1, 0] - state[0, 0], state[2, 0] - state[0, 0]
        assert torch.allclose(c * sde.alpha(t) * point + b, sde.alpha(s) * point, rtol=1e-12)
        assert torch.allclose(c**2 * sde.sigma(t) ** 2 + n**2, sde.sigma(s) ** 2, rtol=1e-12)


@pytest.mark.parametrize("name", SDES)
def test_langevin_has_the_stationary_variance_of_theory(name):
    """With step e and target variance v the stationary variance is v / (1 - e / (2 v)) (systems.md, entry 2, gamma = 2 e)."""
    sde = SDES[name]
    corrector = AnnealedLangevin(snr=0.3)
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    interval = intervals(ExactTransitions(1000, grid), sde, x)[500]
    _, v = true_distribution(sde, torch.tensor(interval.at.t, dtype=torch.float64))
    state, *_ = corrector.step(Model(CountedScore(score(sde)), sde), x, interval, z, None)
    c, n = state[1, 0] - state[0, 0], state[2, 0] - state[0, 0]
    e = 2 * interval.a**2 * (0.3 * interval.level) ** 2
    assert torch.allclose(n**2 / (1 - c**2), v / (1 - e / (2 * v)), rtol=1e-10)


@pytest.mark.parametrize("name", SDES)
def test_probability_flow_reaches_its_tolerance(name):
    """x(T) -> x(t_min) is affine for Gaussian data: sqrt(v_min / v_T) (x - m_T) + m_min."""
    sde = SDES[name]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * sde.prior_std()
    (mean_T, var_T), (mean, var) = true_distribution(sde, sde.T), true_distribution(sde, T_MIN)
    exact = mean + (var / var_T).sqrt() * (start - mean_T)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solver = ScipyODE(rtol=tolerance, atol=tolerance)
        found = ProbabilityFlowODE(solver, t_min=T_MIN, denoise=False)(
            sde, score(sde), (9, 1), start=start, dtype=torch.float64
        )
        errors.append(float((found.samples - exact).abs().max()))
    assert errors[2] < 1e-5
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("name", SDES)
def test_encoding_and_back_returns_the_data(name):
    sde = SDES[name]
    x = torch.linspace(-1, 1.5, 6, dtype=torch.float64)[:, None]
    sampler = ProbabilityFlowODE(ScipyODE(rtol=1e-8, atol=1e-8), t_min=T_MIN, denoise=False)
    latent = sampler.encode(sde, score(sde), x)
    back = sampler(sde, score(sde), (6, 1), start=latent).samples
    assert torch.allclose(back, x, atol=1e-6)


def test_a_missing_denoising_step_is_detected():
    """The last mean has less variance than the noisy state, by the noise of the last step."""
    sde = SDES["vp"]
    kwargs = {"seed": 3, "dtype": torch.float64}
    clean = PredictorCorrector(EulerMaruyama(), steps=20)(sde, score(sde), (4000, 1), **kwargs).samples
    noisy = PredictorCorrector(EulerMaruyama(), steps=20, denoise=False)(sde, score(sde), (4000, 1), **kwargs).samples
    last = ExactTransitions(20).transitions(sde).steps(torch.zeros((), dtype=torch.float64))[-1]
    added = sde.diffusion(last.t) ** 2 * last.width
    # the variance of 4000 draws is known to 2.2 %; five standard errors: a false alarm in 1e6
    assert abs(float(noisy.var() - clean.var() - added)) < 5 * 0.022 * float(clean.var() + added) * 0.5
    assert float(noisy.var()) > float(clean.var())
