"""Random draws of a sample as a pure function of (seed, sample index, step, purpose).

A sample therefore does not depend on the batch that contains it, on how the work is divided over processes, or on what was
drawn before it. This module neither reads nor changes the global random state of torch or numpy.

The counter-based generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2,
3"). For a 64-bit key k = seed and a 128-bit counter c it returns four 32-bit words. The counter is ::

    c = (block, sample index, step, purpose),    block = 0, 1, ... as many as the event needs

A word w gives a uniform number u = (w + 1/2) / 2^32 in (0, 1). Two uniform numbers give two normal numbers (Box and
Muller)::

    z_1 = sqrt(-2 ln u_1) cos(2 pi u_2),    z_2 = sqrt(-2 ln u_1) sin(2 pi u_2)

They are computed in float64 and rounded to the requested dtype, so that float32 and float64 runs, and all devices, see the
same noise.

Speed. The parts of a counter are tensors that broadcast, so that the first rounds work on small tensors. All four words have
the full shape only after the third round. A small draw costs about 150 calls of torch; ``normals`` draws for many steps in
one pass."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from scoresde._arguments import check_constructors, checked_arguments

_WORD = 0xFFFFFFFF
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# tensors () on the CPU, which combine with any device; a call with a Python number takes 1.5 times as long
_M0, _M1, _LOW, _HALF = (torch.tensor(word, device="cpu") for word in (0xD2511F53, 0xCD9E8D57, _WORD, 32))
_AHEAD = 2**14
"""Blocks that ``NoiseSource.normals`` draws at once, for several steps. They need less than 2 MiB, which fits in a cache.
Twice as many are faster on their own, but slower in a sampler (``benchmarks/sampler_overhead.py``)."""


@checked_arguments
def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10.

    A 32 x 32 bit product overflows int64, but its bits are right: the bits above the low half are masked before they are
    used.

    Args:
        counter: Four int64 tensors with values 0 .. 2^32-1 that broadcast.
        key: Two whole numbers in [0, 2^32).

    Returns:
        Four int64 tensors with values 0 .. 2^32-1, with the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    if not (0 <= k0 <= _WORD and 0 <= k1 <= _WORD):
        raise ValueError(f"key={key!r} is not allowed: give two whole numbers in [0, 2**32)")
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = _mix(product1, c1, k0), product1, _mix(product0, c3, k1), product0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1 & _LOW, c2, c3 & _LOW


def _mix(product: Tensor, word: Tensor, key: int) -> Tensor:
    """The high half of the product ^ the low half of the word ^ the key."""
    return (product >> _HALF).bitwise_xor(word).bitwise_xor_(key).bitwise_and_(_LOW)


def _uniform(word: Tensor) -> Tensor:
    """(w + 1/2) / 2^32 in float64, as a new tensor."""
    return word.to(torch.float64).add_(0.5).mul_(2.0**-32)


def _inside(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in a dtype. Rounding to a coarser dtype may give 0 or 1; they are kept inside (0, 1)."""
    kind = torch.finfo(dtype)
    return u.to(dtype).clamp(min=kind.tiny, max=1.0 - kind.eps / 2)


def _box_muller(words: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Four standard normal numbers from every four words, (..., 4)."""
    z = torch.empty((*words[0].shape, 4), dtype=dtype, device=words[0].device)
    for k in (0, 2):
        radius = _uniform(words[k]).log_().mul_(-2.0).sqrt_()
        angle = _uniform(words[k + 1]).mul_(2.0 * math.pi)
        z[..., k] = angle.cos().mul_(radius)
        z[..., k + 1] = angle.sin_().mul_(radius)
    return z


def _whole_seed(seed: int) -> int:
    """``seed`` as an int. Raises ValueError unless it is a whole number in [0, 2^64)."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed!r} is not allowed: give a whole number in [0, 2**64)")
    return int(seed)


