"""Linear maps on states: what the mean and the noise of a linear process are made of.

A map acts on each state of a batch (B, *event); its coefficients have a leading shape (), one map for all, or (B,).

    ScalarMap     c x
    BlockMap      (M x)_i = sum_j M_ij x_j over the first dimension of the state (position, velocity, ...); one k x k matrix, or
                  one for every mode of an orthonormal basis U of the event, U^T (M * U x)
    DiagonalMap   U^T (c * U x), a number for every mode of U: the case k = 1, without a dimension for it

Maps of one process are all of one kind (a scalar goes with any), so that products and sums stay in the kind.
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
    """A linear map on states of shape (B, *event)."""

    commutes: bool = False
    """Whether all maps of the kind commute with one another."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The map applied to x, the shape of x."""

    @abstractmethod
    def transpose(self) -> LinearMap:
        """The transposed map."""

    @abstractmethod
    def inverse(self) -> LinearMap:
        """The inverse map."""

    @abstractmethod
    def compose(self, other: LinearMap) -> LinearMap:
        """x -> self(other(x))."""

    @abstractmethod
    def add(self, other: LinearMap) -> LinearMap:
        """x -> self(x) + other(x)."""

    @abstractmethod
    def times(self, factor: Tensor) -> LinearMap:
        """x -> factor self(x); factor has shape () or (B,)."""

    @abstractmethod
    def root(self) -> LinearMap:
        """L with L L^T = self, for a symmetric map without negative directions; lower triangular for blocks."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """ln |det| per coordinate, (1/d) ln |det|, shape () or (B,)."""

    @abstractmethod
    def mean_square(self) -> Tensor:
        """||M||_F^2 / d, shape () or (B,): the mean squared length that it gives to standard normal noise."""

    @abstractmethod
    def to(self, x: Tensor) -> LinearMap:
        """The map in the dtype and on the device of x."""

    @abstractmethod
    def __getitem__(self, k: int) -> LinearMap:
        """The k-th of a batch of maps."""

    @abstractmethod
    def unbind(self) -> Sequence[LinearMap]:
        """All of a batch of maps, by one operation."""

    def dense(self, event_shape: Sequence[int]) -> Tensor:
        """The (d, d) matrix of one map (coefficients without a batch) on flattened events; for small d."""
        d = math.prod(event_shape)
        columns = self(torch.eye(d, dtype=torch.float64).reshape(d, *event_shape))
        return columns.reshape(d, d).mT


@dataclass(frozen=True)
class ScalarMap(LinearMap):
    """c x, c of shape () or (B,)."""

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

    def __getitem__(self, k: int) -> ScalarMap:
        return ScalarMap(self.c[k])

    def unbind(self) -> Sequence[ScalarMap]:
        return [ScalarMap(c) for c in self.c.unbind()]


@dataclass(frozen=True)
class BlockMap(LinearMap):
    """k x k matrices over the first dimension of the state (k, *event).

    m: (k, k) or (B, k, k), one for all coordinates; where a ``basis`` of the event is given (*event, k, k) or (B, *event, k, k),
        one for each mode, sizes of 1 standing for modes that are alike.
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
        """Cholesky's factor, or where a direction has no width the symmetric root, in which rounding below 0 counts as 0."""
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

    def __getitem__(self, k: int) -> BlockMap:
        return BlockMap(self.m[k], self.basis)

    def unbind(self) -> Sequence[BlockMap]:
        return [BlockMap(m, self.basis) for m in self.m.unbind()]

    @property
    def _rank(self) -> int:
        return 0 if self.basis is None else len(self.basis.event_shape)

    def _lift(self, factor: Tensor) -> Tensor:
        return factor.reshape(factor.shape + (1,) * (self._rank + 2))

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over modes: (*t, *event) -> (*t)."""
        return value.reshape(*value.shape[: value.ndim - self._rank], -1).mean(-1)

    def _matrix(self, other: LinearMap) -> Tensor:
        if isinstance(other, ScalarMap):
            return self._lift(other.c) * torch.eye(self.m.shape[-1], dtype=self.m.dtype, device=self.m.device)
        assert isinstance(other, BlockMap)
        return other.m


@dataclass(frozen=True)
class DiagonalMap(LinearMap):
    """c over the modes of an orthonormal basis; c of shape (*event) or (B, *event)."""

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

    def __getitem__(self, k: int) -> DiagonalMap:
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
