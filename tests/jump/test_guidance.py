"""Guidance of jump models: the distributions of the samples against exactly computed ones, as the weight changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde import VPSDE, GaussianMixture
from scoresde.conditions import given
from scoresde.guidance import ClassifierFree, ClassifierGuidance, ComposedConditions, MixtureOfExperts
from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    CategoricalModel,
    EnumeratedJoint,
    FirstHitting,
    JumpClassifierGuidance,
    Sharpened,
    Uniform,
    grids,
)
from tests.jump.problems import ancestral_table, coupled, floor, frequencies, pairs, processes, total_variation

N = 4000
UNDER = coupled()
"""p(x | c = 1)."""
OTHER = EnumeratedJoint(torch.full((6, 6), 1 / 36, dtype=torch.float64))
"""p(x | c = 0)."""
SHARE = 0.3
"""p(c = 1)."""
WITHOUT = EnumeratedJoint(SHARE * UNDER.probabilities + (1.0 - SHARE) * OTHER.probabilities)


class ExactClassifier:
    """p_t(c | x_t) by Bayes' rule."""

    def __init__(self, process):
        self.process = process

    def log_prob(self, x, t, target):
        t = torch.full_like(t, 0.5) if self.process.carries_over else t
        under = math.log(SHARE) + UNDER.log_prob_at(self.process, x, t)
        other = math.log(1.0 - SHARE) + OTHER.log_prob_at(self.process, x, t)
        right = torch.where(torch.as_tensor(target) == 1, under, other)
        return right - torch.logaddexp(under, other)


def tilted(under, without, w):
    p = under.log() * (1 + w) - w * without.log()
    return (p - p.logsumexp(-1, keepdim=True)).exp()


def free(process, weight):
    return ClassifierFree(UNDER.model(process), weight, unconditional=WITHOUT.model(process))


@pytest.mark.parametrize("weight", [-0.5, 0.0, 1.0, 3.0])
def test_one_coordinate_has_the_tilted_distribution_under_every_process(weight):
    p, q = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    target = tilted(p, q, weight)
    for process in processes(3):
        model = ClassifierFree(
            EnumeratedJoint(p).model(process), weight, unconditional=EnumeratedJoint(q).model(process)
        )
        exact = EnumeratedJoint(target).model(process)
        x = torch.arange(process.states)[:, None]
        for t in (0.3, 0.8):
            t = torch.full((len(x),), t, dtype=torch.float64)
            assert torch.allclose(model(x, t).softmax(-1), exact(x, t).exp(), atol=1e-9)
        table = ancestral_table(process, model, grids.equal_times(process, 5), 1)[:3]
        plain = ancestral_table(process, exact, grids.equal_times(process, 5), 1)[:3]
        assert torch.allclose(table, plain, atol=1e-9)
        if type(process).__name__ != "RateMatrix":  # its prior is that of x_T
            assert torch.allclose(table, target, atol=1e-6)


def order_table(weight):
    """The mean over both orders of the products of factors that are normalized on their own."""
    p, q = UNDER.probabilities, WITHOUT.probabilities
    first = tilted(p.sum(1), q.sum(1), weight)[:, None] * tilted(
        p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True), weight
    )
    p, q = p.mT, q.mT
    second = tilted(p.sum(1), q.sum(1), weight)[:, None] * tilted(
        p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True), weight
    )
    return 0.5 * (first + second.mT)


@pytest.mark.parametrize("weight", [-0.5, 2.0])
def test_several_coordinates_have_the_product_of_normalized_factors(weight):
    process, table = Absorbing(6), order_table(weight)
    result = FirstHitting()(process, free(process, weight), (N, 2), seed=2)
    assert total_variation(frequencies(result.samples), table) < floor(UNDER, N)
    many = ancestral_table(process, free(process, weight), grids.equal_times(process, 200))[:6, :6]
    assert total_variation(many, table) < 0.005
    joint = tilted(UNDER.probabilities.flatten(), WITHOUT.probabilities.flatten(), weight).reshape(6, 6)
    assert total_variation(table, joint) > 0.01  # it is not the tilted joint


