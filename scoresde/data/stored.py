"""Events that are read when a batch needs them: image files, and the base class of others.

Events are checked when they are read. Every error message names the file or the index. Images of files and of torch data sets
(``items.py``) follow the same rules (``scoresde.data.pixels``).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.image_rules import ImageRules

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

    def place(self, index: int) -> str:
        """The name of an event for messages.

        Args:
            index: The index of the event.

        Returns:
            A text such as "event 3".
        """
        return f"event {index}"

    def byte_counts(self, index: Tensor | slice) -> Tensor | None:
        """The number of bytes of text that each event stands for, where events are text.

        Args:
            index: Indices of the events, of shape (B,), or a slice.

        Returns:
            The numbers, of shape (B,), whose sum over all events for evaluation is the length of the text. None for other data.
        """
        return None

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
