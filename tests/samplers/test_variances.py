"""Reverse steps with each kind of variance of x_0: by levels, of the score itself, and exact for mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scoresde import VPSDE, GaussianMixture
from scoresde.likelihood import variational_bound
from scoresde.networks import MLP
from scoresde.samplers import DDIM, Ancestral, EulerMaruyama, PredictorCorrector
from scoresde.samplers.checks import check
from scoresde.samplers.checks.moments import Case, exact_distribution
from scoresde.samplers.discretization import ReferenceDiscretization
from scoresde.samplers.particles import ParticleSampler
from scoresde.samplers.predictor_corrector import ConsistentAnnealed, Langevin
from scoresde.score import (
    AnalyticVariance,
    FreeVariance,
    GaussianVariance,
    InterpolatedVariance,
    LearnedVarianceModel,
    ScoreModel,
    denoising_errors,
)
from scoresde.sde import VESDE, CosineVPSDE, CriticallyDampedLangevin, SubVPSDE
from tests.params import some_long

F64 = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([[1.0, 0.3], [-0.8, 0.1]], dtype=F64),
    covariances=torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.4]]], dtype=F64),
    weights=torch.tensor([0.3, 0.7], dtype=F64),
)


def of_steps(predictor: type, **options):
    return lambda steps: predictor(steps, denoise=False, t_min=1e-2, **options)


EXACT = {
    "ancestral": (Ancestral, {}),
    "ddim, eta 0": (DDIM, {"eta": 0.0}),
    "ddim, eta 0.5": (DDIM, {"eta": 0.5}),
    "ddim, eta 1": (DDIM, {"eta": 1.0}),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 10.0), CosineVPSDE()], ids=repr)
def test_samples_of_gaussian_data_are_exact_with_its_own_variance(sde, name: str) -> None:
    """With 3 steps, for another standard deviation of each coordinate. The fixed variances are off."""
    kind, options = EXACT[name]

    def error(**more) -> float:
        case = Case(of_steps(kind, **options, **more), sde, (3,), (3,), None, 1e-2, None, 0.05, 10, 0)
        found = exact_distribution(case, 3)
        mean, covariance = case.gauss.marginal(1e-2)
        return float((found.covariance - covariance).abs().max() + (found.mean - mean).abs().max())

    assert error(variance="model") < 1e-10
    assert error(variance="lower" if kind is Ancestral else None) > 1e-2


VARIANCES = {"lower": "lower", "function": GaussianVariance(0.7), "model": "model"}
SAMPLERS = {
    f"{kind.__name__}, {name}": (kind, options | {"variance": None if kind is not Ancestral and name == "lower" else v})
    for kind, options in ((Ancestral, {}), (DDIM, {"eta": 0.5}))
    for name, v in VARIANCES.items()
}


def report_of(name: str, sde, counts=(10, 20, 40, 80, 160)):
    kind, options = SAMPLERS[name]
    order = None if options["variance"] == "model" else 1
    return check(lambda steps: kind(steps, **options), sde, order=order, samples=1000, counts=counts)


@pytest.mark.covering
@pytest.mark.parametrize("name", some_long(SAMPLERS, [one for one in SAMPLERS if one != "Ancestral, model"]))
def test_every_check_passes_with_every_variance(name: str) -> None:
    report = report_of(name, VPSDE())
    assert report.passed, report


@pytest.mark.long
@pytest.mark.parametrize("sde", [SubVPSDE(), VESDE(0.01, 10.0), CosineVPSDE()], ids=repr)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_check_passes_with_every_variance_on_other_processes(name: str, sde) -> None:
    """The error of DDIM with a fixed variance changes its sign below 40 steps of the cosine process."""
    report = report_of(name, sde, counts=(40, 80, 160, 320, 640))
    assert report.passed, report


def posterior_variance(sde, x: Tensor, t: float) -> Tensor:
    """By the Jacobian of the score: Cov[x_0 | x_t] = (sigma^2 + sigma^4 d score / dx) / alpha^2."""
    at = torch.full((1,), t, dtype=F64)
    alpha, sigma = float(sde.alpha(at)), float(sde.sigma(at))

    def score(one: Tensor) -> Tensor:
        return MIXTURE.score(sde)(one[None], at)[0]

    slopes = torch.stack([torch.autograd.functional.jacobian(score, one).diagonal() for one in x])
    return (sigma**2 + sigma**4 * slopes) / alpha**2


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_the_variance_of_a_mixture_is_that_of_its_score(t: float) -> None:
    for sde in (VPSDE(), VESDE(0.01, 3.0)):
        x = torch.randn(20, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 1.5
        score, variance = MIXTURE.score(sde).score_and_variance(x, torch.full((20,), t, dtype=F64), torch.tensor(1.0))
        torch.testing.assert_close(variance, posterior_variance(sde, x, t), rtol=1e-6, atol=1e-10)
        assert torch.equal(score, MIXTURE.score(sde)(x, torch.full((20,), t, dtype=F64)))


@pytest.mark.parametrize("event", [(3,), (2, 1, 2)], ids=str)
def test_isotropic_and_diagonal_components_have_the_variances_of_full_ones(event: tuple[int, ...]) -> None:
    size = torch.Size(event).numel()
    means = torch.linspace(-1.0, 1.0, 2 * size, dtype=F64).reshape(2, *event)
    for stds in (torch.tensor([0.3, 0.6], dtype=F64), torch.linspace(0.2, 0.9, 2 * size, dtype=F64).reshape(2, *event)):
        full = torch.diag_embed(stds.reshape(2, -1).expand(2, size) ** 2)
        x, t, delta = 0.3 * means[:1], torch.full((1,), 0.3, dtype=F64), torch.tensor(1.0)
        one = GaussianMixture(means, stds).score(VPSDE()).score_and_variance(x, t, delta)[1]
        other = GaussianMixture(means, covariances=full).score(VPSDE()).score_and_variance(x, t, delta)[1]
        torch.testing.assert_close(one, other)
        assert one.shape == (1, *event)


def test_the_bound_of_a_mixture_is_best_with_its_own_variance() -> None:
    """It is below the log-density on average, and above the bound with the mean variance of each level."""
    sde, x = VPSDE(), MIXTURE.sample(512, seed=0, dtype=F64)
    times = torch.linspace(1e-3, 1.0, 9, dtype=F64) ** 2
    found = {
        name: float(
            variational_bound(sde, MIXTURE.score(sde), x, times, variance=variance, replicates=4).log_prob.mean()
        )
        for name, variance in (("model", "model"), ("gauss", GaussianVariance(0.8)), ("upper", GaussianVariance(1.0)))
    }
    assert float(MIXTURE.log_prob(x).mean()) > found["model"] > max(found["gauss"], found["upper"]) + 0.05


class Exact(nn.Module):
    """Noise of N(0, std^2 I), and the output of a rule that makes its variance: a network with 2 outputs."""

    def __init__(self, sde, std: float, delta_of_t) -> None:
        super().__init__()
        self.sde, self.std, self.delta = sde, std, delta_of_t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]
        noise = sigma * x / ((alpha * self.std) ** 2 + sigma**2)
        level, delta = sigma / alpha, self.delta(t)[:, None]
        own, upper = GaussianVariance(self.std)(level), GaussianVariance(1.0)(level)
        v = torch.log1p(delta * own) / torch.log1p(delta * upper)
        return torch.stack((noise, (2.0 * v - 1.0).expand_as(x)), -1)


def test_the_bound_of_a_model_with_the_right_interpolation_is_the_entropy() -> None:
    """v = log(1 + Delta V) / log(1 + Delta V_up) gives the same bound as the variance as a function of the level."""
    sde, std = VPSDE(), 0.5
    times = torch.linspace(1e-3, 1.0, 51, dtype=F64)
    snr = (sde.alpha(times) / sde.sigma(times)) ** 2

    def delta(t: Tensor) -> Tensor:
        index = torch.searchsorted(times, t - 1e-9)
        return snr[(index - 1).clamp(min=0)] - snr[index] + (index == 0) * 1e12

    model = LearnedVarianceModel(Exact(sde, std, delta), sde, label=lambda sde, t: t, data_std=None)
    x = std * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    for i in range(1, len(times)):
        _, variance = model.score_and_variance(x, times[i].expand(64), snr[i - 1] - snr[i])
        wanted = GaussianVariance(std)(sde.sigma(times[i]) / sde.alpha(times[i])).expand_as(variance)
        torch.testing.assert_close(variance, wanted, rtol=1e-9, atol=1e-12)
    fixed = variational_bound(sde, model, x, times, variance=GaussianVariance(std), replicates=64)
    own = variational_bound(sde, model, x, times, variance="model", decoder=GaussianVariance(std), replicates=64)
    error = float((own.standard_error**2 + fixed.standard_error**2).sum().sqrt()) / 64
    assert abs(float((own.log_prob - fixed.log_prob).mean())) < 4.0 * error < 0.1
    assert own.nfe == fixed.nfe
    upper = variational_bound(sde, model, x, times)
    assert float((own.log_prob - upper.log_prob).mean()) > 0.02


@pytest.mark.parametrize("steps", [8, ReferenceDiscretization(30)], ids=["exact", "reference"])
def test_a_learned_variance_is_used_coordinate_by_coordinate(steps) -> None:
    """Samplers call the model once a step, and a model whose variance is V_up samples as DDPM's upper variance."""

    class Up(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return torch.stack((torch.sin(x), torch.ones_like(x)), -1)

    class First(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return torch.sin(x)

    sde = VPSDE()
    model, plain = LearnedVarianceModel(Up(), sde), ScoreModel(First(), sde)
    one = Ancestral(steps, variance="model")(sde, model, (4, 1, 3), dtype=F64)
    other = Ancestral(steps, variance=GaussianVariance(1.0))(sde, plain, (4, 1, 3), dtype=F64)
    assert one.nfe == other.nfe
    if steps == 8:
        torch.testing.assert_close(one.samples, other.samples)
    both = PredictorCorrector(Ancestral(variance="model"), Langevin(), steps)(sde, model, (4, 1, 3))
    assert both.samples.isfinite().all()


def test_every_sampler_runs_a_learned_variance_model_as_a_score() -> None:
    sde = VPSDE()
    for rule in (InterpolatedVariance(), FreeVariance()):
        model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), sde, variance=rule)
        for sampler in (
            EulerMaruyama(5),
            DDIM(5),
            DDIM(5, variance="model"),
            ConsistentAnnealed(9, variance="model", eta=1.0),
        ):
            assert sampler(sde, model, (3, 2)).samples.shape == (3, 2)


