"""Downsampling and upsampling of events (B, C, *sides) by 2, in one, two or three dimensions.

    Averaging    down: the mean over 2 x 2 (2, 2 x 2 x 2)          up: every value twice along each side
    FIR          down: filter, keep every second value             up: put zeros between the values, filter (Zhang 2019)

FIR convolves with a separable kernel K = k k^T / sum (a true convolution, which flips the kernel). Upsampling uses 2^d K,
so that a constant input stays constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_number
from scoresde.networks.sides import cropped

_MEANS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_FILTERS = (F.conv1d, F.conv2d, F.conv3d)
_SPREADERS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Resampling(nn.Module, ABC):
    """Base class of downsampling and upsampling by 2 without parameters."""

    @abstractmethod
    def up(self, x: Tensor) -> Tensor:
        """Double the sides.

        Args:
            x: A tensor of shape (B, C, *sides).

        Returns:
            A tensor of shape (B, C, *(2 sides)).
        """

    @abstractmethod
    def down(self, x: Tensor) -> Tensor:
        """Halve the sides.

        Args:
            x: A tensor of shape (B, C, *sides) with even sides.

        Returns:
            A tensor of shape (B, C, *(sides / 2)).
        """

    @abstractmethod
    def before_stride(self, x: Tensor) -> Tensor:
        """Filter and pad the input of a strided convolution.

        Args:
            x: A tensor of shape (B, C, *sides) with even sides.

        Returns:
            A tensor of shape (B, C, *(sides + 1)). A convolution of size 3 and stride 2 without padding halves the sides of x.
        """


class Averaging(Resampling):
    """Downsampling by means, upsampling by repetition."""

    def up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def down(self, x: Tensor) -> Tensor:
        return _MEANS[x.ndim - 3](x, 2)

    def before_stride(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1) * (x.ndim - 2))


class FIR(Resampling):
    """Resampling with a filter, which reduces aliasing.

    Args:
        kernel: The taps k of the filter, at least two. They are divided by their sum.

    References:
        Zhang 2019, Making convolutional networks shift-invariant again.
    """

    taps: Tensor

    def __init__(self, kernel: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        for tap in kernel:
            check_number("kernel", tap)
        if len(kernel) < 2 or not sum(kernel) > 0.0:
            raise ValueError(f"kernel={tuple(kernel)} is not allowed: give at least two taps with a sum > 0")
        self.kernel = tuple(kernel)
        # a buffer, so that it moves with the module; not in the checkpoint, because it is an argument
        self.register_buffer("taps", torch.tensor(self.kernel, dtype=torch.float32), persistent=False)

    def up(self, x: Tensor) -> Tensor:
        taps, sides = len(self.kernel), x.shape[2:]
        weight = 2 ** len(sides) * self._weight(x)
        pad = taps - 2 - (taps - 1) // 2
        out = _SPREADERS[x.ndim - 3](x, weight, stride=2, padding=pad, groups=x.shape[1])
        return cropped(out, [2 * side for side in sides])

    def down(self, x: Tensor) -> Tensor:
        return self._filter(x, pad=(len(self.kernel) - 1) // 2, stride=2)

    def before_stride(self, x: Tensor) -> Tensor:
        out = self._filter(x, pad=(len(self.kernel) + 1) // 2, stride=1)
        return cropped(out, [side + 1 for side in x.shape[2:]])

    def _filter(self, x: Tensor, pad: int, stride: int) -> Tensor:
        weight = self._weight(x).flip(tuple(range(2, x.ndim)))
        return _FILTERS[x.ndim - 3](x, weight, stride=stride, padding=pad, groups=x.shape[1])

    def _weight(self, x: Tensor) -> Tensor:
        """K / sum for every channel of x: (C, 1, *(taps,) * d)."""
        k = weight = self.taps / self.taps.sum()
        for _ in x.shape[3:]:
            weight = weight[..., None] * k
        return weight.expand(x.shape[1], 1, *weight.shape)
