r"""Measurements y = A(x) of images x of shape (C, *sides), with any number of sides.

    SuperResolution(f)     means of blocks of f pixels along each side          y (C, *sides / f)
    BoxInpainting(p)       x outside of a box at a random place, 0 inside       y (C, *sides)
    PixelInpainting(p)     x at some pixels, 0 at random others                 y (C, *sides)
    Grayscale(w)           a weighted sum of the channels                       y (1, *sides)
    JPEG(q)                the image after compression; not linear              y (C, *sides)

A linear operator has an adjoint, :math:`\langle A x, y \rangle = \langle x, A^T y \rangle`. ``image`` maps y to an image of the
size of x, which is the condition of a network. What is random in A depends only on the seed and the index of the event
(``noise``).
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_batch, check_count, check_number, check_rising
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class Operator(ABC):
    """Base class of measurements y = A(x) of images. Subclasses implement ``check``, ``channels`` and ``apply``."""

    @abstractmethod
    def check(self, event_shape: Sequence[int]) -> None:
        """Check the shape of the images.

        Args:
            event_shape: (C, *sides).

        Raises:
            ValueError: If the operator does not fit images of this shape.
        """

    @abstractmethod
    def channels(self, event_shape: Sequence[int]) -> int:
        """The number of channels of ``image``.

        Args:
            event_shape: (C, *sides).

        Returns:
            The number of channels.
        """

    @abstractmethod
    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The measurement y = A(x).

        Args:
            x: Images of shape (B, C, *sides).
            noise: The source of what is random in A, keyed by image. Other operators do not use it.

        Returns:
            y, with B rows.

        Raises:
            ValueError: If the operator does not fit x, or is random and ``noise`` is None.
        """

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The measurement as images of the size of x.

        Args:
            y: Measurements, as ``apply`` returns them.
            noise: As for ``apply``.

        Returns:
            Images of shape (B, channels, *sides).
        """
        return y

    def _checked(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        self.check(tuple(x.shape[1:]))
        return x


@dataclass(frozen=True)
class LinearOperator(Operator):
    """Base class of linear measurements, y = A x. Subclasses implement ``adjoint`` too."""

    @abstractmethod
    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The adjoint, A^T y.

        Args:
            y: Measurements, as ``apply`` returns them.
            noise: As for ``apply``.

        Returns:
            Images of shape (B, C, *sides).
        """


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
        _check_image(self, event_shape)
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
        blocks = float(self.factor ** (y.ndim - 2))
        return self.image(y) / blocks

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        return y


@dataclass(frozen=True)
class _Inpainting(LinearOperator):
    """y = M x with a mask M. ``image`` is y and M."""

    def check(self, event_shape: Sequence[int]) -> None:
        _check_image(self, event_shape)

    def channels(self, event_shape: Sequence[int]) -> int:
        return event_shape[0] + 1

    @abstractmethod
    def mask(self, sides: Sequence[int], noise: NoiseSource | None) -> Tensor:
        """Which pixels are known.

        Args:
            sides: The sides of the images.
            noise: A source with B indices.

        Returns:
            1 for known pixels, 0 for others, of shape (B, 1, *sides), on the device of the indices.

        Raises:
            ValueError: If ``noise`` is None.
        """

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self._checked(x) * self.mask(x.shape[2:], noise).to(x)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.apply(y, noise)

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return torch.cat((y, self.mask(y.shape[2:], noise).to(y)), dim=1)


