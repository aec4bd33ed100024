"""A data set, its transform, and the order in which training sees it.

Order and noise are functions of (seed, position): position p = step * batch + j runs through one permutation of the data per
epoch, so that nothing depends on how a batch is cut over processes, and a resumed run goes on where it was. So is whether an
event is mirrored in training, with probability 1/2. Data is kept as it came, 8-bit images in bytes, and encoded batch by batch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, expand
from scoresde.data.stored import Stored
from scoresde.data.transforms import Quantized, Transform
from scoresde.noise import NoiseSource


class Dataset:
    """Raw data and how it becomes x.

    raw: (n, *event), integers 0 .. levels - 1 for a `Quantized` transform, finite reals for an `Affine`; a tensor, or a `Stored`
        that reads events when they are asked for.
    transform: the declaration; the only place where levels and range are said.
    name: for reports.
    flip: whether training mirrors events at random along their last dimension; `encode` never does.

    Raises ValueError where it is empty, holds NaN or infinities, or values that the transform does not allow: for a `Stored` in
    its first event now, in others when they are read.
    """

    def __init__(self, raw: Tensor | Stored, transform: Transform, name: str = "data", flip: bool = False) -> None:
        shape = tuple(raw.shape)
        if len(shape) < 2:
            raise ValueError(f"data set {name!r} has shape {shape}: give (n, *event), e.g. (n, 1) for scalars")
        if 0 in shape:
            raise ValueError(f"data set {name!r} is empty: shape {shape}, wanted (n, *event) with n >= 1")
        if flip and len(shape) < 4:
            raise ValueError(f"flip={flip!r} mirrors images, and data set {name!r} has events {shape[1:]}")
        self.raw, self.transform, self.name, self.flip = raw, transform, name, flip
        if isinstance(raw, Tensor):
            self.raw = self._checked(raw)
        else:
            self.events(torch.arange(1))

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} events of shape {self.event_shape}, {self.transform!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.raw.shape[1:])

    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of shape, dtype and content; of a `Stored` what it has for one."""
        if not isinstance(self.raw, Tensor):
            return self.raw.digest()
        head = f"{tuple(self.raw.shape)} {self.raw.dtype}".encode()
        return hashlib.sha256(head + self.raw.contiguous().numpy().tobytes()).hexdigest()[:16]

    def encode(
        self, index: Tensor | slice | Sequence[int], *, seed: int, draw: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """x of the events ``index`` (B,), dequantised by draw number ``draw``: the same (seed, index, draw), the same x."""
        index = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        return self.transform.encode(self.events(index), NoiseSource(seed, index), step=draw, dtype=dtype)

    def batch(
        self, step: int, size: int, *, seed: int, dtype: torch.dtype = torch.float32, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """The training batch of a step: x (size, *event) and the positions (size,) that key its draws.

        part: what of it is wanted.
        """
        check_count("size", size)
        position = torch.arange(step * size, (step + 1) * size)[part]
        epoch = position // len(self)
        index = torch.empty_like(position)
        for e in epoch.unique().tolist():
            here = epoch == e
            index[here] = _order(len(self), seed, e)[position[here] % len(self)]
        # a position has its own draw, whatever the batch that it came in
        turn, position = (step * size) >> 32, position % 2**32
        noise, raw = NoiseSource(seed, position), self.events(index)
        if self.flip:
            u = noise.uniform((), step=turn, purpose="flip", dtype=torch.float64)
            raw = torch.where(expand(u, raw) < 0.5, raw.flip(-1), raw)
        return self.transform.encode(raw, noise, step=turn, dtype=dtype), position

    def events(self, index: Tensor) -> Tensor:
        """Raw events (B, *event) of numbers ``index`` (B,). Raises ValueError for values that the transform does not allow."""
        return self.raw[index] if isinstance(self.raw, Tensor) else self._checked(self.raw[index])

    def _checked(self, raw: Tensor) -> Tensor:
        """Raw events as they are, or as integers where the transform takes levels."""
        if raw.is_floating_point():
            check_finite(f"data set {self.name!r}", raw)
        if isinstance(self.transform, Quantized):
            if raw.is_floating_point():
                if bool((raw != raw.round()).any()):
                    raise ValueError(
                        f"data set {self.name!r} holds fractions, and {self.transform!r} takes whole levels: use Affine"
                    )
                raw = raw.long()
            self.transform.check(raw)
        return raw


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 .. n - 1, a function of (seed, epoch)."""
    u = NoiseSource.of(seed, n).uniform((), step=epoch, purpose="order", dtype=torch.float64)
    return u.argsort(stable=True)


_order = functools.lru_cache(maxsize=4)(permutation)
"""The same, remembered: an epoch asks for it in every step."""
