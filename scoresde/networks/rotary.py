r"""Rotary positions: queries and keys are rotated by angles that are proportional to their position.

The features of a head are pairs :math:`(a_j, b_j)`. At the position p, pair j is rotated by the angle :math:`p\,w_j`:

.. math::
    (a_j, b_j) \to (a_j \cos p w_j - b_j \sin p w_j,\; b_j \cos p w_j + a_j \sin p w_j), \qquad w_j = 10000^{-j/n}.

The product of a rotated query at p and a rotated key at q depends on p - q only, so that attention depends on relative
positions. For events with several sides each side has its own part of the pairs (axial positions), and n is their number.

References:
    Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", arXiv:2104.09864, eq. 15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RotaryPositions(nn.Module):
    """Rotates queries and keys by their positions.

    Args:
        sides: Sides of the grid of positions; none for a single position.
        features: Features of a head, an even number. Each side needs at least two.
        copies: How often the positions are repeated, such as the number of channels.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, sides: Sequence[int], features: int, copies: int = 1) -> None:
        super().__init__()
        angles = _angles(sides, features // 2).repeat(copies, 1)
        # for x = (a, b): x (cos, cos) + (b, a) (-sin, sin). The table follows from the sizes, so checkpoints do not contain it
        self.register_buffer("cos", angles.cos().repeat(1, 2).float(), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), dim=1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the features.

        Args:
            x: Features of shape (..., positions, features).

        Returns:
            Rotated features of the same shape, in the dtype of ``x``.
        """
        swapped = x.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(x * self.cos, swapped, self.sin).to(x.dtype)


def _angles(sides: Sequence[int], pairs: int) -> Tensor:
    """The angle of each pair at each position, (positions, pairs) float64. The first sides get the pairs that are left over."""
    if not sides:
        return torch.zeros(1, pairs, dtype=torch.float64)
    parts = []
    for k, side in enumerate(sides):
        n = pairs // len(sides) + (k < pairs % len(sides))
        frequencies = torch.exp(torch.arange(n, dtype=torch.float64) * (-math.log(10_000.0) / max(n, 1)))
        parts.append(torch.arange(side, dtype=torch.float64)[:, None] * frequencies)
    grids = torch.meshgrid(*(torch.arange(side) for side in sides), indexing="ij")
    return torch.cat([part[grid.flatten()] for part, grid in zip(parts, grids, strict=True)], dim=1)
