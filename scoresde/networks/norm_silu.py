r"""Group normalization followed by SiLU, with one tensor saved for the backward pass in place of two.

.. math:: y = n\,\mathrm{sigmoid}(n), \qquad n = \gamma\,\frac{x - \mu_g}{s_g} + \beta

:math:`\mu_g` and :math:`s_g` are the mean and the standard deviation of a group of channels. Autograd saves x for the
normalization and n for SiLU. Here only x is saved, and the backward pass computes n again. Values and gradients equal those of
``F.silu(norm(x))`` to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(x, weight, bias)
        return F.silu(F.group_norm(x, groups, weight, bias, eps), inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        twice = torch.is_grad_enabled()  # the gradient itself is differentiated
        with torch.enable_grad():
            y = F.group_norm(inputs[0], ctx.groups, inputs[1], inputs[2], ctx.eps)
        if twice:
            y = F.silu(y)
        else:
            grad = torch.ops.aten.silu_backward(grad, y.detach())
        wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=twice))
        return (*(next(found) if need else None for need in needed), None, None)


def norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """SiLU of a group normalization.

    Args:
        x: The input, of shape (B, C, *sides).
        norm: The normalization, with weight and bias. Its module hooks run only under autocast, compilation, forward-mode
            differentiation and the transforms of ``torch.func``, where this function calls the module.

    Returns:
        ``F.silu(norm(x))``.
    """
    separate = (
        torch.compiler.is_compiling()  # the compiler decides what to recompute
        or torch.is_autocast_enabled(x.device.type)  # changes the dtype between the forward and the backward pass
        or torch._C._are_functorch_transforms_active()
        or forward_ad.unpack_dual(x).tangent is not None
    )
    if separate or not torch.is_grad_enabled():
        return F.silu(norm(x))
    out: Tensor = _NormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)  # type: ignore[no-untyped-call]
    return out