def test_samples_have_gradients_through_the_variance() -> None:
    sde = VPSDE()
    model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), sde)
    model = model.double()
    start, bias = torch.randn(3, 2, requires_grad=True, dtype=F64), model.network.last.bias

    def total(**options) -> Tensor:
        return Ancestral(3, variance="model", denoise=False)(sde, model, (3, 2), start=start, **options).samples.sum()

    total(differentiable=True).backward()
    with torch.no_grad():
        before = total()
        bias[1] += 1e-6  # of the variance of the first coordinate
        slope = (total() - before) / 1e-6
    assert abs(float(slope)) > 1e-3 and float(bias.grad[1]) == pytest.approx(float(slope), rel=1e-4)


def test_a_score_without_a_variance_is_refused_before_any_step() -> None:
    plain, x = ScoreModel(MLP((2,), 8, 1), VPSDE()), torch.zeros(2, 2)
    message = r"variance='model' needs a score with a variance, and score=<ScoreModel>.* give a LearnedVarianceModel"
    for sampler in (Ancestral(5, variance="model"), DDIM(5, variance="model")):
        with pytest.raises(TypeError, match=message):
            sampler(VPSDE(), plain, (2, 2))
    with pytest.raises(TypeError, match=message):
        variational_bound(VPSDE(), plain, x, torch.tensor([0.1, 1.0]), variance="model")
    for call in (
        lambda: Ancestral(variance="learned"),
        lambda: DDIM(variance="learned"),
        lambda: variational_bound(VPSDE(), plain, x, torch.tensor([0.1, 1.0]), variance="learned"),
    ):
        with pytest.raises(ValueError, match=r"variance='learned'.*model"):
            call()


