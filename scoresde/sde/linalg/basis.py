"""Orthonormal bases U of events, in which a process can be diagonal.

``forward(x)`` = U x computes the modes and ``inverse(m)`` = U^T m the state::

    Axes     one orthonormal matrix for each dimension of the event; None leaves a dimension unchanged
    Flat     one orthonormal matrix on the flattened event (PCA, pooling and its complement)
    Fourier  cosines and sines over several dimensions jointly, by the fast Fourier transform

``dct(event_shape)``, ``haar(event_shape)`` and ``fourier(event_shape)`` construct common bases, ``pca(data)`` one from
data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._representation import prints_as_call
from scoresde._validation import check_batch


@prints_as_call
class Basis(ABC):
    """Base class of orthonormal bases of events of one shape."""

    event_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Modes U x.

        Args:
            x: Events, ``(B, *event)``.

        Returns:
            The modes, in the shape of x.
        """

    @abstractmethod
    def inverse(self, modes: Tensor) -> Tensor:
        """Events U^T modes.

        Args:
            modes: Modes, ``(B, *event)``.

        Returns:
            The events, in the shape of ``modes``.
        """


@prints_as_call
class Axes(Basis):
    """Separable basis: one orthonormal matrix for each dimension of the event.

    Args:
        matrices: For each dimension of the event an orthonormal matrix ``(n, n)``, or the size n of a dimension that
            stays unchanged.
    """

    def __init__(self, matrices: Sequence[Tensor | int]) -> None:
        self.event_shape = tuple(m if isinstance(m, int) else len(m) for m in matrices)
        self.matrices = [None if isinstance(m, int) else _orthonormal("matrices", m) for m in matrices]

    def forward(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    def inverse(self, modes: Tensor) -> Tensor:
        return self._apply(modes, transpose=True)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has event shape {tuple(x.shape[1:])}: the basis is of {self.event_shape}")
        for k, matrix in enumerate(self.matrices):
            if matrix is not None:
                u = matrix.to(x)
                x = torch.movedim(torch.movedim(x, k + 1, -1) @ (u if transpose else u.mT), -1, k + 1)
        return x


@prints_as_call
class Flat(Basis):
    """One orthonormal matrix on flattened events.

    Args:
        u: Orthonormal matrix ``(d, d)``. The product with row i is the mode at flat index i.
        event_shape: Shape of one event, with d numbers.
    """

    def __init__(self, u: Tensor, event_shape: Sequence[int]) -> None:
        self.event_shape = tuple(event_shape)
        if u.shape != (math.prod(event_shape),) * 2:
            raise ValueError(
                f"u has shape {tuple(u.shape)}: events of {self.event_shape} need {math.prod(event_shape)} square"
            )
        self.u = _orthonormal("u", u)

    def forward(self, x: Tensor) -> Tensor:
        return (x.reshape(len(x), -1) @ self.u.to(x).mT).reshape(x.shape)

    def inverse(self, modes: Tensor) -> Tensor:
        return (modes.reshape(len(modes), -1) @ self.u.to(modes)).reshape(modes.shape)


@prints_as_call
class Fourier(Basis):
    r"""Real discrete Fourier basis over some dimensions of the event, of sizes n (even or odd) with product :math:`|n|`.

    For one k of each pair {k, -k},

    .. math::
        \text{mode } k = \sqrt{2 / |n|} \sum_x \cos(2 \pi k x / n)\, x_x, \qquad
        \text{mode } {-k} = \sqrt{2 / |n|} \sum_x \sin(2 \pi k x / n)\, x_x

    If k = -k modulo n, the factor is :math:`1 / \sqrt{|n|}`. The modes have the order of the complex transform, with
    the frequency zero first. A map that is diagonal in this basis with one number for each pair is a circular
    convolution with a symmetric kernel, and commutes with shifts.

    Args:
        event_shape: Shape of one event.
        axes: Distinct dimensions of the event that are transformed.
    """

    def __init__(self, event_shape: Sequence[int], axes: Sequence[int]) -> None:
        self.event_shape = tuple(event_shape)
        rank = len(self.event_shape)
        if not axes or len(set(axes)) < len(axes) or not all(0 <= k < rank for k in axes):
            raise ValueError(f"axes={tuple(axes)} is not allowed: give distinct dimensions in 0 .. {rank - 1}")
        self.axes = tuple(k - rank for k in axes)
        place = torch.arange(math.prod(self.event_shape)).reshape(self.event_shape)
        self._order = torch.sign(
            place - self._opposite(place)
        )  # -1 at the first of a pair, 1 at the second, 0 where k = -k

    def frequencies(self) -> Tensor:
        """Frequencies k of all modes, integers from -n / 2 to n / 2, ``(axes, *event)`` in float64."""
        whole = [torch.fft.fftfreq(self.event_shape[k], dtype=torch.float64) * self.event_shape[k] for k in self.axes]
        one = torch.zeros(self.event_shape, dtype=torch.float64)
        return torch.stack(
            [one + k.reshape(-1, *(1,) * (-1 - axis)) for k, axis in zip(whole, self.axes, strict=True)]
        ).round()

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        z, order = torch.fft.fftn(x, dim=self.axes, norm="ortho"), self._order.to(x.device)
        paired = math.sqrt(2.0) * torch.where(order < 0, z.real, z.imag)
        return torch.where(order == 0, z.real, paired)

    def inverse(self, modes: Tensor) -> Tensor:
        self._check(modes)
        other, order = self._opposite(modes), self._order.to(modes)
        real = torch.where(order > 0, other, modes)
        imaginary = order * torch.where(order > 0, modes, other)
        scale = math.sqrt(0.5) ** order.abs()
        out: Tensor = torch.fft.ifftn(torch.complex(scale * real, scale * imaginary), dim=self.axes, norm="ortho").real
        return out

    def _opposite(self, modes: Tensor) -> Tensor:
        """Modes with -k at the position of k."""
        return modes.flip(self.axes).roll((1,) * len(self.axes), self.axes)

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has event shape {tuple(x.shape[1:])}: the basis is of {self.event_shape}")


def fourier(event_shape: Sequence[int]) -> Fourier:
    """Real Fourier basis over the last two dimensions, or over the only one."""
    rank = len(event_shape)
    return Fourier(event_shape, range(rank - min(2, rank), rank))


def dct(event_shape: Sequence[int]) -> Axes:
    """Orthonormal discrete cosine transform (DCT-II) over the last two dimensions, or over the only one."""
    axes = len(event_shape) - min(2, len(event_shape))
    return Axes([n if k < axes else dct_matrix(n) for k, n in enumerate(event_shape)])


def dct_matrix(n: int) -> Tensor:
    """Matrix of the DCT-II, ``(n, n)`` in float64. Row k is sqrt(2/n) cos(pi (i + 1/2) k / n), and row 0 is 1/sqrt(n)."""
    i, k = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)[:, None]
    u = math.sqrt(2.0 / n) * torch.cos(math.pi * (i + 0.5) * k / n)
    u[0] /= math.sqrt(2.0)
    return u