def test_weight_zero_is_the_conditional_model_and_minus_one_the_other():
    process, x = Absorbing(6), torch.tensor([[6, 2], [6, 6]])
    t = torch.tensor([0.4, 1.0], dtype=torch.float64)
    assert torch.allclose(free(process, 0.0)(x, t), UNDER.model(process)(x, t))
    masked = process.masked(x)
    assert torch.allclose(free(process, -1.0)(x, t)[masked].softmax(-1), WITHOUT.model(process)(x, t)[masked].exp())


@pytest.mark.parametrize("process", processes()[:5], ids=lambda p: type(p).__name__)
def test_an_exact_classifier_gives_the_conditional_model(process):
    guided = JumpClassifierGuidance(WITHOUT.model(process), ExactClassifier(process), target=1, evaluations=50)
    x = pairs(process.states)
    for at in (0.3, 0.8):
        t = torch.full((len(x),), at, dtype=torch.float64)
        assert torch.allclose(guided(x, t).softmax(-1), UNDER.model(process)(x, t).exp(), atol=1e-6)


def test_the_samples_of_an_exact_classifier_have_the_condition():
    process = Absorbing(6)
    guided = JumpClassifierGuidance(WITHOUT.model(process), ExactClassifier(process))
    result = FirstHitting()(process, guided, (N, 2), condition={"label": torch.ones(N, dtype=torch.int64)})
    assert total_variation(frequencies(result.samples), UNDER.probabilities) < floor(UNDER, N)
    assert total_variation(WITHOUT.probabilities, UNDER.probabilities) > 0.2


def test_a_classifier_with_a_weight_tilts_one_coordinate():
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    likelihood = torch.tensor([0.2, 0.5, 0.9, 0.4], dtype=torch.float64)  # the last for the mask

    class Classifier:
        def log_prob(self, x, t, target):
            return likelihood.log()[x[:, 0]]

    process = Absorbing(3)
    guided = JumpClassifierGuidance(EnumeratedJoint(p).model(process), Classifier(), weight=2.0, target=0)
    expected = p * likelihood[:3] ** 2
    found = guided(torch.tensor([[3]]), torch.ones(1, dtype=torch.float64)).softmax(-1)
    assert torch.allclose(found[0, 0], expected / expected.sum())


@pytest.mark.parametrize("process", [Absorbing(6), Uniform(6)], ids=lambda p: type(p).__name__)
def test_the_first_order_is_exact_for_a_log_likelihood_that_is_a_sum(process):
    weights = torch.randn(2, process.states, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Linear:
        def log_prob(self, x, t, target):
            x = x if x.is_floating_point() else nn.functional.one_hot(x, process.states).double()
            return target * (x * weights.to(x)).sum((1, 2))

    x, t = pairs(process.states), torch.full((process.states**2,), 0.4, dtype=torch.float64)
    model, target = WITHOUT.model(process), torch.linspace(0, 1, len(x), dtype=torch.float64)
    exact = JumpClassifierGuidance(model, Linear(), target=target)(x, t)
    first = JumpClassifierGuidance(model, Linear(), target=target, first_order=True)(x, t)
    assert torch.allclose(exact.softmax(-1), first.softmax(-1), atol=1e-4)
    assert not torch.allclose(exact.softmax(-1), model(x, t).exp(), atol=1e-2)


def test_conditions_of_a_sampler_reach_the_model_and_the_classifier():
    process = Absorbing(3)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes = []

        def forward(self, x, t, label, dropped=None):
            self.sizes.append(len(x))
            seen = torch.ones(len(x)) if dropped is None else (~dropped).double()
            return (seen[:, None] * nn.functional.one_hot(label, 3))[:, None].expand(*x.shape, 3)

    network = Network()
    model = ClassifierFree(CategoricalModel(network, process), weight=29.0)
    label = torch.tensor([2, 0, 1, 1])
    result = AncestralSampler(50)(process, model, (4, 2), condition={"label": label})
    assert torch.equal(result.samples, label[:, None].expand(4, 2)) and max(network.sizes) < 16  # rows are selected
    with pytest.raises(ValueError, match="is another one"):
        AncestralSampler(50)(Absorbing(4), model, (4, 2), condition={"label": label})

    class Classifier:
        def log_prob(self, x, t, target):
            return 30.0 * (x == target[:, None]).double().sum(1)

    plain = CategoricalModel(network, process)
    guided = JumpClassifierGuidance(given(plain, {"label": torch.tensor(0).expand(4)}), Classifier(), name="wanted")
    result = AncestralSampler(20)(process, guided, (4, 2), condition={"wanted": label})
    assert torch.equal(result.samples, label[:, None].expand(4, 2))


def test_composed_conditions_have_the_product_of_their_ratios():
    """Under two conditions, a token has the probability p (p_1 / p)^a (p_2 / p)^b, up to a constant."""
    process = Absorbing(3)
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.5, -1.0], [0.2, 0.1, 0.0]])

    class Network(nn.Module):
        def forward(self, x, t, label=None, dropped=None):
            return logits[torch.where(dropped, 2, label)][:, None].expand(*x.shape, 3)

    model = ComposedConditions(
        CategoricalModel(Network(), process), ({"label": 0}, {"label": 1}), (1.0, -0.5), weight=2.0
    )
    x = torch.tensor([[3, 0], [3, 3], [1, 2]])
    found, p = model(x, torch.ones(3)), logits.softmax(-1)
    expected = p[2] * (p[0] / p[2]) ** 2 / (p[1] / p[2])
    assert torch.allclose(found[1].softmax(-1), (expected / expected.sum()).expand(2, 3), atol=1e-5)
    assert found[2].argmax(-1).tolist() == [1, 2] and not found.isnan().any()


