"""The negative log-likelihood of a target: its minimum is the exact posterior p(y | x_t), in closed form for Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde import GaussianMixture
from scoresde.losses import (
    ChainTimes,
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    SlicedScoreMatching,
    TargetLikelihood,
    UniformLogNoise,
    UniformTime,
)
from scoresde.networks import MLP
from scoresde.score import Classifier, Regressor, ScoreModel
from scoresde.sde import VESDE, VPSDE
from tests.losses.common import F64

SDE = VPSDE()
MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=F64)
STDS, WEIGHTS = torch.tensor([0.3, 0.4, 0.5], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
TIMES = UniformTime(t_min=0.01)
WRONG = 1.2
"""Factor of the noise in the planted error."""


def classes_and_data(n, seed, dtype=F64):
    """Classes drawn by ``WEIGHTS``, and one Gaussian for each."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    x0 = MEANS[y] + STDS[y, None] * torch.randn(n, 2, generator=generator, dtype=F64)
    return y, x0.to(dtype)


class ExactLogits(nn.Module):
    """The exact logits at theta = 0. Its parameters move the means, the weights and the logits' scale."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.zeros(3, 2, dtype=F64))
        self.bias = nn.Parameter(torch.zeros(3, dtype=F64))
        self.scale = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, label):
        alpha, sigma = (1.0 + (2.0 * label).exp()) ** -0.5, (1.0 + (-2.0 * label).exp()) ** -0.5
        variance = (alpha[:, None] * STDS) ** 2 + sigma[:, None] ** 2
        offset = x[:, None] - alpha[:, None, None] * (MEANS + self.means)
        joint = WEIGHTS.log() + self.bias - offset.square().sum(2) / (2.0 * variance) - variance.log()
        return (1.0 + self.scale) * joint


class ExactMoments(nn.Module):
    """y = N(0, 1), x_0 = y (1, .5) + .3 z: the mean of y given x_t and the logarithm of its variance, at theta = 0."""

    direction = torch.tensor([1.0, 0.5], dtype=F64)

    def __init__(self):
        super().__init__()
        self.gain, self.log_variance = (nn.Parameter(torch.zeros((), dtype=F64)) for _ in range(2))

    def forward(self, x, label):
        alpha, sigma = (1.0 + (2.0 * label).exp()) ** -0.5, (1.0 + (-2.0 * label).exp()) ** -0.5
        noise = (0.3 * alpha) ** 2 + sigma**2
        precision = 1.0 + alpha**2 * self.direction.square().sum() / noise
        mean = (x @ self.direction) * alpha / noise / precision
        return torch.stack([(1.0 + self.gain) * mean, self.log_variance - precision.log()], 1)


def classifier():
    return Classifier(ExactLogits(), SDE, 3, data_std=None)


def regressor():
    return Regressor(ExactMoments(), SDE, 1, data_std=None, min_std=1e-9)


def problem(kind, n=40_000):
    """(model at the exact posterior, data, target)."""
    if kind == "classes":
        y, x0 = classes_and_data(n, seed=1)
        return classifier(), x0, y
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(n, 1, generator=generator, dtype=F64)
    return regressor(), y * ExactMoments.direction + 0.3 * torch.randn(n, 2, generator=generator, dtype=F64), y


def z_scores(model, loss, x0, y, factor=1.0):
    """Each component of the gradient at the exact posterior, in standard errors. ``factor`` multiplies the noise."""
    draw = loss.draw(x0, step=0)
    noisy = draw.kernel.mean(x0) + factor * draw.kernel.scale(draw.noise)
    parameters = dict(model.named_parameters())
    rows = {name: [] for name in parameters}
    for part in torch.arange(len(x0)).chunk(100):  # gradients of 100 batches
        value = -model.log_prob(noisy[part], draw.t[part], y[part]).mean()
        for name, found in zip(rows, torch.autograd.grad(value, list(parameters.values())), strict=True):
            rows[name].append(found.flatten())
    every = torch.cat([torch.stack(found) for found in rows.values()], 1)
    return every.mean(0) / (every.std(0) / len(every) ** 0.5)


def test_the_exact_logits_are_those_of_bayes_rule():
    y, x0 = classes_and_data(50, seed=3)
    t = torch.linspace(0.01, 1.0, 50, dtype=F64)
    x = TargetLikelihood(SDE).draw(x0, t=t, step=0).x_t
    joint = torch.stack(
        [
            WEIGHTS[k].log() + GaussianMixture(MEANS[k : k + 1], STDS[k : k + 1]).log_prob_at(SDE, x, t)
            for k in range(3)
        ],
        1,
    )
    assert torch.allclose(classifier().log_prob(x, t, y), joint.log_softmax(1)[torch.arange(50), y], atol=1e-10)


@pytest.mark.parametrize("kind", ["classes", "vector"])
def test_the_gradient_is_zero_at_the_exact_posterior(kind):
    """Every component within 4.5 standard errors: a false alarm in 1e-4 of seeds. Noise that is 20 % too large is found."""
    model, x0, y = problem(kind)
    loss = TargetLikelihood(SDE, times=TIMES)
    draw = loss.draw(x0, step=0)
    assert torch.equal(loss(model, x0, label=y, step=0), -model.log_prob(draw.x_t, draw.t, y))
    assert z_scores(model, loss, x0, y).abs().max() < 4.5
    assert z_scores(model, loss, x0, y, factor=WRONG).abs().max() > 10.0


@pytest.mark.parametrize("kind", ["classes", "vector"])
def test_every_perturbation_of_the_exact_posterior_has_a_larger_loss(kind):
    model, x0, y = problem(kind)
    loss = TargetLikelihood(SDE, times=TIMES)
    with torch.no_grad():
        exact = loss(model, x0, label=y, step=0)
        for parameter in model.parameters():
            for place in range(parameter.numel()):
                for change in (-0.6, 0.6):
                    parameter.view(-1)[place] += change
                    more = loss(model, x0, label=y, step=0) - exact
                    parameter.view(-1)[place] -= change
                    assert more.mean() > 4.0 * more.std() / len(more) ** 0.5


def trained(model, loss, x0, y, steps, rate=5e-3):
    """Adam with a linear decay of the learning rate, on batches of 256."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        rows = torch.arange(step * 256, (step + 1) * 256) % len(x0)
        optimizer.zero_grad()
        loss(model, x0[rows], label=y[rows], step=step).mean().backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize(("kind", "most"), [("classes", 0.012), ("vector", 0.012)])
