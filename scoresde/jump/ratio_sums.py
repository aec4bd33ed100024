r"""Sums over all ratios of a process that replaces tokens, and their gradients, in one pass each.

The ratios of a coordinate with the state x are r_y = s p_y + o for all tokens y other than x, with p = softmax(logits). The
offset o is given if x is the mask. For a token x it depends on the model: o = sum_{y != x} p_y + w p_x. The score entropy
needs

.. math::
    \sum_{y \ne x} r_y, \qquad \sum_{y \ne x} \ln r_y, \qquad \ln r_{x_0}

Automatic differentiation would store several tensors of the size of the logits. Here p is stored, and everything else is
computed for some rows at a time, which stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 2**18
"""Entries of the rows that are computed at once."""


class RatioSums(torch.autograd.Function):
    """The three sums of rows of logits, differentiable once with respect to the logits.

    ``RatioSums.apply(logits, scale, offset, weight, x, masked, x0)`` has the arguments logits (N, K), s, o (for masked x) and
    w (N,) in the dtype of the logits, x (N,) (any token if masked), whether x is masked (N,), and x0 (N,). It returns the sums
    (N,).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, scale: Tensor, offset: Tensor, weight: Tensor, x: Tensor, masked: Tensor, x0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        p, place = logits.softmax(1), x[:, None]
        found = p.gather(1, place)
        own = torch.where(masked, 0.0, found[:, 0])
        p.scatter_(1, place, torch.where(masked[:, None], found, 0.0))
        rest = p.sum(1)
        offset = torch.where(masked, offset, rest + weight * own)
        others = (p.shape[1] - (~masked).long()).to(p.dtype)
        logs, at_data = torch.empty_like(rest), torch.empty_like(rest)
        for part in _parts(p):
            r = torch.addcmul(offset[part, None], scale[part, None], p[part])
            at_data[part] = r.gather(1, x0[part, None])[:, 0].log()
            logs[part] = r.log_().sum(1)
        ctx.save_for_backward(p, own, scale, offset, weight, others, place, masked, x0)
        return scale * rest + others * offset, logs - torch.where(masked, 0.0, offset.log()), at_data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        p, own, scale, offset, weight, others, place, masked, x0 = ctx.saved_tensors
        total, logs, at_data = slopes
        result = torch.empty_like(p)
        for part in _parts(p):
            q = torch.addcmul(offset[part, None], scale[part, None], p[part]).reciprocal_()
            at = q.gather(1, x0[part, None])
            token = (~masked[part]).to(p.dtype)
            inverses = q.sum(1) - token / offset[part]
            by_offset = total[part] * others[part] + logs[part] * inverses + at_data[part] * at[:, 0]
            slope = q.mul_((logs[part] * scale[part])[:, None]).add_(
                (total[part] * scale[part] + token * by_offset)[:, None]
            )
            slope.scatter_add_(1, x0[part, None], (at_data[part] * scale[part])[:, None] * at)
            own_slope = token * weight[part] * by_offset
            mean = torch.linalg.vecdot(p[part], slope) + own[part] * own_slope
            gradient = torch.mul(slope.sub_(mean[:, None]), p[part], out=result[part])
            of_own = torch.where(masked[part], gradient.gather(1, place[part])[:, 0], own[part] * (own_slope - mean))
            gradient.scatter_(1, place[part], of_own[:, None])
        return (result, *[None] * 6)


def _parts(p: Tensor) -> list[slice]:
    """Rows that are computed together."""
    per = max(1, _AT_ONCE // p.shape[1])
    return [slice(k, k + per) for k in range(0, len(p), per)]
