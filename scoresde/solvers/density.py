"""Nodes of a grid by a density: n nodes, with equal shares of its integral between any two."""

from __future__ import annotations

import torch
from torch import Tensor


def cumulative(u: Tensor, density: Tensor) -> Tensor:
    """The part of the density's integral below each of u (K,), rising from 0 to 1, by trapezoids."""
    part = (0.5 * (density[1:] + density[:-1]) * u.diff()).cumsum(0)
    return torch.cat((torch.zeros(1, dtype=part.dtype), part / part[-1]))


def smooth(values: Tensor, width: int) -> Tensor:
    """A running mean (K,) with Hann's window of 2 width - 1 points."""
    window = torch.hann_window(2 * width + 1, periodic=False, dtype=torch.float64)[1:-1]
    padded = torch.nn.functional.pad(values[None, None], (width - 1, width - 1), mode="replicate")
    return torch.nn.functional.conv1d(padded, (window / window.sum())[None, None])[0, 0]