def test_other_processes_and_samplers_refuse_a_variance() -> None:
    sde = CriticallyDampedLangevin()
    score = GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5])).score(sde)
    for sampler in (Ancestral(5, variance="model"), DDIM(5, variance="model"), DDIM(5, variance=GaussianVariance(1.0))):
        with pytest.raises(TypeError, match="needs a process with scalar coefficients"):
            sampler(sde, score, (2, 2))
    with pytest.raises(TypeError, match="scalar coefficients"):
        score.score_and_variance(torch.zeros(1, 2, 2), torch.ones(1), torch.tensor(1.0))
    with pytest.raises(TypeError, match="has noise that depends on the state"):
        ParticleSampler(4, 5, Ancestral(variance="model"))(VPSDE(), MIXTURE.score(VPSDE()), (4, 2))


def test_a_variance_of_another_shape_is_refused() -> None:
    class Wrong:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

        def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
            return -x, torch.ones(len(x))

    with pytest.raises(ValueError, match="variance"):
        Ancestral(5, variance="model")(VPSDE(), Wrong(), (3, 2))


def scored(seed: int) -> ScoreModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ScoreModel(MLP((2,), width=8, depth=1), VPSDE()).eval()


class Guided:
    """A guided score, as far as samplers know it."""

    has_log_potential = True

    def __init__(self, score: ScoreModel) -> None:
        self.score = score

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t)


