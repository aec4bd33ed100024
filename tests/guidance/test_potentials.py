"""Log potentials of guided scores: log p(y | x_t) with its gradient, by one evaluation of the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    ComposedConditions,
    Guidance,
    IsotropicMoments,
    TaskGuidance,
    TweedieMoments,
)

SDE, F64 = VPSDE(), torch.float64
MEAN, COVARIANCE = torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
A, Y, STD = torch.tensor([[1.0, 0.5]], dtype=F64), torch.tensor([[0.7]], dtype=F64), 0.2
PRIOR = GaussianMixture(MEAN[None], covariances=COVARIANCE[None])


def operator(x):
    return x @ A.T.to(x)


def log_likelihood(x, t):
    """log p(y | x_t) of the Gaussian, in closed form."""
    a, s = SDE.alpha(t)[:, None, None], SDE.sigma(t)[:, None, None]
    gain = a * COVARIANCE @ torch.linalg.inv(a**2 * COVARIANCE + s**2 * torch.eye(2, dtype=F64))
    mean = MEAN + (gain @ (x[:, :, None] - a * MEAN[:, None]))[..., 0]
    variance = (A @ (COVARIANCE - a * gain @ COVARIANCE) @ A.T)[:, 0, 0] + STD**2
    return -0.5 * ((Y - operator(mean))[:, 0] ** 2 / variance + (2 * math.pi * variance).log())


class Counted:
    """The score of the Gaussian, which counts its evaluations, as score and as classifier."""

    sde = SDE

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t):
        self.calls += 1
        return PRIOR.score(SDE)(x, t)

    def log_prob(self, x, t, target):
        return log_likelihood(x, t) + 0.0 * target


def points(n=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator, dtype=F64), torch.linspace(0.1, 0.9, n, dtype=F64)


MEMBERS = {
    "classifier": lambda score: ClassifierGuidance(score, score, target=1.0),
    "likelihood": lambda score: TaskGuidance(score, log_likelihood),
    "denoised": lambda score: TaskGuidance(score, lambda x: -((x - 1.0) ** 2).sum(1), denoised=True),
    "isotropic": lambda score: IsotropicMoments(score, operator, Y, STD),
    "tweedie": lambda score: TweedieMoments(score, operator, Y, STD),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_all_parts_by_one_evaluation(name):
    counted, (x, t) = Counted(), points()
    guided = MEMBERS[name](counted)
    with torch.no_grad():
        score, direction, log_potential = guided.terms(x, t)
    assert counted.calls == 1
    assert torch.allclose(score, counted(x, t)) and torch.allclose(direction, guided.direction(x, t))
    assert torch.allclose(log_potential, guided.log_potential(x, t))
    rows = torch.tensor([3, 1])
    assert torch.allclose(guided.select_rows(rows).log_potential(x[rows], t[rows]), log_potential[rows])


@pytest.mark.parametrize("name", ["classifier", "likelihood", "denoised", "isotropic"])
def test_the_direction_is_the_gradient_of_the_potential(name):
    """By central differences. The covariance of ``TweedieMoments`` is constant for Gaussian data only: see below."""
    guided, (x, t), h = MEMBERS[name](Counted()), points(), 1e-5
    for k in range(2):
        step = h * torch.eye(2, dtype=F64)[k]
        slope = (guided.log_potential(x + step, t) - guided.log_potential(x - step, t)) / (2 * h)
        assert torch.allclose(slope, guided.direction(x, t)[:, k], rtol=1e-4, atol=1e-4)


def test_the_potential_of_a_gaussian_is_exact_up_to_a_factor_of_the_time():
    guided, (x, t) = MEMBERS["tweedie"](Counted()), points()
    other = x.flip(0) + 0.3
    found = guided.log_potential(x, t) - guided.log_potential(other, t)
    assert torch.allclose(found, log_likelihood(x, t) - log_likelihood(other, t), atol=1e-4)


def test_the_likelihood_of_data():
    """Normalized for a measurement: the limit of log p(y | x_t) for t -> 0."""
    (x, t), score = points(), Counted()
    expected = torch.distributions.Normal(operator(x)[:, 0], STD).log_prob(Y[0])
    for kind in (IsotropicMoments, TweedieMoments):
        assert torch.allclose(kind(score, operator, Y, STD).data_log_likelihood(x, t), expected)
    denoised = MEMBERS["denoised"](score)
    assert torch.allclose(denoised.data_log_likelihood(x, t), -((x - 1.0) ** 2).sum(1))
    assert torch.allclose(MEMBERS["likelihood"](score).data_log_likelihood(x, t), log_likelihood(x, t))
    assert torch.allclose(MEMBERS["classifier"](score).data_log_likelihood(x, t), log_likelihood(x, t))
    assert score.calls == 0
    with pytest.raises(ValueError, match=r"noise_std=0.0 is not allowed here.*log_likelihood= to the sampler"):
        TweedieMoments(score, operator, Y).data_log_likelihood(x, t)


@dataclass(frozen=True)
class Toward(Guidance):
    """A subclass of a user, with a potential."""

    score: Any
    weight: float = 1.0
    interval: tuple[float, float] | None = None

    def direction(self, x, t):
        return -x

    def log_potential(self, x, t):
        return -0.5 * (x**2).sum(1)


def test_a_subclass():
    (x, t), counted = points(), Counted()
    score, direction, log_potential = Toward(counted).terms(x, t)
    assert counted.calls == 1 and torch.equal(direction, -x) and torch.allclose(score, PRIOR.score(SDE)(x, t))
    assert torch.equal(log_potential, Toward(counted).data_log_likelihood(x, t))


@pytest.mark.parametrize(
    "guided",
    [ClassifierFree(Counted()), ComposedConditions(Counted(), ({"label": 1},))],
    ids=lambda g: type(g).__name__,
)
def test_members_without_a_potential(guided):
    for name in ("log_potential", "terms", "data_log_likelihood"):
        with pytest.raises(TypeError, match=f"{type(guided).__name__} has no log_potential"):
            getattr(guided, name)(*points())
