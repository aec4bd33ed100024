"""Linear maps on states, the coefficients of linear processes and their kernels.

A map acts on each state of a batch ``(B, *state)``. Its coefficients have a leading shape ``()``, one map for all
samples, or ``(B,)``::

    ScalarMap     c x
    BlockMap      (M x)_i = sum_j M_ij x_j over the first dimension of the state (position, velocity, ...), with one
                  k x k matrix M, or one for each mode of an orthonormal basis U of the event: U^T (M * U x)
    DiagonalMap   U^T (c * U x), a number for each mode of U; the case k = 1 without a dimension for it

All maps of one process are of the same kind, except that a scalar map can be combined with any. Products and sums
therefore stay in that kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.linalg.basis import Basis


class LinearMap(ABC):
    """Base class of linear maps on states ``(B, *state)`` with d coordinates."""

    commutes: bool = False
    """Whether all maps of this kind commute with each other."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to x."""

    @abstractmethod
    def transpose(self) -> LinearMap:
        """Transposed map."""

    @abstractmethod
    def inverse(self) -> LinearMap:
        """Inverse map."""

    @abstractmethod
    def compose(self, other: LinearMap) -> LinearMap:
        """Product of two maps, x -> self(other(x)).

        Args:
            other: Another map of this kind, or a ``ScalarMap``.

        Returns:
            The product.
        """

    @abstractmethod
    def add(self, other: LinearMap) -> LinearMap:
        """Sum of two maps, x -> self(x) + other(x).

        Args:
            other: Another map of this kind, or a ``ScalarMap``.

        Returns:
            The sum.
        """

    @abstractmethod
    def times(self, factor: Tensor) -> LinearMap:
        """Multiply the map by a number, x -> factor self(x).

        Args:
            factor: ``()`` or ``(B,)``.

        Returns:
            The scaled map.
        """

    @abstractmethod
    def root(self) -> LinearMap:
        """Square root L with L L^T = self, for a symmetric positive semi-definite map.

        It is lower triangular for blocks.
        """

    @abstractmethod
    def log_det(self) -> Tensor:
        """Log-determinant per coordinate: ``ln |det| / d``, ``()`` or ``(B,)``."""

    @abstractmethod
    def mean_square(self) -> Tensor:
        """Mean square ||M||_F^2 / d, ``()`` or ``(B,)``.

        It is the mean square of a coordinate of M z for standard normal z.
        """

    @abstractmethod
    def to(self, x: Tensor) -> LinearMap:
        """Convert the map to the dtype and device of x.

        Args:
            x: A tensor.

        Returns:
            The converted map.
        """

    @abstractmethod
    def __getitem__(self, k: int | slice) -> LinearMap:
        """Map number k of a batch of maps."""

    @abstractmethod
    def unbind(self) -> Sequence[LinearMap]:
        """List of all maps of a batch, by one operation."""

    def dense(self, event_shape: Sequence[int]) -> Tensor:
        """Matrix of one map on flattened events, for small d.

        Args:
            event_shape: Shape of the events, with d numbers.

        Returns:
            The matrix, ``(d, d)`` in float64.
        """
        d = math.prod(event_shape)
        columns = self(torch.eye(d, dtype=torch.float64).reshape(d, *event_shape))
        return columns.reshape(d, d).mT


@dataclass(frozen=True)
class ScalarMap(LinearMap):
    """Multiplication by a number: c x.

    Args:
        c: ``()`` or ``(B,)``.
    """

    c: Tensor
    commutes = True

    def __call__(self, x: Tensor) -> Tensor:
        return expand(self.c, x) * x

    def transpose(self) -> ScalarMap:
        return self

    def inverse(self) -> ScalarMap:
        return ScalarMap(1.0 / self.c)

    def compose(self, other: LinearMap) -> LinearMap:
        return other.times(self.c)

    def add(self, other: LinearMap) -> LinearMap:
        return ScalarMap(self.c + other.c) if isinstance(other, ScalarMap) else other.add(self)

    def times(self, factor: Tensor) -> ScalarMap:
        return ScalarMap(factor * self.c)

    def root(self) -> ScalarMap:
        return ScalarMap(self.c.clamp(min=0.0).sqrt())

    def log_det(self) -> Tensor:
        return self.c.abs().log()

    def mean_square(self) -> Tensor:
        return self.c**2

    def to(self, x: Tensor) -> ScalarMap:
        return ScalarMap(self.c.to(x))

    def __getitem__(self, k: int | slice) -> ScalarMap:
        return ScalarMap(self.c[k])

    def unbind(self) -> Sequence[ScalarMap]:
        return [ScalarMap(c) for c in self.c.unbind()]


