r"""Sides of events in networks that halve them.

Level i of a network has sides of :math:`\lceil \mathrm{side} / 2^i \rceil`. An odd side is made even before it is halved, by
repeating its last value, and the value that is left over after doubling is cut off:

    33 -> (34) 17 -> (18) 9 -> (10) 5           5 -> 10 (9) -> 18 (17) -> 34 (33)

Each level therefore contains at most one repeated value for each side, and an event with even sides passes unchanged.
Padding the event once to a multiple of 2^(n - 1) instead would add up to 2^(n - 1) - 1 values for each side. Normalization
and attention would use them, and the network would compute features for them at all levels: 40 x 40 values in place of 33 x 33
in the example.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

USUAL_ATTENTION = (16,)
"""Longest sides of the levels with attention in the paper's networks."""


def with_even_sides(x: Tensor) -> Tensor:
    """x of shape (B, C, *sides) with the last value of every odd side repeated; x itself if all sides are even."""
    for dimension, side in enumerate(x.shape[2:], start=2):
        if side % 2:  # F.pad by replication has no deterministic backward pass on CUDA
            x = torch.cat((x, x.narrow(dimension, side - 1, 1)), dim=dimension)
    return x


def cropped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """The first ``sides`` entries of each dimension of x (B, C, *larger sides); x itself if it has these sides."""
    for dimension, side in enumerate(sides, start=2):
        if x.shape[dimension] != side:
            x = x.narrow(dimension, 0, side)
    return x


def sides_of_levels(sides: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """The sides of every level, from full to lowest resolution.

    Example:
        >>> from scoresde.networks.sides import sides_of_levels
        >>> sides_of_levels((12, 20), 4)
        [(12, 20), (6, 10), (3, 5), (2, 3)]
    """
    return [tuple(-(-side // 2**i) for side in sides) for i in range(levels)]


def attended_levels(attention: Sequence[int] | None, sides: Sequence[int], levels: int) -> list[bool]:
    """Which levels have attention: those whose longest side is in ``attention``.

    Args:
        attention: Longest sides of levels. None for `USUAL_ATTENTION`, as far as these sides occur.
        sides: Sides of the event.
        levels: Number of levels.

    Raises:
        ValueError: If ``attention`` contains a side that is the longest side of no level.
    """
    longest = [max(level) for level in sides_of_levels(sides, levels)]
    absent = sorted(set(attention or ()) - set(longest), reverse=True)
    if absent:
        raise ValueError(
            f"attention={tuple(attention or ())} is not allowed: no level has the longest side {absent[0]}; sides "
            f"{tuple(sides)} and {levels} levels have the longest sides {', '.join(map(str, longest))}"
        )
    return [side in (USUAL_ATTENTION if attention is None else attention) for side in longest]