def test_temperature_and_top_p():
    p = torch.tensor([0.1, 0.5, 0.4, 0.0], dtype=torch.float64)
    x, t = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.float64)

    def sharpened(**options):
        return Sharpened(lambda x, t: p.log().expand(*x.shape, 4), **options)(x, t).softmax(-1)[1, 2]

    assert torch.allclose(sharpened(), p)
    assert torch.allclose(sharpened(temperature=0.5), p**2 / (p**2).sum())
    assert torch.allclose(sharpened(top_p=0.9), torch.tensor([0.0, 5 / 9, 4 / 9, 0.0], dtype=torch.float64))
    assert torch.allclose(sharpened(top_p=0.5), torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    process = Absorbing(6)
    result = FirstHitting()(process, Sharpened(UNDER.model(process), top_p=1e-6), (5, 2), seed=3)
    assert len(result.samples.unique(dim=0)) <= 2  # the greatest of each factor, in both orders


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: ClassifierFree(m, math.nan), ValueError, "weight=nan"),
        (lambda m: Sharpened(m, temperature=0.0), ValueError, "temperature=0.0"),
        (lambda m: Sharpened(m, top_p=1.5), ValueError, "top_p=1.5"),
        (lambda m: Sharpened(GaussianMixture([[0.0]], 1.0).score(VPSDE())), TypeError, "is the score of an SDE"),
        (
            lambda m: ClassifierGuidance(m, ExactClassifier(m.process), target=1)(
                torch.tensor([[6, 6]]), torch.ones(1)
            ),
            TypeError,
            "use JumpClassifierGuidance",
        ),
        (
            lambda m: MixtureOfExperts([m], [lambda x, t: t])(torch.tensor([[6, 6]]), torch.ones(1)),
            TypeError,
            "logits of tokens have another rule",
        ),
        (lambda m: JumpClassifierGuidance(lambda x, t: x, ExactClassifier(m.process)), TypeError, "has no process"),
        (lambda m: JumpClassifierGuidance(m, lambda x, t: x), TypeError, r"has no log_prob\(x, t, target\)"),
        (
            lambda m: JumpClassifierGuidance(m, ExactClassifier(m.process))(torch.tensor([[6, 6]]), torch.ones(1)),
            ValueError,
            "target is missing",
        ),
        (lambda m: ClassifierFree(m, interval=(0.1, 1.0)), TypeError, "give a weight that is a function of t"),
    ],
)
def test_wrong_calls(call, kind, words):
    with pytest.raises(kind, match=words):
        call(UNDER.model(Absorbing(6)))