@dataclass(frozen=True)
class BoxInpainting(_Inpainting):
    """The pixels outside of a box whose place is random. ``image`` has the mask of known pixels as its last channel.

    Args:
        fraction: Length of the box along each side as a fraction of the side, above 0 and below 1; rounded to pixels.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_number("fraction", self.fraction, above=0.0, below=1.0)

    def check(self, event_shape: Sequence[int]) -> None:
        super().check(event_shape)
        if wrong := [side for side in event_shape[1:] if not 0 < round(self.fraction * side) < side]:
            raise ValueError(
                f"fraction={self.fraction:g} of the side {wrong[0]} of events {tuple(event_shape)} is "
                f"{round(self.fraction * wrong[0])} pixels: give one that is at least 1 and leaves at least 1"
            )

    def mask(self, sides: Sequence[int], noise: NoiseSource | None) -> Tensor:
        noise = _needed(self, noise)
        inside = torch.ones(1, 1, *[1] * len(sides), dtype=torch.bool, device=noise.indices.device)
        for axis, side in enumerate(sides):
            size = round(self.fraction * side)
            first = noise.integers(side - size + 1, (1,), step=0, purpose=f"inpainting box, side {axis}")
            place = torch.arange(side, device=first.device)
            along = (place >= first) & (place < first + size)
            inside = inside & along.reshape(-1, 1, *[1] * axis, side, *[1] * (len(sides) - axis - 1))
        return 1.0 - inside.float()


@dataclass(frozen=True)
class PixelInpainting(_Inpainting):
    """The pixels that are not missing. ``image`` has the mask of known pixels as its last channel.

    Args:
        missing: The probability that a pixel is missing, above 0 and below 1. All channels of a pixel are missing together.
    """

    missing: float = 0.5

    def __post_init__(self) -> None:
        check_number("missing", self.missing, above=0.0, below=1.0)

    def mask(self, sides: Sequence[int], noise: NoiseSource | None) -> Tensor:
        u = _needed(self, noise).uniform((1, *sides), step=0, purpose="inpainting pixels", dtype=torch.float32)
        return (u >= self.missing).float()


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
        _check_image(self, event_shape)
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
        return y * self._column(y)

    def _column(self, like: Tensor) -> Tensor:
        """The weights, (C, 1, ...), as a factor of images."""
        return torch.tensor(self.weights, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 2))


@dataclass(frozen=True)
class JPEG(Operator):
    """Gray or color images after compression by JPEG with 8 bits, as Pillow does it. It is not linear.

    Pixels of the range [low, high] become the nearest of 256 levels, k + 1/2 in units of (high - low) / 256.

    Args:
        quality: Quality of the file, from 1 to 95.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
    """

    quality: int = 10
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("quality", self.quality)
        if self.quality > 95:
            raise ValueError(f"quality={self.quality!r} is not allowed: give a whole number from 1 to 95")
        check_rising("low", self.low, "high", self.high)

    def check(self, event_shape: Sequence[int]) -> None:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3):
            raise ValueError(
                f"JPEG does not take events {tuple(event_shape)}: give gray or color images (1 or 3, height, width)"
            )

    def channels(self, event_shape: Sequence[int]) -> int:
        return event_shape[0]

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        unit = (self.high - self.low) / 256.0
        levels = ((self._checked(x).detach().cpu().double() - self.low) / unit - 0.5).round().clamp(0.0, 255.0)
        found = torch.stack([self._compressed(one) for one in levels.to(torch.uint8)])
        return (self.low + unit * (found.double() + 0.5)).to(x)

    def _compressed(self, levels: Tensor) -> Tensor:
        """An image (C, height, width) of bytes, after it was saved and read."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(levels.movedim(0, -1).squeeze(-1).numpy()).save(file, "JPEG", quality=self.quality)
        pixels = np.array(Image.open(file))
        return torch.from_numpy(pixels.reshape(*levels.shape[1:], -1)).movedim(-1, 0)


def _check_image(operator: Operator, event_shape: Sequence[int]) -> None:
    """Raise ValueError unless events have channels and sides."""
    if len(event_shape) < 2:
        raise ValueError(
            f"{type(operator).__name__} does not take events {tuple(event_shape)}: give images (C, *sides)"
        )


def _needed(operator: Operator, noise: NoiseSource | None) -> NoiseSource:
    """The source of the draws of a random operator. Raises ValueError if it is missing."""
    if not isinstance(noise, NoiseSource):
        raise ValueError(f"{type(operator).__name__} is random: give noise, e.g. NoiseSource.of(seed, len(x))")
    return noise
