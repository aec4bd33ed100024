"""Rows of an array by index, without a copy of the whole array. The array is in memory, or in a file that can exceed memory.

Rows are read by their position in the file and not through a memory map. If the file is truncated while it is used, reading
raises an error; a memory map would terminate the process.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.stored import Stored
from scoresde.data.values import as_tensor

AT_ONCE = 2**19
"""Number of values in memory during a pass through all rows."""


class FileArray:
    """An array in a file, in C order from byte ``offset``. ``array[numbers]`` reads rows.

    Raises ValueError if the file changed after it was opened.
    """

    def __init__(self, file: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.file, self.offset, self.shape, self.dtype = file, offset, shape, dtype
        self._stream = open(file, "rb", buffering=0)  # noqa: SIM115  (open as long as the array is used)
        self._state = self._looked()

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        if self._looked() != self._state:
            raise ValueError(f"{self.file} was changed while it was read: start again, and write to another file")
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        out = np.empty((len(numbers), width), np.uint8)
        edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        for first, end in pairwise(edges):
            if first < end:
                self._fill(out[first:end].reshape(-1).data, self.offset + int(numbers[first]) * width)
        return out.reshape(-1).view(self.dtype).reshape(len(numbers), *self.shape[1:])

    def _fill(self, view: memoryview, position: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._stream.fileno(), [view[done:]], position + done)
            if not count:
                raise ValueError(f"{self.file} ends at byte {position + done}, before its array does")
            done += count

    def _looked(self) -> tuple[int, int]:
        state = os.fstat(self._stream.fileno())
        return state.st_size, state.st_mtime_ns


CHANNELS = ("first", "last", "none")
"""The axis of an event with its channels. "none": it has no such axis, and is read as an event of one channel."""


class ChannelsFirst:
    """The rows of an array with its channels last, or without channels, read as (n, channels, *sides)."""

    def __init__(self, array: FileArray | np.ndarray, channels: str) -> None:
        self.array, self.channels = array, channels
        n, *shape = array.shape
        self.shape = (n, shape[-1], *shape[:-1]) if channels == "last" else (n, 1, *shape)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        found = self.array[numbers]
        return np.ascontiguousarray(np.moveaxis(found, -1, 1)) if self.channels == "last" else found[:, None]


def channels_first(name: str, raw: Tensor | Rows, channels: str) -> Tensor | Rows:
    """Read an array (n, *event) as (n, channels, *sides). Rows of a file stay in the file.

    Raises ValueError for ``channels="last"`` and events with fewer than two axes.
    """
    if channels == "first":
        return raw
    if channels == "last" and len(raw.shape) < 3:
        raise ValueError(
            f"channels='last' is not allowed for {name} of shape {tuple(raw.shape)}: give (n, *sides, channels) with at "
            "least one side, or another value of channels"
        )
    if isinstance(raw, Tensor):
        return raw.movedim(-1, 1).contiguous() if channels == "last" else raw[:, None]
    assert not isinstance(raw.array, ChannelsFirst)
    return Rows(ChannelsFirst(raw.array, channels), torch.from_numpy(raw.index))


class Rows(Stored):
    """Rows ``index`` of an array, by default all. `as_tensor` converts them when they are read."""

    def __init__(self, array: FileArray | ChannelsFirst | Tensor | np.ndarray, index: Tensor | None = None) -> None:
        self.array = array.numpy() if isinstance(array, Tensor) else array
        self.index = np.arange(self.array.shape[0]) if index is None else index.numpy()
        self.event_shape = tuple(self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = self.index[index] if isinstance(index, slice) else self.index[index.numpy()]
        return as_tensor("an array", self.array[numbers])

    def read(self, index: int) -> Tensor:
        return self[index : index + 1][0]

    def part(self, index: Tensor) -> Rows:
        """A selection of these rows, without a copy."""
        return Rows(self.array, torch.from_numpy(self.index[index.numpy()]))

    def digest(self) -> str:
        return content_digest(self)


def chunks(raw: Tensor | Stored) -> Iterator[Tensor]:
    """Iterate over all events in order, several at a time."""
    size = max(1, AT_ONCE // max(1, math.prod(raw.shape[1:])))
    for first in range(0, len(raw), size):
        yield raw[first : first + size]


def content_digest(raw: Tensor | Rows) -> str:
    """The first 16 hex digits of the SHA-256 of shape, dtype and content, equal for an array in memory and in a file."""
    found = hashlib.sha256()
    for k, part in enumerate(chunks(raw)):
        if k == 0:
            found.update(f"{tuple(raw.shape)} {part.dtype}".encode())
        found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
