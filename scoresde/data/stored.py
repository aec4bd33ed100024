"""Events that are read when a batch needs them: image files and torch data sets.

Events are checked when they are read. Every error message names the file or the index. Images of both kinds follow the same rules
(``scoresde.data.pixels``).
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde.data.image_rules import ImageRules
from scoresde.data.pixels import numbers
from scoresde.data.values import as_tensor

SPOT_CHECKS = 64
"""Number of events of a torch data set that its digest and its check for float32 read."""


def unreadable() -> tuple[type[Exception], ...]:
    """Exceptions of Pillow for a file that is not a complete image. ImportError: LAB without the library for color profiles."""
    from PIL.Image import DecompressionBombError

    return (OSError, ValueError, SyntaxError, EOFError, ImportError, MemoryError, DecompressionBombError)


class Stored(ABC):
    """Base class of events that are read on demand.

    ``stored[index]`` has the shape (B, *event) for a tensor of indices or a slice. A subclass sets ``event_shape`` and implements
    ``__len__``, ``read`` and ``digest``.
    """

    event_shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Read one event.

        Args:
            index: The index of the event.

        Returns:
            The event, of shape ``event_shape``.

        Raises:
            ValueError: If the event cannot be read. The message names it.
        """

    @abstractmethod
    def digest(self) -> str:
        """16 hex digits that identify the data, without reading all of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *event)."""
        return (len(self), *self.event_shape)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return torch.stack(self.read_all(list(numbers)))

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        """Read several events.

        Args:
            numbers: The indices of the events.

        Returns:
            The events in this order.
        """
        return [self.read(k) for k in numbers]


class ImageFiles(Stored):
    """Image files, cropped to the event's ratio of height to width and shrunk (``scoresde.data.image_rules``).

    Several threads decode a batch. An image that does not fit the rules raises a ValueError with its name. The digest covers the
    names and sizes of the files.

    Args:
        root: A folder.
        files: Paths in this folder.
        side: Side of square events, or (height, width).
        channels: 3 for colors, 1 for gray images and label maps.
        levels: Number of levels.
        resampling: "bicubic" or "nearest".
        palette: "colors" or "indices".
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        side: int | Sequence[int],
        channels: int = 3,
        *,
        levels: int = 256,
        resampling: str | None = None,
        palette: str = "colors",
    ) -> None:
        self.root, self.files = root, list(files)
        self.rules = ImageRules(side, channels, levels, resampling, palette)
        self.event_shape = self.rules.event_shape

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Tensor:
        from PIL import Image

        file = self.files[index]
        try:
            with Image.open(file) as image:
                pixels = self.rules.event(image)
        except unreadable() as problem:
            height, width = self.event_shape[1:]
            raise ValueError(f"{file} cannot be read as an image of {width} x {height}: {problem}") from problem
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.read, numbers))

    def digest(self) -> str:
        lines = [f"{file.relative_to(self.root).as_posix()} {file.stat().st_size}" for file in self.files]
        head = [str(self.shape), *([self.rules.changed] if self.rules.changed else [])]
        return hashlib.sha256("\n".join([*head, *lines]).encode()).hexdigest()[:16]


class MapStyle(Protocol):
    """A map-style torch data set: any object with ``len(data)`` and ``data[k]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Items(Stored):
    """The events of a map-style torch data set: its items, or the first element of each item that is a tuple.

    Items are tensors, arrays, nested lists of numbers or PIL images. PIL images become (channels, height, width) by the rules of
    ``scoresde.data.pixels``. A list that begins with a tensor, an array or an image is treated as a tuple. The digest reads
    ``SPOT_CHECKS`` events.

    A random transform inside ``data`` uses global random state. Remove it and use ``flip=True`` instead.

    Args:
        data: An object with ``len(data)`` and ``data[k]``.
        index: Indices of the items to use; all by default.
        name: The name of the data in messages.
    """

    def __init__(self, data: Any, index: Tensor | None = None, name: str = "data") -> None:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(f"{name}: {type(data).__name__} has no len(data) or no data[k]: give a map-style data set")
        self.data, self.name = data, name
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
        number = self.index[index]
        try:
            item = self.data[number]
        except Exception as problem:  # third-party data sets may raise any exception
            raise ValueError(
                f"{self.name}: item {number} cannot be read: {type(problem).__name__}: {problem}"
            ) from problem
        return event_of(f"{self.name}: item {number}", item)

    def digest(self) -> str:
        step = max(1, len(self) // SPOT_CHECKS)
        found = hashlib.sha256(str(self.shape).encode())
        for event in self.read_all(list(range(0, len(self), step))):
            found.update(event.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def _is_image(item: Any) -> bool:
    """Whether this is a PIL image. Without PIL in use, it is not."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(item, pil.Image)


def event_of(name: str, item: Any) -> Tensor:
    """The event of an item of a torch data set. Raises ValueError, naming the item and what is allowed."""
    first = item[0] if isinstance(item, list | tuple) and item else None
    if isinstance(item, tuple) or (isinstance(item, list) and not isinstance(first, int | float | list | tuple)):
        item = first
    if isinstance(item, Mapping):
        raise ValueError(
            f"{name} is a dictionary with the keys {list(item)[:8]}: give a data set whose items are the events, e.g. by a "
            "class whose __getitem__ returns one of the keys"
        )
    if _is_image(item):
        try:
            return as_tensor(name, numbers(item))
        except unreadable() as problem:
            raise ValueError(f"{name} cannot be read as an image: {problem}") from problem
    try:
        return as_tensor(name, item).detach().cpu()
    except TypeError as problem:
        raise ValueError(f"{problem}, an image, or a tuple that begins with one of them") from problem
