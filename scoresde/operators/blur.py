r"""Blur: the convolution of images with a kernel, at the boundary periodic or reflected.

    y = k * x,    y_i = sum_j k_j x_(i - j)

A periodic convolution is diagonal in the discrete Fourier basis. A reflected one continues the image by its mirror image,

    d c b a | a b c d | d c b a

so it is the periodic convolution of an image of twice the sides that is symmetric: A = R P E, where E appends the mirror image,
P is the convolution and R keeps the first half of each side. If the kernel is symmetric along each side, P keeps symmetric images
symmetric, and A^+ = R P^+ E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_number, shown
from scoresde.noise import NoiseSource
from scoresde.operators.base import LinearOperator, check_image


@dataclass(frozen=True)
class Blur(LinearOperator):
    """Images after the convolution with a kernel. Without ``periodic``, images are continued by their mirror images.

    The pseudo-inverse has a closed form, except for a reflected image and a kernel that is not symmetric along each side.
    Singular values below the rounding error of the largest count as 0, as in ``torch.linalg.pinv``.

    Args:
        std: Standard deviation in pixels of a Gaussian kernel, > 0, which ends at 4 of them. None if ``kernel`` is given.
        kernel: The kernel, with an odd number of entries along each side. A kernel with one dimension is used along each side.
        periodic: Whether images are continued periodically.

    Raises:
        ValueError: If both or none of ``std`` and ``kernel`` are given, or the kernel has even sizes.

    Example:
        >>> import torch
        >>> from scoresde.operators import Blur
        >>> Blur(kernel=[0.25, 0.5, 0.25])(torch.tensor([[[0.0, 0.0, 4.0]]])).tolist()
        [[[0.0, 1.0, 3.0]]]
    """

    std: float | None = None
    kernel: Numbers | None = None
    periodic: bool = False

    def __post_init__(self) -> None:
        if (self.std is None) == (self.kernel is None):
            raise ValueError(f"std={self.std!r} and kernel={shown(self.kernel)}: give one of std and kernel")
        if self.std is not None:
            check_number("std", self.std, above=0.0)
            return
        assert self.kernel is not None
        kernel = as_numbers("kernel", self.kernel)
        if kernel.ndim == 0 or any(size % 2 == 0 for size in kernel.shape):
            raise ValueError(f"kernel has shape {tuple(kernel.shape)}: give an odd number of entries along each side")
        object.__setattr__(self, "kernel", kernel)

    def check(self, event_shape: Sequence[int]) -> None:
        check_image(self, event_shape)
        kernel = self.kernel
        if isinstance(kernel, Tensor) and kernel.ndim not in (1, len(event_shape) - 1):
            raise ValueError(
                f"kernel has {kernel.ndim} dimensions, and events {tuple(event_shape)} have {len(event_shape) - 1} sides: give "
                "a kernel with one dimension for each side, or with one that is used along each side"
            )

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self._shrunk(_filtered(self._extended(self._checked(x)), self._transfer(x)), x)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        transfer = self._transfer(self._checked(y)).conj()
        if self.periodic:
            return _filtered(y, transfer)
        for axis in range(2, y.ndim):  # the adjoint of keeping the first half
            y = torch.cat((y, torch.zeros_like(y)), axis)
        y = _filtered(y, transfer)
        for axis in range(2, y.ndim):  # the adjoint of appending the mirror image
            first, second = y.chunk(2, axis)
            y = first + second.flip(axis)
        return y

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        kernel = self._full_kernel(self._checked(y).ndim - 2)
        if not self.periodic and any(not torch.equal(kernel, kernel.flip(axis)) for axis in range(kernel.ndim)):
            return super().pseudo_inverse(y, noise)
        transfer = self._transfer(y)
        size = transfer.abs()
        least = size.max() * size.numel() * torch.finfo(y.dtype).eps
        inverse = torch.where(size > least, 1.0 / torch.where(size > least, transfer, 1.0), 0.0)
        return self._shrunk(_filtered(self._extended(y), inverse), y)

    def _full_kernel(self, sides: int) -> Tensor:
        """The kernel with one dimension for each side."""
        kernel = self.kernel
        if self.std is not None:
            reach = int(4.0 * self.std + 0.5)
            kernel = (-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / self.std) ** 2).softmax(0)
        assert isinstance(kernel, Tensor)
        if kernel.ndim == sides:
            return kernel
        outer: Tensor = reduce(lambda a, b: a[..., None] * b, [kernel] * sides)
        return outer

    def _transfer(self, like: Tensor) -> Tensor:
        """The Fourier transform of the kernel on the ring of the extended image, in complex128."""
        kernel = self._full_kernel(like.ndim - 2).to(like.device)
        ring = [side if self.periodic else 2 * side for side in like.shape[2:]]
        place = torch.zeros((), dtype=torch.long, device=like.device)
        for size, side in zip(kernel.shape, ring, strict=True):
            offset = (torch.arange(size, device=like.device) - size // 2) % side
            place = place[..., None] * side + offset
        spread = torch.zeros(math.prod(ring), dtype=torch.float64, device=like.device)
        # a kernel that is larger than the ring overlaps itself
        spread.index_add_(0, place.reshape(-1), kernel.reshape(-1))
        transfer: Tensor = torch.fft.fftn(spread.reshape(ring))
        return transfer

    def _extended(self, x: Tensor) -> Tensor:
        if not self.periodic:
            for axis in range(2, x.ndim):
                x = torch.cat((x, x.flip(axis)), axis)
        return x

    def _shrunk(self, x: Tensor, like: Tensor) -> Tensor:
        for axis, side in enumerate(like.shape[2:], 2):
            x = x.narrow(axis, 0, side)
        return x


def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
    """Images after the multiplication of their Fourier transform, computed in float64."""
    axes = tuple(range(2, x.ndim))
    found: Tensor = torch.fft.ifftn(torch.fft.fftn(x.double(), dim=axes) * transfer, dim=axes).real
    return found.to(x.dtype)
