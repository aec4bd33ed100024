"""Known and missing entries: a fixed mask, a random box, random pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._validation import Numbers, check_number
from scoresde.noise import NoiseSource
from scoresde.operators.base import LinearOperator, as_mask, check_image


@dataclass(frozen=True)
class Mask(LinearOperator):
    """The known entries of an event of any shape, and 0 in place of the others: y = M x.

    ``image`` is y and M, which has the channels that ``known`` has.

    Args:
        known: 1 or True for known entries, 0 or False for missing ones. It broadcasts to the shape of the event. For images
            (C, *sides), a mask of shape (*sides) is for all channels.

    Example:
        >>> import torch
        >>> from scoresde.operators import Mask
        >>> Mask([1, 0])(torch.tensor([[3.0, 4.0]])).tolist()
        [[3.0, 0.0]]
    """

    known: Numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", as_mask(self.known))

    def check(self, event_shape: Sequence[int]) -> None:
        known, event = tuple(self._mask.shape), tuple(event_shape)
        if len(known) > len(event) or any(a not in (1, b) for a, b in zip(known[::-1], event[::-1], strict=False)):
            raise ValueError(
                f"known has shape {known}, and events have shape {event}: give a mask that broadcasts to it"
            )

    def channels(self, event_shape: Sequence[int]) -> int:
        check_image(self, event_shape)
        return event_shape[0] + self._mask_channels(len(event_shape))

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self._checked(x) * self._mask.to(x)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.apply(y)

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.apply(y)

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        count = self._mask_channels(y.ndim - 1)
        return torch.cat((y, self._mask.to(y).expand(len(y), count, *y.shape[2:])), dim=1)

    @property
    def _mask(self) -> Tensor:
        assert isinstance(self.known, Tensor)  # converted at the start
        return self.known

    def _mask_channels(self, ndim: int) -> int:
        """The channels of the mask for events of ``ndim`` dimensions."""
        return len(self._mask) if self._mask.ndim == ndim else 1


@dataclass(frozen=True)
class _Inpainting(LinearOperator):
    """y = M x with a random mask M. ``image`` is y and M."""

    random: ClassVar[bool] = True

    def check(self, event_shape: Sequence[int]) -> None:
        check_image(self, event_shape)

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

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.adjoint(y, noise)

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


def _needed(operator: LinearOperator, noise: NoiseSource | None) -> NoiseSource:
    """The source of the draws of a random operator. Raises ValueError if it is missing."""
    if not isinstance(noise, NoiseSource):
        raise ValueError(f"{type(operator).__name__} is random: give noise, e.g. NoiseSource.of(seed, len(x))")
    return noise