@dataclass(frozen=True)
class NoiseSource:
    """The random draws of a batch of samples.

    Args:
        seed: A whole number in [0, 2^64).
        indices: (B,) whole numbers in [0, 2^32), the identity of each sample: its position in the data set, or among all the
            samples that several processes draw together.
    """

    seed: int
    indices: Tensor

    standard_normals = True  # without an annotation, so that it is not a field
    """Whether the normal draws are independent and standard normal."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", _whole_seed(self.seed))
        if not isinstance(self.indices, Tensor):
            raise TypeError(f"indices is a {type(self.indices).__name__}: give a tensor (B,) of integers")
        if self.indices.ndim != 1 or self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise ValueError(
                f"indices has shape {tuple(self.indices.shape)} and dtype {self.indices.dtype}: give integers (B,)"
            )
        if self.indices.device.type == "cpu" and len(self.indices):
            low, high = int(self.indices.min()), int(self.indices.max())
            if low < 0 or high > _WORD:
                raise ValueError(f"indices from {low} to {high} are not allowed: give whole numbers in [0, 2**32)")

    @classmethod
    def of(cls, seed: int, count: int, first: int = 0, device: torch.device | str | None = None) -> NoiseSource:
        """The source of consecutive samples.

        Args:
            seed: A whole number in [0, 2^64).
            count: Number of samples.
            first: Index of the first sample.
            device: Device of the draws.

        Returns:
            The source of the samples ``first``, ..., ``first + count - 1``.
        """
        if not isinstance(first, Integral) or isinstance(first, bool) or not 0 <= first <= _WORD:
            raise ValueError(f"first={first!r} is not allowed: give a whole number in [0, 2**32)")
        first = int(first)
        indices = torch.arange(first, first + count, device=device)
        if cls is not NoiseSource or first + count - 1 > _WORD:
            return cls(seed, indices)
        source = object.__new__(cls)  # the range of the indices is known, so it is not checked
        object.__setattr__(source, "seed", _whole_seed(seed))
        object.__setattr__(source, "indices", indices)
        return source

    @classmethod
    def for_batch(
        cls, noise: NoiseSource | None, count: int, seed: int, first: int, device: torch.device | str | None
    ) -> NoiseSource:
        """``noise``, or the source of consecutive samples if ``noise`` is None.

        Args:
            noise: A source, or None.
            count: Number of samples in the batch.
            seed: Seed of the default source.
            first: Index of the first sample of the default source.
            device: Device of the default source.

        Returns:
            The source.

        Raises:
            ValueError: ``noise`` has another number of samples than ``count``.
        """
        if noise is None:
            return cls.of(seed, count, first, device)
        if not isinstance(noise, NoiseSource):
            raise TypeError(
                f"noise is a {type(noise).__name__}: give a NoiseSource, e.g. NoiseSource.of(seed, {count})"
            )
        if len(noise.indices) != count:
            raise ValueError(f"noise has {len(noise.indices)} indices for a batch of {count}: give one for each sample")
        return noise

    def again(self, number: int) -> NoiseSource:
        """A source of the same samples with independent draws.

        For numbers other than 0, Philox derives a 64-bit seed from (seed, number). Repetitions of two seeds coincide only
        with a probability of 2^-64.

        Args:
            number: Number of the repetition, >= 0.

        Returns:
            The source itself for 0, else a source with the derived seed.
        """
        if not isinstance(number, Integral) or not 0 <= number <= _WORD:
            raise ValueError(f"number={number!r} is not allowed: give a whole number in [0, 2**32)")
        if number == 0:
            return self
        return replace(self, seed=_derived_seed(self.seed, int(number)))

    def uniform(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Uniform numbers in (0, 1).

        Args:
            event_shape: Shape of the draw of one sample.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.
            dtype: dtype of the draws.

        Returns:
            The draws, (B, *event_shape).
        """
        u = _inside(self._uniforms(math.prod(event_shape), step, purpose), dtype)
        return u.reshape(len(self.indices), *event_shape)

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Standard normal numbers.

        Args:
            event_shape: Shape of the draw of one sample.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.
            dtype: dtype of the draws.

        Returns:
            The draws, (B, *event_shape).
        """
        return self._normals(event_shape, (step,), (purpose,), dtype)[0]

    def normals(
        self, event_shape: Sequence[int], *, steps: Sequence[int], purpose: str | Sequence[str], dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """``normal`` for several steps, one after the other.

        The draws of several steps are computed together, which is many times cheaper for small events. If a subclass
        overrides ``normal``, its method is called for each step.

        Args:
            event_shape: Shape of the draw of one sample.
            steps: Numbers of the steps, part of the key.
            purpose: Name of the use, part of the key: one for all steps, or one for each of ``steps``.
            dtype: dtype of the draws.

        Yields:
            The draws of each step, (B, *event_shape).
        """
        purposes = [purpose] * len(steps) if isinstance(purpose, str) else list(purpose)
        if len(purposes) != len(steps):
            raise ValueError(f"purpose has {len(purposes)} entries for {len(steps)} steps: give one for each step")
        if type(self).normal is not NoiseSource.normal:
            yield from self._one_by_one(self.normal, event_shape, steps, purposes, dtype)
            return
        for part in self._together(event_shape, len(steps)):
            yield from self._normals(event_shape, steps[part], purposes[part], dtype).unbind()

    def rademachers(
        self, event_shape: Sequence[int], *, steps: Sequence[int], purpose: str, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """``rademacher`` for several steps, one after the other, computed together like ``normals``.

        Args:
            event_shape: Shape of the draw of one sample.
            steps: Numbers of the steps, part of the key.
            purpose: Name of the use, part of the key.
            dtype: dtype of the draws.

        Yields:
            The draws of each step, (B, *event_shape).
        """
        if type(self).rademacher is not NoiseSource.rademacher:
            yield from self._one_by_one(self.rademacher, event_shape, steps, [purpose] * len(steps), dtype)
            return
        for part in self._together(event_shape, len(steps)):
            yield from self._signs(event_shape, steps[part], purpose, dtype).unbind()

    def _one_by_one(
        self,
        draw: Callable[..., Tensor],
        event_shape: Sequence[int],
        steps: Sequence[int],
        purposes: Sequence[str],
        dtype: torch.dtype,
    ) -> Iterator[Tensor]:
        """The draws of a subclass's own method, one call for each step."""
        shape = (len(self.indices), *event_shape)
        for step, purpose in zip(steps, purposes, strict=True):
            z = draw(event_shape, step=step, purpose=purpose, dtype=dtype)
            if z.shape != shape:
                name = f"{type(self).__name__}.{draw.__name__}"
                raise ValueError(f"{name} returned shape {tuple(z.shape)}: it must return {shape}")
            yield z

    def _together(self, event_shape: Sequence[int], steps: int) -> Iterator[slice]:
        """``steps`` in groups that are drawn together."""
        together = max(1, _AHEAD // max(1, len(self.indices) * -(-math.prod(event_shape) // 4)))
        for k in range(0, steps, together):
            yield slice(k, k + together)

    def uniform_and_normal(
        self,
        event_shape: Sequence[int],
        *,
        step: int,
        purposes: tuple[str, str],
        dtypes: tuple[torch.dtype, torch.dtype],
    ) -> tuple[Tensor, Tensor]:
        """One uniform number and one normal event for each sample, by one evaluation of the generator.

        Args:
            event_shape: Shape of the normal draw of one sample.
            step: Number of the step, part of the key.
            purposes: Names of the uses of the uniform and of the normal draw, part of the key.
            dtypes: dtypes of the uniform and of the normal draw.

        Returns:
            The draws (B,) of ``uniform((), purpose=purposes[0])`` and (B, *event_shape) of ``normal(event_shape,
            purpose=purposes[1])``, at the same step.
        """
        (first, second), kind = dtypes, type(self)
        if kind.normal is not NoiseSource.normal or kind.uniform is not NoiseSource.uniform:
            return (
                self.uniform((), step=step, purpose=purposes[0], dtype=first),
                self.normal(event_shape, step=step, purpose=purposes[1], dtype=second),
            )
        size = math.prod(event_shape)
        blocks = torch.arange(-1, -(-size // 4), device=self.indices.device)
        own, other = (zlib.crc32(purpose.encode()) for purpose in purposes)
        of = torch.where(blocks < 0, own, other)
        words = self._words(blocks.clamp(min=0), (step,), of)
        u = _inside(_uniform(words[0][0, :, 0]), first)
        z = _box_muller([word[..., 1:] for word in words], second)
        return u, z.flatten(2)[0, :, :size].reshape(len(self.indices), *event_shape)

    def rademacher(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        """Signs -1 or +1 with probability 1/2 each.

        Args:
            event_shape: Shape of the draw of one sample.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.
            dtype: dtype of the draws.

        Returns:
            The draws, (B, *event_shape).
        """
        return self._signs(event_shape, (step,), purpose, dtype)[0]

    def integers(self, below: int, event_shape: Sequence[int], *, step: int, purpose: str) -> Tensor:
        """Whole numbers 0 .. below - 1 with equal probabilities.

        The bias is below ``below`` / 2^32.

        Args:
            below: Upper bound, exclusive.
            event_shape: Shape of the draw of one sample.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.

        Returns:
            The draws, (B, *event_shape), int64.
        """
        u = self._uniforms(math.prod(event_shape), step, purpose)
        return (u * below).long().reshape(len(self.indices), *event_shape)

    def _uniforms(self, size: int, step: int, purpose: str) -> Tensor:
        """(B, size) float64 in (0, 1)."""
        return self._uniforms_of(size, (step,), purpose)[0]

    def _uniforms_of(self, size: int, steps: Sequence[int], purpose: str) -> Tensor:
        """(steps, B, size) float64 in (0, 1)."""
        words = self._words(self._blocks(size), steps, self._code(purpose))
        return torch.stack([_uniform(word) for word in words], dim=-1).flatten(2)[..., :size]

    def _signs(self, event_shape: Sequence[int], steps: Sequence[int], purpose: str, dtype: torch.dtype) -> Tensor:
        """(steps, B, *event_shape) signs."""
        u = self._uniforms_of(math.prod(event_shape), steps, purpose)
        return torch.where(u < 0.5, -1.0, 1.0).to(dtype).reshape(len(steps), len(self.indices), *event_shape)

    def _normals(
        self, event_shape: Sequence[int], steps: Sequence[int], purposes: Sequence[str], dtype: torch.dtype
    ) -> Tensor:
        """(steps, B, *event_shape) standard normals."""
        size = math.prod(event_shape)
        if len(set(purposes)) == 1:
            of = self._code(purposes[0])
        else:
            codes = [zlib.crc32(purpose.encode()) for purpose in purposes]
            of = torch.tensor(codes, device=self.indices.device)[:, None, None]
        z = _box_muller(self._words(self._blocks(size), steps, of), dtype)
        return z.flatten(2)[..., :size].reshape(len(steps), len(self.indices), *event_shape)

    def _blocks(self, size: int) -> Tensor:
        """The numbers of the blocks that contain ``size`` words."""
        return torch.arange(-(-size // 4), device=self.indices.device)

    def _code(self, purpose: str) -> Tensor:
        return torch.tensor(zlib.crc32(purpose.encode()), device=self.indices.device)

    def _words(self, blocks: Tensor, steps: Sequence[int], of: Tensor) -> list[Tensor]:
        """Four words of shape (steps, B, blocks) for the purposes ``of``, which broadcast against this shape."""
        for number in steps:
            if not isinstance(number, Integral) or not 0 <= number <= _WORD:
                raise ValueError(f"step={number!r} is not allowed: give a whole number in [0, 2**32)")
        index = self.indices.to(torch.int64)[None, :, None] & _LOW
        block = blocks[None, None, :]
        step = torch.tensor(list(steps), dtype=torch.int64, device=index.device)[:, None, None]
        words = philox((block, index, step, of), (self.seed & _WORD, self.seed >> 32))
        return [word.expand(len(steps), len(self.indices), block.shape[-1]) for word in words]


check_constructors(globals())


@functools.lru_cache(maxsize=1024)
def _derived_seed(seed: int, number: int) -> int:
    """The seed of the repetition ``number`` of ``seed``. Some loops ask for the same ones at every step."""
    zero, of = torch.tensor(0), torch.tensor(zlib.crc32(b"again"))
    low, high, *_ = philox((torch.tensor(number), zero, zero, of), (seed & _WORD, seed >> 32))
    return int(low) | int(high) << 32
