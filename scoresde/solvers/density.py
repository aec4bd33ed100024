"""Grid nodes from a density: between any two neighboring nodes lies the same part of the density's integral."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import shown


def check_shares(u: Sequence[float], share: Sequence[float]) -> None:
    """Raise ValueError unless ``u`` and ``share`` increase, have the same length, and ``share`` goes from 0 to 1."""
    for name, given in (("u", u), ("share", share)):
        values = np.asarray(given, dtype=float)
        if values.ndim != 1 or len(values) < 2 or not bool((np.diff(values) > 0).all() & np.isfinite(values).all()):
            raise ValueError(f"{name}={shown(given)} is not allowed: give at least 2 increasing finite numbers")
    if share[0] != 0.0 or share[-1] != 1.0:
        raise ValueError(f"share from {share[0]!r} to {share[-1]!r} is not allowed: it must go from 0 to 1")
    if len(share) != len(u):
        raise ValueError(f"u has {len(u)} numbers and share has {len(share)}: give the same number of both")


def cumulative(u: Tensor, density: Tensor) -> Tensor:
    """The part of the density's integral below each node u (K,), from 0 to 1, with the trapezoidal rule."""
    part = (0.5 * (density[1:] + density[:-1]) * u.diff()).cumsum(0)
    return torch.cat((torch.zeros(1, dtype=part.dtype), part / part[-1]))


def smooth(values: Tensor, width: int) -> Tensor:
    """Running mean (K,) with a Hann window of 2 width - 1 points."""
    window = torch.hann_window(2 * width + 1, periodic=False, dtype=torch.float64)[1:-1]
    padded = torch.nn.functional.pad(values[None, None], (width - 1, width - 1), mode="replicate")
    return torch.nn.functional.conv1d(padded, (window / window.sum())[None, None])[0, 0]
