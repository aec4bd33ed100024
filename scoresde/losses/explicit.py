r"""Explicit score matching (Hyvarinen 2005, eq. 4): the objective of sliced score matching with the exact trace.

.. math::
    \ell(x_0) = E_t \, E_{x_t} \; \lambda(t) \, [\, \mathrm{tr}(\partial s / \partial x) + \|s\|^2 / 2 \,],
    \qquad s = s(x_t, t)

The trace is the mean of v^T (ds/dx) v over the d directions v = sqrt(d) e_i, so the objective is that of sliced score
matching with these directions in place of random ones. It costs d products with the Jacobian. It has no noise of
projections, and is the value that :class:`~scoresde.losses.SlicedScoreMatching` estimates for the same times and states. At
the true score the expected value is -E||grad log p_t||^2 / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.losses.sliced import SlicedScoreMatching
from scoresde.losses.times import TimeDistribution
from scoresde.noise import NoiseSource
from scoresde.sde import SDE


class ExplicitScoreMatching(SlicedScoreMatching):
    """Explicit score matching: ``loss(model, x0)`` is an unbiased estimate of the objective for each example, (B,).

    It suits states of few dimensions d, because it needs d vector-Jacobian products. The loss is differentiable in the
    model's parameters. The model must be twice differentiable.

    Args:
        sde: Any process, linear or not, or a chain.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        weighting: "uniform", "likelihood" (lambda = g g^T), or a function of t (B,) -> (B,).
        seed: Seed of the random draws. Call k without ``step`` uses step k, so that every step of a training loop has new
            draws.

    References:
        Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching".

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> loss = ExplicitScoreMatching(VPSDE())
        >>> x0 = torch.zeros(8, 2)
        >>> loss(lambda x, t: -x, x0).shape
        torch.Size([8])
    """

    def __init__(
        self,
        sde: SDE,
        *,
        times: TimeDistribution | None = None,
        weighting: str | Callable[[Tensor], Tensor] = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__(sde, times=times, weighting=weighting, seed=seed)

    def _directions(self, x_t: Tensor, source: NoiseSource, step: int) -> Tensor:
        """sqrt(d) e_i for i = 1 .. d, (d, B, *state)."""
        d = x_t[0].numel()
        unit = math.sqrt(d) * torch.eye(d, dtype=x_t.dtype, device=x_t.device)
        return unit.reshape(d, 1, *x_t.shape[1:]).expand(d, *x_t.shape)