def haar(event_shape: Sequence[int]) -> Axes:
    """Pooling by 2 and its complement over the last two dimensions, or over the only one. The sizes must be even.

    In each dimension, the first half of the modes are the scaled averages of neighbors, the second half their
    differences.
    """
    axes = len(event_shape) - min(2, len(event_shape))
    matrices: list[Tensor | int] = []
    for k, n in enumerate(event_shape):
        if k < axes:
            matrices.append(n)
            continue
        if n % 2:
            raise ValueError(f"event_shape={tuple(event_shape)}: pooling by 2 needs even sizes")
        pairs = torch.eye(n, dtype=torch.float64).reshape(n // 2, 2, n)
        matrices.append(torch.cat((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1])) / math.sqrt(2.0))
    return Axes(matrices)


def pca(data: Tensor) -> tuple[Flat, Tensor]:
    """Principal axes of data ``(n, *event)``, largest variance first, and the variances in the shape of the event."""
    check_batch("data", data)
    flat = data.reshape(len(data), -1).to(torch.float64)
    centered = flat - flat.mean(0)
    variances, vectors = torch.linalg.eigh(centered.mT @ centered / len(flat))
    return Flat(vectors.mT.flip(0), data.shape[1:]), variances.flip(0).clamp(min=0.0).reshape(data.shape[1:])


def _orthonormal(name: str, u: Tensor) -> Tensor:
    u = u.to(torch.float64)
    error = float((u @ u.mT - torch.eye(len(u), dtype=torch.float64, device=u.device)).abs().max())
    if not error < 1e-8:
        raise ValueError(f"{name} is not orthonormal: U U^T differs from the identity by {error:.2g}")
    return u