def measured_samplers(variance):
    yield Ancestral(3, variance=variance)
    yield DDIM(3, variance=variance)
    yield ConsistentAnnealed(3, eta=1.0, variance=variance)
    yield PredictorCorrector(Ancestral(variance=variance), Langevin(), steps=3)
    yield ParticleSampler(4, 3, Ancestral(variance=variance), log_likelihood=lambda x: x.sum(1))


def test_a_variance_that_was_measured_with_other_weights_or_another_process_is_refused() -> None:
    """Also for a guided score and a function of another network; not for a function without one."""
    sde, model, other = VPSDE(), scored(0), scored(1)
    errors = denoising_errors(sde, model, MIXTURE.sample(8).float(), torch.tensor([0.1, 0.5, 1.0]))
    for sampler in measured_samplers(AnalyticVariance.of(sde, errors)):
        sampler(sde, model, (2, 2))
        scores = [other, lambda x, t: other(x, t)] + [Guided(other)] * (type(sampler) is Ancestral)
        for score in scores:
            with pytest.raises(
                ValueError, match=r"variance=AnalyticVariance was measured with weights of digest \w{16}, and score"
            ):
                sampler(sde, score, (2, 2))
        with pytest.raises(
            ValueError, match=r"variance=AnalyticVariance was measured with VPSDE.*, and the process is CosineVPSDE"
        ):
            sampler(CosineVPSDE(), lambda x, t: -x, (2, 2))
    ancestral = next(measured_samplers(AnalyticVariance.of(sde, errors)))
    for score in (Guided(model), lambda x, t: 1.1 * model(x, t), lambda x, t: -x):
        ancestral(sde, score, (2, 2))


def test_a_variance_of_the_model_is_needed_before_the_first_evaluation() -> None:
    calls = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return -x

    with pytest.raises(TypeError, match="variance='model' needs a score with a variance, and score="):
        Ancestral(3, variance="model")(VPSDE(), score, (2, 2))
    assert not calls
