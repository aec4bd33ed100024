"""Guided scores against closed forms: Gaussian posteriors, classes of mixtures, and their weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scoresde import VPSDE, GaussianMixture, ScoreModel
from scoresde.conditions import DROPPED, Classes, Vector, given
from scoresde.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    ComposedConditions,
    Guidance,
    MixtureOfExperts,
    StaticThreshold,
    TaskGuidance,
)
from scoresde.networks import MLP
from scoresde.samplers import AdaptiveSDE, Ancestral, Langevin, PredictorCorrector, ReverseDiffusion, UniPC
from scoresde.score import Classifier, LearnedVarianceModel, ProductOfExperts
from scoresde.sde import VESDE, NonlinearSDE

SDE = VPSDE()
FOUR = [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]


class Known:
    """A mixture of four modes as a conditional score (x, t, label=, dropped=) and as a classifier, both exact."""

    sde = SDE

    def __init__(self, std=0.2):
        self.parts = [GaussianMixture([mean], std) for mean in FOUR]
        self.whole = GaussianMixture(FOUR, std)

    def __call__(self, x, t, label=None, dropped=None):
        free = self.whole.score(SDE)(x, t)
        if label is None:
            return free
        each = torch.stack([part.score(SDE)(x, t) for part in self.parts], 1)
        under = each[torch.arange(len(x)), label]
        return under if dropped is None else torch.where(dropped[:, None], free, under)

    def log_prob(self, x, t, target):
        joint = torch.stack([part.log_prob_at(SDE, x, t) for part in self.parts], 1)
        return joint.log_softmax(1)[torch.arange(len(x)), torch.as_tensor(target).expand(len(x))]


def points(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator), torch.rand(n, generator=generator) * 0.9 + 0.05


class TestExactPosteriors:
    def test_a_gaussian_given_one_coordinate(self):
        """Correlation .9 and x_1 = 1: mean .9 and variance .19. p(x_1 = 1 | x_t) is Gaussian in closed form."""
        cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
        prior = GaussianMixture([[0.0, 0.0]], covariances=cov[None])

        def log_likelihood(x: Tensor, t: Tensor) -> Tensor:
            a, s = SDE.alpha(t), SDE.sigma(t)
            gain = (
                a[:, None, None]
                * cov
                @ torch.linalg.inv(a[:, None, None] ** 2 * cov + s[:, None, None] ** 2 * torch.eye(2))
            )
            mean = (gain @ x[:, :, None])[:, 0, 0]
            variance = (cov - a[:, None, None] * gain @ cov)[:, 0, 0]
            return -0.5 * ((1.0 - mean) ** 2 / variance + variance.log())

        score = TaskGuidance(prior.score(SDE), log_likelihood)
        x = UniPC(40)(SDE, score, (20000, 2), seed=1).samples
        assert float(x[:, 0].mean()) == pytest.approx(1.0, abs=0.01) and float(x[:, 0].std()) < 0.05
        assert float(x[:, 1].mean()) == pytest.approx(0.9, abs=0.01)
        assert float(x[:, 1].var()) == pytest.approx(0.19, abs=0.01)
        half = UniPC(40)(SDE, TaskGuidance(prior.score(SDE), log_likelihood, 0.5), (20000, 2), seed=1).samples
        assert abs(float(half[:, 1].mean()) - 0.9) > 0.02, "another weight is another distribution"

    def test_a_class_of_a_mixture(self):
        """The guided score is that of the class at every t, and so are the samples."""
        known = Known()
        x, t = points()
        for k in range(4):
            score = ClassifierGuidance(known, known, target=k)
            assert torch.allclose(score(x, t), known.parts[k].score(SDE)(x, t), atol=1e-3)
        y = torch.tensor([0, 3]).repeat(1000)
        free = ClassifierGuidance(lambda x, t: known(x, t), known)  # the score without conditions
        result = UniPC(20)(SDE, free, (2000, 2), condition={"label": y}, seed=0)
        for k in (0, 3):
            mine = result.samples[y == k]
            assert torch.allclose(mine.mean(0), torch.tensor(FOUR[k]), atol=0.03) and float(mine.std(0).max()) < 0.25

    def test_guidance_by_a_network(self):
        """The gradient of log p(y | x_t) of a classifier, also without gradients enabled, and with gradients to its weights."""
        model = ScoreModel(MLP((2,), width=8, depth=1), SDE)
        classifier = Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, classes=3)
        x, t = points()
        y = torch.tensor([0, 1, 2, 0, 1, 2])
        at = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(classifier.log_prob(at, t, y).sum(), at)
        score = ClassifierGuidance(model, classifier, weight=2.0, target=y)
        with torch.no_grad():
            found = score(x, t)
        assert torch.allclose(found, model(x, t) + 2.0 * slope, atol=1e-6) and not found.requires_grad
        score(x, t).sum().backward()
        assert all(p.grad is not None for p in classifier.network.parameters())

    def test_a_likelihood_of_the_denoised_data(self):
        """For N(0, 1) data, E[x_0 | x_t] = alpha x / (alpha^2 + sigma^2), so the gradient has a closed form."""
        prior, (x, t) = GaussianMixture([[0.0, 0.0]], 1.0), points()
        score = TaskGuidance(prior.score(SDE), lambda x0: -0.5 * ((x0 - 2.0) ** 2).sum(1), 3.0, denoised=True)
        a, s = SDE.alpha(t)[:, None], SDE.sigma(t)[:, None]
        gain = a / (a**2 + s**2)
        assert torch.allclose(score(x, t), -x / (a**2 + s**2) - 3.0 * gain * (gain * x - 2.0), atol=1e-4)


class TestClassifierFree:
    def test_it_is_linear_in_the_weight(self):
        known, (x, t), y = Known(), points(), torch.tensor([0, 1, 2, 3, 0, 1])
        under, free = known(x, t, label=y), known(x, t)
        for w in (-1.0, 0.0, 0.5, 3.0):
            score = ClassifierFree(given(known, {"label": y}), w)
            assert torch.allclose(score(x, t), (1 + w) * under - w * free, atol=1e-4), w
        other = ClassifierFree(given(known, {"label": y}), 2.0, unconditional=lambda x, t: torch.zeros_like(x))
        assert torch.allclose(other(x, t), 3.0 * under, atol=1e-4)

    def test_a_model_is_evaluated_once(self):
        calls = []
        model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(3)}), SDE)
        model.network.register_forward_hook(lambda *given: calls.append(len(given[1][0])))
        (x, t), y = points(), torch.tensor([0, 1, 2, 0, 1, 2])
        with torch.no_grad():
            for p in model.network.parameters():
                p.copy_(torch.linspace(-0.5, 0.5, p.numel()).reshape(p.shape))
            under, free = model(x, t, label=y), model(x, t)
            calls.clear()
            assert torch.allclose(ClassifierFree(model.given(label=y), 2.0)(x, t), 3 * under - 2 * free, atol=1e-5)
            assert calls == [12] and not torch.allclose(under, free)
            calls.clear()
            ClassifierFree(model.given(label=y), 0.0)(x, t)
            assert calls == [6], "without guidance the score without condition is not evaluated"
            one = ClassifierFree(model.given(label=torch.tensor(1)), 2.0)(x, t)
            assert torch.allclose(one, ClassifierFree(model.given(label=torch.ones(6).long()), 2.0)(x, t), atol=1e-6)

    def test_only_in_an_interval_of_noise_levels(self):
        known, y = Known(), torch.tensor([0, 1, 2])
        t = SDE.time_of_log_noise(torch.tensor([0.1, 1.0, 10.0]).log()).float()
        x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
        whole, part = (ClassifierFree(given(known, {"label": y}), 2.0, interval=i) for i in (None, (0.5, 5.0)))
        assert part.weight_at(t).tolist() == [0.0, 2.0, 0.0]
        assert torch.allclose(part(x, t)[1], whole(x, t)[1]) and torch.allclose(part(x, t)[0], known(x, t, label=y)[0])
        assert ClassifierFree(known, 1.0, interval=(0.0, 1e6)).weight_at(t).tolist() == [1.0] * 3
        rising = ClassifierFree(known, lambda t: 2 * t)
        assert torch.equal(rising.weight_at(t), 2 * t)

    def test_conditions_follow_the_samples(self):
        """An adaptive sampler evaluates some of the samples; each keeps its class."""
        known, y = Known(0.1), torch.tensor([0, 1, 2, 3] * 8)
        for score in (ClassifierFree(known, 1.0), ClassifierGuidance(lambda x, t: known(x, t), known, 1.0)):
            x = AdaptiveSDE(0.1)(SDE, score, (32, 2), condition={"label": y}, seed=0).samples
            assert torch.equal((x[:, None] - torch.tensor(FOUR)).square().sum(2).argmin(1), y)
        rows = torch.tensor([2, 0])
        x, t = points(4)
        bound = ClassifierFree(given(known, {"label": y[:4]}), 1.5)
        assert torch.allclose(bound.select_rows(rows)(x[rows], t[rows]), bound(x, t)[rows], atol=1e-5)

    def test_a_weight_moves_samples_away_from_the_others(self):
        """The guided mean of a class is further out, and its spread smaller."""
        known = Known(0.5)
        means, stds = [], []
        for w in (0.0, 1.0, 3.0):
            x = UniPC(20)(
                SDE, ClassifierFree(known, w), (1000, 2), condition={"label": torch.zeros(1000).long()}
            ).samples
            means.append(float(x.mean()))
            stds.append(float(x.std(0).mean()))
        assert means[0] < means[1] < means[2] and stds[0] > stds[1] > stds[2]


class TestComposition:
    def test_not_left_of_the_top_is_right(self):
        """Labels: 0 top, 1 left of the mixture of four. The modes at the top without the left: the first one."""

        halves = [
            GaussianMixture([FOUR[0], FOUR[1]], 0.2).score(SDE),
            GaussianMixture([FOUR[1], FOUR[2]], 0.2).score(SDE),
        ]
        whole = Known().whole.score(SDE)

        class Sides(Known):
            def __call__(self, x, t, label=None, dropped=None):
                under = torch.stack([half(x, t) for half in halves], 1)[torch.arange(len(x)), label]
                return torch.where(dropped[:, None], whole(x, t), under)

        for weights, mode in (((1.0, -1.0), 0), ((1.0, 1.0), 1)):
            score = ComposedConditions(Sides(), ({"label": 0}, {"label": 1}), weights)
            sampler = PredictorCorrector(ReverseDiffusion(), Langevin(steps=2), steps=200)
            x = sampler(SDE, score, (300, 2), seed=0).samples
            nearest = (x[:, None] - torch.tensor(FOUR)).square().sum(2).argmin(1)
            assert float((nearest == mode).float().mean()) > 0.9, weights

    def test_the_terms(self):
        known, (x, t) = Known(), points()
        a, b = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 1, 1, 1, 1, 1])
        score = ComposedConditions(known, ({"label": a}, {"label": b}), (1.5, -0.5), weight=2.0)
        free = known(x, t)
        wanted = free + 2.0 * (1.5 * (known(x, t, label=a) - free) - 0.5 * (known(x, t, label=b) - free))
        assert torch.allclose(score(x, t), wanted, atol=1e-3)
        rows = torch.tensor([4, 2])
        assert torch.allclose(score.select_rows(rows)(x[rows], t[rows]), wanted[rows], atol=1e-3)

    def test_other_conditions_are_bound(self):
        model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(3), "other": Classes(2)}), SDE)
        (x, t), other = points(), torch.tensor([0, 1] * 3)
        score = ComposedConditions(model, ({"label": 1},)).given(other=other)
        wanted = model(x, t, label=torch.ones(6).long(), other=other)
        assert torch.allclose(score(x, t), wanted, atol=1e-5)

    def test_correctors_repair_a_product(self, worst):
        """Experts N(-1, 1), N(1, 1/4) and prior N(0, 4): the product has mean .632 and variance .2105."""
        parts = [GaussianMixture([[m]], s).score(SDE) for m, s in ((-1.0, 1.0), (1.0, 0.5), (0.0, 2.0))]
        score = ProductOfExperts(parts, (1.0, 1.0, -1.0))
        mean = 1.0 / (1.0 + 4.0 - 0.25) * (-1.0 + 4.0)
        errors = []
        for corrector in (None, Langevin(snr=0.3, steps=10)):
            x = PredictorCorrector(ReverseDiffusion(), corrector, steps=100)(SDE, score, (2000, 1), seed=0).samples
            errors.append(abs(float(x.mean()) - mean))
            worst(f"mean of a product of experts, {'with' if corrector else 'without'} correctors", errors[-1])
        assert errors[0] > 0.1 and errors[1] < errors[0] / 4

    def test_a_mixture_is_exact(self):
        parts, shares = [GaussianMixture([[m, 0.0]], s) for m, s in ((-1.0, 0.3), (1.0, 0.6))], (0.2, 0.8)
        whole = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], stds=[0.3, 0.6], weights=list(shares)).score(SDE)
        log_probs = [lambda x, t, p=part: p.log_prob_at(SDE, x, t) for part in parts]
        score = MixtureOfExperts([part.score(SDE) for part in parts], log_probs, shares)
        x, t = points()
        assert torch.allclose(score(x, t), whole(x, t), atol=1e-4)
        assert torch.allclose(score.select_rows(torch.tensor([1]))(x[:1], t[:1]), whole(x[:1], t[:1]), atol=1e-4)


def conditional(**kinds):
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(3), **kinds}), SDE)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def classifier():
    return Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, classes=3)


def test_samples_whose_conditions_are_ignored():
    """``dropped`` of the model stays: the guided score of these samples is that without conditions."""
    model, (x, t) = conditional(), points()
    label, dropped = torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)) == 0
    score = ClassifierFree(model.given(label=label, dropped=dropped), 2.0)(x, t)
    expected = torch.cat([model(x, t)[:1], ClassifierFree(model.given(label=label), 2.0)(x, t)[1:]])
    assert torch.allclose(score, expected, atol=1e-5)


def test_numbers_and_rows_are_composed():
    model, (x, t) = conditional(size=Vector(1)), points()
    rows = ({"label": 1, "size": torch.full((len(x), 1), 2.0)}, {"label": 2, "size": 0.5})
    numbers = ({"label": 1, "size": 2.0}, {"label": 2, "size": 0.5})
    assert torch.allclose(ComposedConditions(model, rows)(x, t), ComposedConditions(model, numbers)(x, t), atol=1e-6)


def plain(x, t):
    return -x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ClassifierFree(3), TypeError, "score=3 is not allowed"),
        (lambda: ClassifierFree(plain, math.nan), ValueError, "weight=nan"),
        (lambda: ClassifierFree(Known(), interval=(2.0, 1.0)), ValueError, "interval=1.0"),
        (lambda: ClassifierFree(Known(), interval=3.0), TypeError, "interval=3.0"),
        (lambda: ClassifierFree(plain, interval=(0.1, 1.0)), TypeError, "no noise level"),
        (lambda: ClassifierFree(Known(), unconditional=GaussianMixture([[0.0, 0.0]], 1.0).score(VESDE())), ValueError, "VESDE"),
        (lambda: ClassifierFree(plain)(*points()), ValueError, "has no conditions: bind them by model.given"),
        (lambda: ClassifierFree(plain, lambda t: t[:1])(*points()), ValueError, "weight returned"),
        (lambda: ClassifierGuidance(plain, plain), TypeError, "has no log_prob"),
        (lambda: ClassifierGuidance(Known(), Known())(*points()), ValueError, "target is missing"),
        (lambda: TaskGuidance(plain, 3), TypeError, "log_likelihood=3"),
        (lambda: TaskGuidance(plain, lambda x, t: x)(*points()), ValueError, "log_likelihood returned"),
        (lambda: TaskGuidance(plain, lambda x, t: t)(*points()), ValueError, "has no graph to x"),
        (lambda: TaskGuidance(plain, lambda x, t: t * torch.ones(1, requires_grad=True))(*points()), ValueError, "no graph to x"),
        (lambda: TaskGuidance(plain, lambda x: x[:, 0], denoised=True), TypeError, "denoised=True needs"),
        (lambda: TaskGuidance(Known(), lambda x, t: x[:, 0], denoised=True), TypeError, "be called with .x_0., as denoised=True"),
        (lambda: TaskGuidance(Known(), lambda x: x[:, 0]), TypeError, "cannot be called with .x, t., as denoised=False"),
        (lambda: ComposedConditions(Known(), ()), ValueError, "conditions is empty"),
        (lambda: ComposedConditions(Known(), ({"label": 1}, {"size": 1})), ValueError, r"conditions\[1\] has the names size"),
        (lambda: ComposedConditions(Known(), ({"label": 1},), (1.0, 2.0)), ValueError, "weights has 2 entries for 1"),
        (lambda: ComposedConditions(Known(), ({"label": 1},)).given(label=2), ValueError, "given to the score and in conditions"),
        (lambda: ClassifierFree(classifier()), TypeError, "score is a Classifier, which is no score"),
        (lambda: ClassifierFree(given(lambda x, t, label: -x, {"label": 1}))(*points()), TypeError, "argument dropped"),
        (lambda: ClassifierFree(conditional().given(label=torch.tensor([0])))(*points()), ValueError, "label has shape"),
        (lambda: MixtureOfExperts([plain], []), ValueError, "log_probs has 0 entries"),
        (lambda: MixtureOfExperts([plain], [plain], (0.0,)), ValueError, "weights=0.0"),
    ],
)  # fmt: skip
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_networks_are_in_evaluation_mode(monkeypatch):
    """Samplers find the networks inside a guided score."""
    model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(2)}), SDE).train()
    modes = []
    model.network.register_forward_hook(lambda module, *_: modes.append(module.training))
    UniPC(3)(SDE, ClassifierFree(model, 1.0), (2, 2), condition={"label": torch.tensor([0, 1])})
    assert not any(modes) and model.training and isinstance(model, nn.Module) and DROPPED == "dropped"


def test_a_process_without_a_kernel():
    sde = NonlinearSDE(lambda x, t: -x, lambda t: t * 0 + 1, steps=4)
    with pytest.raises(TypeError, match="denoised=True needs"):
        TaskGuidance(Score(sde), lambda x0: x0[:, 0], denoised=True)
    x, t = points()
    assert TaskGuidance(Score(sde), lambda x, t: x[:, 0])(x, t).shape == x.shape


class Score:
    def __init__(self, sde):
        self.sde = sde

    def __call__(self, x, t):
        return -x


class TestConditionsOfTheTarget:
    """A condition that could go to the score, to the classifier or to both."""

    classifier = Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, 3)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])

    def test_a_condition_that_both_take_is_an_error(self):
        model, known = conditional(), Known()
        for score in (
            model,
            ClassifierFree(model),
            known,
            given(known, {DROPPED: None}),
            StaticThreshold(ClassifierFree(model)),
        ):
            with pytest.raises(
                ValueError, match=r"the condition 'label' is ambiguous.*give target=y.*score\.given\(label=y\)"
            ):
                ClassifierGuidance(score, self.classifier).given(label=self.y)

    def test_the_advice_works(self):
        model, (x, t) = conditional(), points()
        y = self.y[: len(x)]
        slope = ClassifierGuidance(model, self.classifier, target=y).direction(x, t)
        alone = ClassifierGuidance(model, self.classifier, target=y)(x, t)
        assert torch.allclose(alone, model(x, t) + slope, atol=1e-5)
        both = ClassifierGuidance(ClassifierFree(model.given(label=y)), self.classifier, target=y)(x, t)
        assert torch.allclose(both, ClassifierFree(model.given(label=y))(x, t) + slope, atol=1e-5)
        bound = ClassifierGuidance(model.given(label=y), self.classifier).given(label=y)
        assert torch.allclose(bound(x, t), model.given(label=y)(x, t) + slope, atol=1e-5)

    def test_scores_without_the_condition_give_it_to_the_classifier(self):
        free = ScoreModel(MLP((2,), width=8, depth=1), SDE)
        sized = ScoreModel(MLP((2,), width=8, depth=1, conditions={"size": Vector(1)}), SDE)
        for score in (free, sized, GaussianMixture([[0.0, 0.0]], 1.0).score(SDE), lambda x, t: -x):
            guided = ClassifierGuidance(score, self.classifier).given(label=self.y)
            assert torch.equal(guided.target, self.y)

    def test_a_target_and_the_condition_are_an_error(self):
        guided = ClassifierGuidance(GaussianMixture([[0.0, 0.0]], 1.0).score(SDE), self.classifier, target=2)
        with pytest.raises(ValueError, match="target=2 and the condition 'label' are both given"):
            UniPC(3)(SDE, guided, (8, 2), condition={"label": self.y})

    @pytest.mark.parametrize("target", [3, -1, 1.5, torch.tensor([0, 7]), torch.tensor([0.5])])
    def test_a_target_that_is_no_class_is_an_error_at_the_start(self, target):
        with pytest.raises(ValueError, match=r"target.* not allowed: give a class, a whole number in 0 \.\. 2"):
            ClassifierGuidance(lambda x, t: -x, self.classifier, target=target)

    def test_a_guidance_says_what_it_takes(self):
        model = conditional()
        guided = ClassifierGuidance(GaussianMixture([[0.0, 0.0]], 1.0).score(SDE), self.classifier)
        assert guided.takes("label") and not guided.given(label=self.y).takes("label") and not guided.takes("other")
        assert ClassifierFree(model).takes("label") and not ClassifierFree(model.given(label=self.y)).takes("label")


@dataclasses.dataclass(frozen=True)
class Tilt(Guidance):
    """The exact guidance of N(0, 1/4) data by exp(a x_0), a linear likelihood."""

    score: Callable[..., Tensor]
    a: float = 2.0
    weight: float = 1.0
    interval: None = None

    def direction(self, x, t):
        alpha, sigma = SDE.alpha(t)[:, None], SDE.sigma(t)[:, None]
        return self.a * alpha / 4 / (alpha**2 / 4 + sigma**2) * torch.ones_like(x)


class TestVariance:
    """Guidance keeps the variance of x_0 given x_t of the score."""

    def test_samples_of_a_tilted_gaussian_are_exact_with_three_steps(self):
        """exp(a x_0) N(x_0; 0, 1/4) = N(a / 4, 1/4). The fixed variances are off."""
        guided = Tilt(GaussianMixture([[0.0]], 0.5).score(SDE))
        options = {"denoise": False, "t_min": 1e-3}
        x = Ancestral(3, variance="model", **options)(SDE, guided, (20_000, 1)).samples
        assert abs(float(x.mean()) - 0.5) < 4 * 0.5 / 20_000**0.5 and abs(float(x.std()) - 0.5) < 4 * 0.5 / 40_000**0.5
        assert abs(float(Ancestral(3, **options)(SDE, guided, (20_000, 1)).samples.std()) - 0.5) > 0.05

    @pytest.mark.parametrize("weight", [0.0, 1.5])
    def test_it_is_that_of_the_conditional_score(self, weight):
        model = LearnedVarianceModel(MLP((2,), conditions={"label": Classes(3)}, outputs=2), SDE)
        bound = model.given(label=torch.tensor([0, 2, 1, 1, 0, 2]))
        x, t = points()
        for guided in (ClassifierFree(bound, weight), StaticThreshold(bound, -0.5, 0.5)):
            score, variance = guided.score_and_variance(x, t, torch.tensor(2.0))
            assert torch.equal(score, guided(x, t)) and guided.has_variance
            assert torch.equal(variance, bound.score_and_variance(x, t, torch.tensor(2.0))[1])
            Ancestral(2, variance="model")(SDE, guided, (6, 2))

    def test_a_refusal_names_the_guidance(self):
        model = ScoreModel(MLP((2,), conditions={"label": Classes(3)}), SDE)
        learned = LearnedVarianceModel(MLP((2,), conditions={"label": Classes(3)}, outputs=2), SDE)
        for guided in (ClassifierFree(model), ComposedConditions(learned, ({"label": 1},))):
            with pytest.raises(TypeError, match=rf"score={type(guided).__name__}\(.* has no variance: give"):
                Ancestral(2, variance="model")(SDE, guided, (3, 2))