def test_a_short_training_comes_near_the_exact_posterior(kind, most):
    """The Kullback-Leibler divergence from the exact posterior in nats, over t and x_t."""
    exact, x0, y = problem(kind)
    network = MLP((2,), width=48, depth=1, outputs=3 if kind == "classes" else 2)
    torch.manual_seed(0)
    model = Classifier(network, SDE, 3) if kind == "classes" else Regressor(network, SDE, 1)
    loss = TargetLikelihood(SDE, times=TIMES, seed=4)
    target = y if kind == "classes" else y.float()
    before = divergence(model, exact, kind)
    after = divergence(trained(model, loss, x0.float(), target, 300), exact, kind)
    assert before > 0.1 and after < most, (before, after)


def divergence(model, exact, kind):
    _, x0, _ = problem(kind, 4000)
    draw = TargetLikelihood(SDE, times=TIMES, seed=9).draw(x0, step=0)
    with torch.no_grad():
        ours = model.distribution(draw.x_t.float(), draw.t.float())
        return float(torch.distributions.kl_divergence(exact.distribution(draw.x_t, draw.t), ours).mean())


def test_a_chain_and_other_times():
    y, x0 = classes_and_data(64, seed=1)
    chain = SDE.discretize(100)
    loss = TargetLikelihood(chain)
    assert isinstance(loss.times, ChainTimes)
    found = loss(Classifier(ExactLogits(), chain, 3, data_std=None), x0, label=y)
    assert found.shape == (64,) and bool(torch.isfinite(found).all())
    spread = TargetLikelihood(SDE, times=UniformLogNoise(0.1, 10.0))
    draw = spread.draw(x0, step=0)
    assert torch.equal(spread.evaluate(classifier(), draw, label=y), -classifier().log_prob(draw.x_t, draw.t, y))


def test_other_conditions_reach_the_network_and_the_target_does_not():
    seen = {}

    class Network(nn.Module):
        def forward(self, x, noise_label, /, **condition):
            seen.update(condition)
            return torch.zeros(len(x), 3, dtype=x.dtype)

    y, x0 = classes_and_data(4, seed=1)
    loss = TargetLikelihood(SDE)(Classifier(Network(), SDE, 3), x0, label=y, size=y[:, None], dropped=y == 0)
    assert set(seen) == {"size", "dropped"} and torch.allclose(loss, torch.full_like(loss, math.log(3.0)))


def test_wrong_calls_are_rejected():
    y, x0 = classes_and_data(4, seed=1)
    loss, model = TargetLikelihood(SDE), classifier()
    with pytest.raises(TypeError, match="the target label is missing; the given conditions are size: call"):
        loss(model, x0, size=y)
    with pytest.raises(TypeError, match=r"has no log_prob\(x, t, target\): give a Classifier or a Regressor"):
        loss(ScoreModel(MLP((2,)), SDE), x0.float(), label=y)
    with pytest.raises(ValueError, match="sde"):
        TargetLikelihood(VESDE())(model, x0, label=y)
    with pytest.raises(
        ValueError,
        match=r"target is [3-5] in row 0, which is not allowed: give a class, a whole number in 0 .. 2",
    ):
        loss(model, x0, label=y + 3)
    with pytest.raises(ValueError, match=r"target.* is not allowed as a name"):
        TargetLikelihood(SDE, "draw")


@pytest.mark.parametrize("objective", [DenoisingScoreMatching, ExplicitScoreMatching, SlicedScoreMatching])
def test_objectives_of_scores_refuse_a_classifier(objective):
    """The message names the objective, the model and what is allowed."""
    x0 = torch.zeros(4, 2)
    for model in (Classifier(MLP((2,), width=8, outputs=3), SDE, 3), Regressor(MLP((2,), width=8, outputs=2), SDE, 1)):
        name = type(model).__name__
        with pytest.raises(
            TypeError, match=f"model is a {name}, and {objective.__name__} trains a ScoreModel: give a ScoreModel"
        ):
            objective(SDE)(model, x0)
    assert objective(SDE)(ScoreModel(MLP((2,), width=8), SDE), x0).shape == (4,)