@dataclass(frozen=True)
class BlockMap(LinearMap):
    """Multiplication by k x k matrices over the first dimension of the state ``(k, *event)``.

    Args:
        m: Matrix for all coordinates, ``(k, k)`` or ``(B, k, k)``. With a ``basis``: one for each mode, ``(*event, k,
            k)`` or ``(B, *event, k, k)``, where a size of 1 means that all modes along this dimension have the same
            matrix.
        basis: Orthonormal basis of the event. None: the coordinates.
    """

    m: Tensor
    basis: Basis | None = None

    def __call__(self, x: Tensor) -> Tensor:
        m = self.m.to(x.dtype)
        if self.basis is None:
            return (m @ x.reshape(len(x), x.shape[1], -1)).reshape(x.shape)
        modes = self.basis.forward(x.flatten(0, 1)).reshape(x.shape).movedim(1, -1)
        turned = (m @ modes[..., None])[..., 0].movedim(-1, 1)
        return self.basis.inverse(turned.flatten(0, 1)).reshape(x.shape)

    def transpose(self) -> BlockMap:
        return BlockMap(self.m.mT, self.basis)

    def inverse(self) -> BlockMap:
        return BlockMap(torch.linalg.inv(self.m), self.basis)

    def compose(self, other: LinearMap) -> BlockMap:
        return BlockMap(self.m @ self._matrix(other), self.basis)

    def add(self, other: LinearMap) -> BlockMap:
        return BlockMap(self.m + self._matrix(other), self.basis)

    def times(self, factor: Tensor) -> BlockMap:
        return BlockMap(self._lift(factor) * self.m, self.basis)

    def root(self) -> BlockMap:
        """Cholesky factor, or for a singular matrix the symmetric root. Negative eigenvalues from rounding count as 0."""
        factor, info = torch.linalg.cholesky_ex(self.m)
        if bool((info == 0).all()):
            return BlockMap(factor, self.basis)
        values, vectors = torch.linalg.eigh(self.m)
        symmetric = (vectors * values.clamp(min=0.0).sqrt()[..., None, :]) @ vectors.mT
        return BlockMap(torch.where((info == 0)[..., None, None], factor, symmetric), self.basis)

    def log_det(self) -> Tensor:
        return self._mean(torch.linalg.slogdet(self.m)[1]) / self.m.shape[-1]

    def mean_square(self) -> Tensor:
        return self._mean((self.m**2).sum((-2, -1))) / self.m.shape[-1]

    def to(self, x: Tensor) -> BlockMap:
        return BlockMap(self.m.to(x), self.basis)

    def __getitem__(self, k: int | slice) -> BlockMap:
        return BlockMap(self.m[k], self.basis)

    def unbind(self) -> Sequence[BlockMap]:
        return [BlockMap(m, self.basis) for m in self.m.unbind()]

    @property
    def _rank(self) -> int:
        return 0 if self.basis is None else len(self.basis.event_shape)

    def _lift(self, factor: Tensor) -> Tensor:
        return factor.reshape(factor.shape + (1,) * (self._rank + 2))

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over modes, ``(*t, *event)`` -> ``(*t)``."""
        return value.reshape(*value.shape[: value.ndim - self._rank], -1).mean(-1)

    def _matrix(self, other: LinearMap) -> Tensor:
        if isinstance(other, ScalarMap):
            return self._lift(other.c) * torch.eye(self.m.shape[-1], dtype=self.m.dtype, device=self.m.device)
        assert isinstance(other, BlockMap)
        return other.m


@dataclass(frozen=True)
class DiagonalMap(LinearMap):
    """Multiplication of each mode of an orthonormal basis by a number.

    Args:
        c: One number for each mode, ``(*event)`` or ``(B, *event)``.
        basis: Orthonormal basis of the event.
    """

    c: Tensor
    basis: Basis
    commutes = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.basis.inverse(self.c.to(x.dtype) * self.basis.forward(x))

    def transpose(self) -> DiagonalMap:
        return self

    def inverse(self) -> DiagonalMap:
        return DiagonalMap(1.0 / self.c, self.basis)

    def compose(self, other: LinearMap) -> DiagonalMap:
        return DiagonalMap(self.c * self._modes(other), self.basis)

    def add(self, other: LinearMap) -> DiagonalMap:
        return DiagonalMap(self.c + self._modes(other), self.basis)

    def times(self, factor: Tensor) -> DiagonalMap:
        return DiagonalMap(self._lift(factor) * self.c, self.basis)

    def root(self) -> DiagonalMap:
        return DiagonalMap(self.c.clamp(min=0.0).sqrt(), self.basis)

    def log_det(self) -> Tensor:
        return self._mean(self.c.abs().log())

    def mean_square(self) -> Tensor:
        return self._mean(self.c**2)

    def to(self, x: Tensor) -> DiagonalMap:
        return DiagonalMap(self.c.to(x), self.basis)

    def __getitem__(self, k: int | slice) -> DiagonalMap:
        return DiagonalMap(self.c[k], self.basis)

    def unbind(self) -> Sequence[DiagonalMap]:
        return [DiagonalMap(c, self.basis) for c in self.c.unbind()]

    @property
    def _rank(self) -> int:
        return len(self.basis.event_shape)

    def _lift(self, factor: Tensor) -> Tensor:
        return factor.reshape(factor.shape + (1,) * self._rank)

    def _mean(self, c: Tensor) -> Tensor:
        return c.mean(tuple(range(-self._rank, 0)))

    def _modes(self, other: LinearMap) -> Tensor:
        if isinstance(other, ScalarMap):
            return self._lift(other.c)
        assert isinstance(other, DiagonalMap)
        return other.c
