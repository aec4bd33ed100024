"""Helpers of metrics over all pairs: check two sets of features, convert them to float64, and iterate over blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde._validation import check_finite

BLOCK = 1024
"""Number of vectors on each side of a block; a block has 8 MiB."""


def checked(x: Tensor, y: Tensor, least: int = 1, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """Both sets in float64. Raises ValueError unless they are finite, (n, d) and (m, d) with n, m >= ``least``."""
    for name, value in zip(names, (x, y), strict=True):
        if value.ndim != 2 or len(value) < least or value.shape[1] < 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: give (n, d) with n >= {least}, d >= 1")
        check_finite(name, value)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} features, {names[1]} {y.shape[1]}: both must be of one extractor"
        )
    return x.to(torch.float64), y.to(torch.float64)


def blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of at most ``BLOCK`` rows, each with the index of its first row."""
    for first in range(0, len(x), BLOCK):
        yield first, x[first : first + BLOCK]
