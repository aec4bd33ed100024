"""Diffusion posterior sampling: its term in closed form, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import DiffusionPosteriorSampling, TaskGuidance
from scoresde.operators import BoxInpainting, MatrixOperator
from scoresde.samplers import DDIM
from scoresde.sde import CriticallyDampedLangevin

F64 = torch.float64
SDE = VPSDE()
SCORE = GaussianMixture([[0.0, 0.0]], 1.0).score(SDE)
A = MatrixOperator([[1.0, 0.5], [0.0, 2.0]])


def test_the_term_of_gaussian_data():
    """For N(0, I) and the variance-preserving process, E[x_0 | x_t] = alpha x_t."""
    x, t = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=F64), torch.tensor([0.2, 0.7], dtype=F64)
    y = torch.tensor([[0.5, 1.0]], dtype=F64)
    alpha = SDE.alpha(t)[:, None]
    r = y - A(alpha * x)
    wanted = alpha * A.adjoint(r) / r.norm(dim=1, keepdim=True)
    guided = DiffusionPosteriorSampling(SCORE, A, y, weight=3.0)
    assert torch.allclose(guided.direction(x, t), wanted) and torch.allclose(guided(x, t), SCORE(x, t) + 3.0 * wanted)
    rows = DiffusionPosteriorSampling(SCORE, A, y.expand(2, 2), weight=3.0).select_rows(torch.tensor([1]))
    assert torch.allclose(rows(x[1:], t[1:]), guided(x, t)[1:])
    other = TaskGuidance(SCORE, lambda x0: -(y - x0.square()).norm(dim=1), weight=3.0, denoised=True)
    assert torch.allclose(DiffusionPosteriorSampling(SCORE, torch.square, y, weight=3.0)(x, t), other(x, t))


def test_a_residual_of_zero_has_no_direction():
    x, t = torch.zeros(2, 2), torch.full((2,), 0.5)
    assert torch.equal(DiffusionPosteriorSampling(SCORE, A, torch.zeros(1, 2)).direction(x, t), x)


def test_larger_weights_fit_the_measurement_more_closely():
    y = torch.tensor([[1.5]])

    def fit(weight):
        guided = DiffusionPosteriorSampling(SCORE, lambda x: x[:, :1], y, weight=weight)
        return float((DDIM(50)(SDE, guided, (500, 2), seed=0).samples[:, :1] - y).abs().mean())

    assert fit(1.0) > 2.0 * fit(10.0)


class Plain:
    sde = CriticallyDampedLangevin()

    def __call__(self, x, t):
        return -x


def test_a_process_with_matrices():
    guided = DiffusionPosteriorSampling(Plain(), lambda x: x[:, :1], torch.ones(1, 1))
    x, t = torch.ones(2, *Plain.sde.state_shape((2,))), torch.full((2,), 0.5)
    assert guided(x, t).shape == x.shape and bool(guided(x, t).isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x, t: x, A, torch.ones(1, 2)), "process None, which does not define"),
        ((SCORE, 3, torch.ones(1, 2)), "operator=3"),
        ((SCORE, BoxInpainting(), torch.ones(1, 2)), r"operator=BoxInpainting\(.*\) is random"),
        ((SCORE, A, torch.full((1, 2), float("nan"))), "measurement"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        DiffusionPosteriorSampling(*arguments)


@pytest.mark.parametrize("y", [torch.ones(1, 3), torch.ones(3, 2)], ids=str)
def test_shapes_that_do_not_fit(y):
    with pytest.raises(ValueError, match=r"operator returned shape \(4, 2\) .* measurement has shape"):
        DiffusionPosteriorSampling(SCORE, A, y)(torch.zeros(4, 2), torch.full((4,), 0.5))
