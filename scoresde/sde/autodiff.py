"""Time derivatives of coefficients by automatic differentiation.

If a function has one value for each time, reverse-mode differentiation gives the derivative. If it has many (the modes
of an image, the coordinates of a mean), reverse mode gives u -> sum_j u_j df_j/dt. This function is linear in u, and
its derivative in u is df_j/dt for every j, at the cost of two passes. ``torch.func.jvp`` needs one pass but is eight
times slower, because torch computes products with constants in Python in forward mode.

The derivatives are differentiable in t and in the parameters of f if f(t) is. Under ``torch.no_grad`` they are not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Coefficient = Callable[[Tensor], Tensor]
"""A function of times that returns one value for each time, in the shape of t."""


def value_and_slope(f: Coefficient, t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and df/dt for an elementwise f, both in the shape of t."""

    def slope_of(value: Tensor, at: Tensor, differentiable: bool) -> Tensor | None:
        return torch.autograd.grad(value.sum(), at, create_graph=differentiable, allow_unused=True)[0]

    return _differentiated(f, t, slope_of)


def values_and_slopes(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and df/dt, both ``(*t, *event)``. The values of f at one time must not depend on the other times."""

    def slope_of(value: Tensor, at: Tensor, differentiable: bool) -> Tensor | None:
        u = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, at, u, create_graph=True, allow_unused=True)
        if pulled is None or not pulled.requires_grad:
            return None
        return torch.autograd.grad(pulled.sum(), u, create_graph=differentiable, allow_unused=True)[0]

    return _differentiated(f, t, slope_of)


def _differentiated(
    f: Coefficient, t: Tensor, slope_of: Callable[[Tensor, Tensor, bool], Tensor | None]
) -> tuple[Tensor, Tensor]:
    """f(t) and its derivative, which is 0 if f does not depend on t. Both have a graph only if f(t) has one."""
    differentiable = torch.is_grad_enabled() and f(t).requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        at = t if differentiable and t.requires_grad else t.detach().clone().requires_grad_()
        value = f(at)
        slope = slope_of(value, at, differentiable) if value.requires_grad else None
    slope = torch.zeros_like(value) if slope is None else slope
    return (value, slope) if differentiable else (value.detach(), slope.detach())
