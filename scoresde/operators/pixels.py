"""Means of blocks of pixels, and weighted sums of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.noise import NoiseSource
from scoresde.operators.base import LinearOperator, check_image, check_measurement


@dataclass(frozen=True)
class SuperResolution(LinearOperator):
    """Means of blocks of ``factor`` pixels along each side. ``image`` repeats each of them ``factor`` times along each side.

    Args:
        factor: A whole number of at least 2, which divides all sides.
    """

    factor: int

    def __post_init__(self) -> None:
        check_count("factor", self.factor, least=2)

    def check(self, event_shape: Sequence[int]) -> None:
        check_image(self, event_shape)
        if odd := [side for side in event_shape[1:] if side % self.factor]:
            common = math.gcd(*event_shape[1:])
            advice = f"give a divisor of {common}" if common > 1 else "no factor divides all sides"
            raise ValueError(
                f"factor={self.factor} does not divide the side {odd[0]} of events {tuple(event_shape)}: {advice}"
            )

    def channels(self, event_shape: Sequence[int]) -> int:
        return event_shape[0]

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        y = self._checked(x)
        for axis in range(2, x.ndim):
            y = y.unflatten(axis, (-1, self.factor)).mean(axis + 1)
        return y

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.image(y) / float(self.factor ** (y.ndim - 2))

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.image(y)

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        check_image(self, y.shape[1:])
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        return y


@dataclass(frozen=True)
class Grayscale(LinearOperator):
    """A weighted sum of the channels. The model of x given y then colors gray images.

    Args:
        weights: One number for each channel; by default those of the luminance of red, green and blue (ITU-R BT.601).
    """

    weights: Sequence[float] = (0.299, 0.587, 0.114)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))
        for weight in self.weights:
            check_number("weights", weight)
        if len(self.weights) < 2:
            raise ValueError(f"weights={self.weights!r} is not allowed: give a number for each of two or more channels")

    def check(self, event_shape: Sequence[int]) -> None:
        check_image(self, event_shape)
        if event_shape[0] != len(self.weights):
            raise ValueError(
                f"weights={self.weights!r} is not allowed for events {tuple(event_shape)}: give a number for each of "
                f"{event_shape[0]} channels, two or more"
            )

    def channels(self, event_shape: Sequence[int]) -> int:
        return 1

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return (self._checked(x) * self._column(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        check_measurement(self, y, (1, *y.shape[2:]))
        return y * self._column(y)

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        square = sum(weight**2 for weight in self.weights)
        return self.adjoint(y) / square if square else 0.0 * self.adjoint(y)

    def _column(self, like: Tensor) -> Tensor:
        """The weights, (C, 1, ...), as a factor of images."""
        return torch.tensor(self.weights, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 2))
