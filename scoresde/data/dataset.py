"""A data set in memory, its transform, and the order in which training sees it.

Order and noise are functions of (seed, position): position p = step * batch + j runs through one permutation of the data per
epoch, so that nothing depends on how a batch is cut over processes, and a resumed run goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite
from scoresde.data.transforms import Quantized, Transform
from scoresde.noise import NoiseSource


class Dataset:
    """Raw data and how it becomes x.

    raw: (n, *event), integers 0 .. levels - 1 for a `Quantized` transform, finite reals for an `Affine`.
    transform: the declaration; the only place where levels and range are said.
    name: for reports.

    Raises ValueError where it is empty, holds NaN or infinities, or values that the transform does not allow.
    """

    def __init__(self, raw: Tensor, transform: Transform, name: str = "data") -> None:
        if raw.ndim < 2:
            raise ValueError(
                f"data set {name!r} has shape {tuple(raw.shape)}: give (n, *event), e.g. (n, 1) for scalars"
            )
        if raw.numel() == 0:
            raise ValueError(f"data set {name!r} is empty: shape {tuple(raw.shape)}, wanted (n, *event) with n >= 1")
        if raw.is_floating_point():
            check_finite(f"data set {name!r}", raw)
        if isinstance(transform, Quantized):
            if raw.is_floating_point() and bool((raw != raw.round()).any()):
                raise ValueError(f"data set {name!r} holds fractions, and {transform!r} takes whole levels: use Affine")
            raw = raw.long()
        self.raw, self.transform, self.name = raw, transform, name
        transform.encode(raw, None, dtype=torch.float32)  # refuses values out of range now

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} events of shape {self.event_shape}, {self.transform!r})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.raw.shape[1:])

    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of shape, dtype and content."""
        head = f"{tuple(self.raw.shape)} {self.raw.dtype}".encode()
        return hashlib.sha256(head + self.raw.contiguous().numpy().tobytes()).hexdigest()[:16]

    def encode(
        self, index: Tensor | slice | Sequence[int], *, seed: int, draw: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """x of the events ``index`` (B,), dequantised by draw number ``draw``: the same (seed, index, draw), the same x."""
        index = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        return self.transform.encode(self.raw[index], NoiseSource(seed, index), step=draw, dtype=dtype)

    def batch(self, step: int, size: int, *, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The training batch of a step: x (size, *event) and the positions (size,) that key its draws."""
        check_count("size", size)
        position = torch.arange(step * size, (step + 1) * size)
        epoch = position // len(self)
        index = torch.empty_like(position)
        for e in epoch.unique().tolist():
            here = epoch == e
            index[here] = permutation(len(self), seed, e)[position[here] % len(self)]
        # a position has its own draw, whatever the batch that it came in
        turn, position = int(position[0]) >> 32, position % 2**32
        x = self.transform.encode(self.raw[index], NoiseSource(seed, position), step=turn, dtype=dtype)
        return x, position


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 .. n - 1, a function of (seed, epoch)."""
    u = NoiseSource.of(seed, n).uniform((), step=epoch, purpose="order", dtype=torch.float64)
    return u.argsort(stable=True)
