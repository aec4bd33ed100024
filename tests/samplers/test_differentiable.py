"""Gradients through samplers: from the samples to the start and to the parameters of the score."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import VPSDE, GaussianMixture, ScoreModel
from scoresde.guidance import ClassifierGuidance, TaskGuidance, TweedieMoments
from scoresde.networks import MLP
from scoresde.samplers import (
    DDIM,
    DEIS,
    EDM,
    AdaptiveSDE,
    Ancestral,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    ParticleSampler,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    UniPC,
)
from scoresde.samplers.predictor_corrector import MALA
from scoresde.score import Classifier
from scoresde.sde import CriticallyDampedLangevin

SDE, DOUBLE = VPSDE(), torch.float64
DATA = GaussianMixture([[1.0, 0.0], [-1.0, 0.3]], [0.3, 0.5])
SCORE = DATA.score(SDE)
START = torch.tensor([[0.4, -1.0], [1.3, 0.2], [-0.1, 0.7]], dtype=DOUBLE)


def random_module(module):
    """The module with random weights, also in its last layer, which starts at zero."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator, dtype=DOUBLE)
    return module.double()


MODEL = random_module(ScoreModel(MLP((2,), width=8, depth=1), SDE))
CLASSIFIER = random_module(Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, classes=3))


def slopes(sampler, sde, score, start):
    """The derivative of a sum of the samples along a direction: by autograd, and by a central difference."""
    weights = torch.tensor([1.0, 0.3], dtype=DOUBLE)
    along = torch.randn(start.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))

    def value(x, **options):
        return (sampler(sde, score, (3, 2), start=x, seed=1, **options).samples * weights).sum()

    x = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(value(x, differentiable=True), x)
    h = 1e-5
    return float((slope * along).sum()), float(value(start + h * along) - value(start - h * along)) / (2 * h)


@pytest.mark.parametrize(
    "sampler",
    [
        UniPC(5), DEIS(5), DPMSolverPlusPlus(5), EDM(5), DDIM(5, eta=1.0), Ancestral(steps=5), ReverseDiffusion(steps=5),
        PredictorCorrector(EulerMaruyama(), Langevin(), steps=5), UniPC(5, denoise=False),
    ],
    ids=lambda sampler: type(sampler).__name__,
)  # fmt: skip
@pytest.mark.parametrize("score", [SCORE, MODEL], ids=["mixture", "model"])
def test_the_gradient_is_that_of_the_samples(sampler, score):
    by_graph, by_difference = slopes(sampler, SDE, score, START)
    assert by_graph == pytest.approx(by_difference, rel=1e-4, abs=1e-6)


def test_guided_scores_and_auxiliary_variables():
    guided = ClassifierGuidance(MODEL, CLASSIFIER, 3.0, target=torch.tensor([0, 1, 2]))
    by_graph, by_difference = slopes(UniPC(4), SDE, guided, START)
    plain, _ = slopes(UniPC(4), SDE, MODEL, START)
    assert by_graph == pytest.approx(by_difference, rel=1e-4) and by_graph != pytest.approx(plain, rel=1e-2)
    sde = CriticallyDampedLangevin()
    start = torch.stack((START, START.flip(0)), -1)
    by_graph, by_difference = slopes(PredictorCorrector(EulerMaruyama(), None, steps=4), sde, DATA.score(sde), start)
    assert by_graph == pytest.approx(by_difference, rel=1e-4)


def test_parameters_have_gradients_and_the_network_runs_again_in_evaluation_mode():
    calls = []
    handle = MODEL.network.register_forward_hook(lambda module, *_: calls.append(module.training))
    try:
        MODEL.train()
        samples = UniPC(4)(SDE, MODEL, (3, 2), start=START, differentiable=True).samples
        once = len(calls)
        bias = [p for p in MODEL.parameters() if p.ndim == 1][-1]
        (slope,) = torch.autograd.grad(samples.sum(), bias)
    finally:
        handle.remove()
    assert once == 5 and len(calls) == 10 and not any(calls) and MODEL.training
    values = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            bias[0] += h
            values.append(float(UniPC(4)(SDE, MODEL, (3, 2), start=START).samples.sum()))
            bias[0] -= h
    assert float(slope[0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_without_it_there_is_no_graph():
    x = START.clone().requires_grad_(True)
    assert not UniPC(4)(SDE, SCORE, (3, 2), start=x).samples.requires_grad and torch.is_grad_enabled()
    with torch.no_grad():
        assert UniPC(4)(SDE, SCORE, (3, 2), start=x, differentiable=True).samples.requires_grad
        assert not torch.is_grad_enabled()


def test_half_precision():
    x = START.bfloat16().requires_grad_(True)
    (slope,) = torch.autograd.grad(UniPC(4)(SDE, SCORE, (3, 2), start=x, differentiable=True).samples.sum(), x)
    assert slope.dtype == torch.bfloat16 and bool(slope.isfinite().all()) and float(slope.abs().max()) > 0


GUIDED = TaskGuidance(SCORE, lambda x, t: -(x**2).sum(1))


def blind(x, t):
    return SCORE(x.detach(), t)


@pytest.mark.parametrize(
    ("sampler", "score", "error", "message"),
    [
        (ProbabilityFlowODE(), SCORE, TypeError, "is not allowed for ProbabilityFlowODE.*: use a sampler with a grid"),
        (AdaptiveSDE(), SCORE, TypeError, "differentiable=True is not allowed for AdaptiveSDE"),
        (ParticleSampler(particles=4, steps=3), GUIDED, TypeError, "differentiable=True is not allowed for ParticleSampler"),
        (UniPC(3), blind, ValueError, "score has no graph to x"),
        (UniPC(3), TweedieMoments(SCORE, lambda x: x[:, :1], torch.ones(1, 1)), ValueError, "score has no graph to x"),
        (PredictorCorrector(EulerMaruyama(), MALA(), steps=3), SCORE, ValueError, "score has no graph to x"),
    ],
)  # fmt: skip
def test_refused(sampler, score, error, message):
    with pytest.raises(error, match=message):
        sampler(SDE, score, (3, 2), start=START.float().requires_grad_(True), differentiable=True)
    assert torch.is_grad_enabled()


def test_gaussian_data():
    """The flow of N(0, s^2) multiplies by the ratio of the standard deviations at its two ends."""
    score = GaussianMixture([[0.0]], 0.5).score(SDE)
    x = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    samples = UniPC(40, denoise=False)(SDE.until(0.5), score, (2, 1), start=x, differentiable=True).samples
    (slope,) = torch.autograd.grad(samples.sum(), x)

    def deviation(t):
        t = torch.tensor(t, dtype=DOUBLE)
        return math.sqrt(float(0.25 * SDE.alpha(t) ** 2 + SDE.sigma(t) ** 2))

    assert torch.allclose(slope, torch.full_like(slope, deviation(1e-3) / deviation(0.5)), rtol=1e-3)
