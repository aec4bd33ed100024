"""Events that stay where they are until a batch asks for them: files of images, and torch data sets.

What is read is checked when it is read, since it was not seen before; every message names the file or the index.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Kinds of pixels with 8 bits a channel or less."""
_LOOKED_AT = 64
"""Events of a torch data set that its digest reads."""


class Stored(ABC):
    """Events by index: ``stored[index]`` is (B, *event) for a tensor of indices or a slice."""

    event_shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Event ``index``, of shape `event_shape`. Raises ValueError naming what cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """16 hex digits that change with the data, as far as that is seen without reading all of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *event)."""
        return (len(self), *self.event_shape)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return torch.stack(self.read_all(list(numbers)))

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        """The events of these indices."""
        return [self.read(k) for k in numbers]


class ImageFiles(Stored):
    """Image files, the largest square of their middle, shrunk to ``side``.

    root: a folder. files: paths in it. channels: 3 for colours, 1 for grey. Events are uint8, (channels, side, side); a batch is
    decoded by several threads. Transparency is dropped; an image whose shorter side is below ``side``, or with more than
    8 bits a channel, is refused. The digest is of names and sizes of the files.
    """

    def __init__(self, root: Path, files: Sequence[Path], side: int, channels: int = 3) -> None:
        self.root, self.files, self.side = root, list(files), side
        self.event_shape = (channels, side, side)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        file = self.files[index]
        try:
            with Image.open(file) as image:
                if image.mode not in _MODES:
                    raise ValueError(f"its pixels are of kind {image.mode!r}, of more than 8 bits a channel")
                pixels = self._square(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise ValueError(f"{file} cannot be read as an image of {self.side} x {self.side}: {problem}") from problem
        return torch.from_numpy(pixels.reshape(self.side, self.side, -1).transpose(2, 0, 1).copy())

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.read, numbers))

    def digest(self) -> str:
        lines = [f"{file.relative_to(self.root).as_posix()} {file.stat().st_size}" for file in self.files]
        return hashlib.sha256("\n".join([str(self.shape), *lines]).encode()).hexdigest()[:16]

    def _square(self, image: Image.Image) -> np.ndarray:
        width, height = image.size
        short = min(width, height)
        if short < self.side:
            raise ValueError(f"it has {width} x {height} pixels, and images are not enlarged")
        left, top = (width - short) // 2, (height - short) // 2
        image = image.convert("RGB" if self.event_shape[0] == 3 else "L").crop((left, top, left + short, top + short))
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC))


class Items(Stored):
    """The events of a map-style torch data set: its items, or the first of each where they are tuples.

    data: has ``len(data)`` and ``data[k]``. index: the items taken, all unless given. Items are tensors, arrays or PIL images;
    these become (channels, height, width). The digest reads `_LOOKED_AT` of them.

    A random transform inside ``data`` draws from global random state: leave it out, and flip by ``flip=True``.
    """

    def __init__(self, data: Any, index: Tensor | None = None) -> None:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(f"{type(data).__name__} has no len(data) or no data[k]: give a map-style data set")
        self.data = data
        self.index = list(range(len(data))) if index is None else index.tolist()
        self.event_shape = ()
        if self.index:
            self.event_shape = tuple(self._item(0).shape)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, index: int) -> Tensor:
        event = self._item(index)
        if tuple(event.shape) != self.event_shape:
            raise ValueError(
                f"item {self.index[index]} has shape {tuple(event.shape)}, item {self.index[0]} {self.event_shape}"
            )
        return event

    def _item(self, index: int) -> Tensor:
        item = self.data[self.index[index]]
        item = item[0] if isinstance(item, tuple | list) else item
        if isinstance(item, Image.Image):
            pixels = np.array(item)
            item = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return torch.as_tensor(item)

    def digest(self) -> str:
        step = max(1, len(self) // _LOOKED_AT)
        found = hashlib.sha256(str(self.shape).encode())
        for event in self.read_all(list(range(0, len(self), step))):
            found.update(event.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]
