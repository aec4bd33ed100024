"""A function of time and its slope by automatic differentiation, for coefficients that are given by their values alone.

With one value for each time reverse differentiation gives the slope. With many (an image's modes, the coordinates of a mean) it
gives u -> sum_j u_j df_j/dt, which is linear in u: its own derivative in u is df_j/dt for every j, at the price of two passes.
`torch.func.jvp` needs one pass, but is eight times slower: torch takes products with constants in forward mode through Python.

Slopes can be differentiated in t and in the parameters of f where f(t) can; under ``torch.no_grad`` they cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Coefficient = Callable[[Tensor], Tensor]
"""t -> a value for each time, the shape of t."""


def value_and_slope(f: Coefficient, t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and df/dt for an elementwise f, both the shape of t."""

    def slope_of(value: Tensor, at: Tensor, differentiable: bool) -> Tensor | None:
        return torch.autograd.grad(value.sum(), at, create_graph=differentiable, allow_unused=True)[0]

    return _differentiated(f, t, slope_of)


def values_and_slopes(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and df/dt, both (*t, *event), for an f that gives each time its own values."""

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
    """f(t) and its slope, which is 0 where f does not depend on t; with a graph only where f(t) has one outside."""
    differentiable = torch.is_grad_enabled() and f(t).requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        at = t if differentiable and t.requires_grad else t.detach().clone().requires_grad_()
        value = f(at)
        slope = slope_of(value, at, differentiable) if value.requires_grad else None
    slope = torch.zeros_like(value) if slope is None else slope
    return (value, slope) if differentiable else (value.detach(), slope.detach())
