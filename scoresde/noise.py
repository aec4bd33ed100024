"""Random draws that belong to a sample: a pure function of (seed, sample index, step, purpose).

A sample then does not depend on the batch that it sits in, on how the work is cut over processes, or on what was
drawn before it. Nothing here reads or changes torch's or numpy's global random state.

Counter-based generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2,
3"). For a 64-bit key k = seed and a 128-bit counter c it gives four 32-bit words; here

    c = (block, sample index, step, purpose),    block = 0, 1, ... as many as the event needs.

A word w becomes a uniform u = (w + 1/2) / 2^32 in (0, 1); two uniforms become two normals by Box and Muller,

    z_1 = sqrt(-2 ln u_1) cos(2 pi u_2),    z_2 = sqrt(-2 ln u_1) sin(2 pi u_2),

in float64, rounded to the dtype asked for: float32 and float64 runs, and every device, see the same noise.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10. Words are int64 tensors holding 0 .. 2^32-1; returns four words of the counter's shape.

    A 32 x 32 bit product wraps in int64, but its bits are right: the shift is masked, so the sign never shows.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            ((product0 >> 32) & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


@dataclass(frozen=True)
class NoiseSource:
    """The random draws of a batch of samples.

    seed: whole number in [0, 2^64).
    indices: (B,) whole numbers in [0, 2^32), the identity of each sample: its position in the data set, or in the
        whole set of samples that several processes draw together.
    """

    seed: int
    indices: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.seed, Integral) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed!r} is not allowed: give a whole number in [0, 2**64)")
        object.__setattr__(self, "seed", int(self.seed))
        if not isinstance(self.indices, Tensor):
            raise TypeError(f"indices is a {type(self.indices).__name__}: give a tensor (B,) of integers")
        if self.indices.ndim != 1 or self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise ValueError(f"indices of shape {tuple(self.indices.shape)}, {self.indices.dtype}: give (B,) integers")
        if self.indices.device.type == "cpu" and len(self.indices):
            low, high = int(self.indices.min()), int(self.indices.max())
            if low < 0 or high > _WORD:
                raise ValueError(f"indices from {low} to {high} are not allowed: give whole numbers in [0, 2**32)")

    @classmethod
    def of(cls, seed: int, count: int, first: int = 0, device: torch.device | str | None = None) -> NoiseSource:
        """The source of samples ``first``, ..., ``first + count - 1``."""
        return cls(seed, torch.arange(first, first + count, device=device))

    def uniform(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Uniform draws in (0, 1), shape (B, *event_shape)."""
        u = self._uniforms(math.prod(event_shape), step, purpose)
        # rounding to a coarser dtype may reach 0 or 1: stay inside
        kind = torch.finfo(dtype)
        u = u.to(dtype).clamp(min=kind.tiny, max=1.0 - kind.eps / 2)
        return u.reshape(len(self.indices), *event_shape)

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Standard normal draws, shape (B, *event_shape)."""
        size = math.prod(event_shape)
        u = self._uniforms(size + size % 2, step, purpose)
        radius = (-2.0 * u[:, 0::2].log()).sqrt()
        angle = 2.0 * math.pi * u[:, 1::2]
        z = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
        return z[:, :size].to(dtype).reshape(len(self.indices), *event_shape)

    def rademacher(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Signs -1 or +1 with probability 1/2 each, shape (B, *event_shape)."""
        u = self._uniforms(math.prod(event_shape), step, purpose)
        return torch.where(u < 0.5, -1.0, 1.0).to(dtype).reshape(len(self.indices), *event_shape)

    def integers(self, below: int, event_shape: Sequence[int], *, step: int, purpose: str) -> Tensor:
        """Whole numbers 0 .. below - 1, shape (B, *event_shape); the bias is below ``below`` / 2^32."""
        u = self._uniforms(math.prod(event_shape), step, purpose)
        return (u * below).long().reshape(len(self.indices), *event_shape)

    def _uniforms(self, size: int, step: int, purpose: str) -> Tensor:
        """(B, size) float64 in (0, 1)."""
        if not isinstance(step, Integral) or not 0 <= step <= _WORD:
            raise ValueError(f"step={step!r} is not allowed: give a whole number in [0, 2**32)")
        index = self.indices.to(torch.int64)[:, None] & _WORD
        block = torch.arange(-(-size // 4), device=index.device)[None, :]
        zero = torch.zeros((), dtype=torch.int64, device=index.device)
        counter = (block + 0 * index, index + 0 * block, zero + step, zero + zlib.crc32(purpose.encode()))
        words = philox(counter, (self.seed & _WORD, self.seed >> 32))
        shape = counter[0].shape
        w = torch.stack([word.expand(shape) for word in words], dim=-1).flatten(1)[:, :size]
        return (w.to(torch.float64) + 0.5) / 2.0**32
