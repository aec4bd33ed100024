"""Derivatives by automatic differentiation, compared with closed forms."""

from __future__ import annotations

import pytest
import torch

from scoresde.sde.autodiff import values_and_slopes

F64 = torch.float64
TIMES = torch.tensor([0.1, 0.2, 0.5], dtype=F64)


def curve(t, k=2.0):
    """A sine, a square, a constant and a line."""
    return torch.stack((torch.sin(k * t), t**2, torch.ones_like(t), 3.0 * t), -1)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("t", [TIMES, TIMES[0]])
def test_derivatives_of_several_values(t, mode):
    with mode():
        value, slope = values_and_slopes(curve, t.clone())
    assert torch.equal(value, curve(t)) and not slope.requires_grad
    wanted = torch.stack((2.0 * torch.cos(2.0 * t), 2.0 * t, 0.0 * t, 3.0 + 0.0 * t), -1)
    assert torch.allclose(slope, wanted, rtol=1e-14)


def test_the_derivative_of_a_constant_is_0():
    for f in (lambda t: torch.ones(3, 2), lambda t: t[:, None] * torch.zeros(2)):
        assert torch.equal(values_and_slopes(f, TIMES)[1], torch.zeros(3, 2))


def test_derivatives_have_gradients():
    """With respect to parameters of the function and to t, compared with closed forms."""
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    (found,) = torch.autograd.grad(values_and_slopes(lambda t: curve(t, k), TIMES)[1].sum(), k)
    wanted = (torch.cos(2.0 * TIMES) - 2.0 * TIMES * torch.sin(2.0 * TIMES)).sum()
    assert float(found) == pytest.approx(float(wanted))
    t = TIMES.clone().requires_grad_()
    (found,) = torch.autograd.grad(values_and_slopes(curve, t)[1].sum(), t)
    assert torch.allclose(found, 2.0 - 4.0 * torch.sin(2.0 * TIMES))
