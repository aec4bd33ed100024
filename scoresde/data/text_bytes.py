"""The bytes of texts: files one after another, or texts in memory. Files above 64 MiB are read by position, not as a whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from scoresde.data.arrays import IN_MEMORY
from scoresde.data.rows import FileArray

AT_ONCE = 2**20
"""Number of bytes in memory during a pass through a text."""


class TextBytes:
    """The bytes ``start`` to ``stop`` of pieces of text, one after another.

    Args:
        pieces: Pairs of a name and bytes, an array of uint8 or a `FileArray` of them.
        start: The first byte.
        stop: The byte after the last one; None for the end.
    """

    def __init__(
        self, pieces: Sequence[tuple[str, np.ndarray | FileArray]], start: int = 0, stop: int | None = None
    ) -> None:
        self.pieces = list(pieces)
        self.ends = list(accumulate(piece.shape[0] for _, piece in pieces))
        self.start, self.stop = start, (self.ends[-1] if stop is None else stop)

    @classmethod
    def of_files(cls, files: Sequence[str]) -> TextBytes:
        """The bytes of files, joined as they are in this order.

        Args:
            files: Names of files.

        Returns:
            The bytes.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a file is empty.
        """
        pieces: list[tuple[str, np.ndarray | FileArray]] = []
        for file in files:
            if not Path(file).is_file():
                raise FileNotFoundError(f"no text file {file!r}")
            size = Path(file).stat().st_size
            if not size:
                raise ValueError(f"{file} is empty: give a text of one byte at least")
            if size > IN_MEMORY:
                pieces.append((file, FileArray(Path(file), 0, (size,), np.dtype(np.uint8))))
            else:
                pieces.append((file, np.frombuffer(Path(file).read_bytes(), np.uint8)))
        return cls(pieces)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def in_memory(self) -> bool:
        """Whether all pieces are in memory, and small."""
        return all(isinstance(piece, np.ndarray) for _, piece in self.pieces) and len(self) <= IN_MEMORY

    def part(self, start: int, stop: int) -> TextBytes:
        """The bytes ``start`` to ``stop`` of this text."""
        return TextBytes(self.pieces, self.start + start, self.start + stop)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The bytes at these positions, (n,)."""
        numbers = numbers + self.start
        if len(self.pieces) == 1:
            return self.pieces[0][1][numbers]
        out, which = np.empty(len(numbers), np.uint8), np.searchsorted(self.ends, numbers, side="right")
        for k in np.unique(which).tolist():
            here = which == k
            out[here] = self.pieces[k][1][numbers[here] - (self.ends[k] - self.pieces[k][1].shape[0])]
        return out

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to ``stop``."""
        start, stop, found = start + self.start, stop + self.start, []
        for (_, piece), end in zip(self.pieces, self.ends, strict=True):
            size = piece.shape[0]
            first, last = max(0, start - (end - size)), min(size, stop - (end - size))
            if first < last:
                part = piece[first:last] if isinstance(piece, np.ndarray) else piece[np.arange(first, last)]
                found.append(part.tobytes())
        return b"".join(found)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Blocks of about 1 MiB with their positions. A block ends after a line break, or else at the end of a character."""
        first = 0
        while first < len(self):
            block = self.read(first, min(first + AT_ONCE, len(self)))
            if first + len(block) < len(self):
                block = block[: block.rfind(b"\n") + 1 or last_character(block)]
            yield first, block
            first += len(block)

    def identity(self) -> list[str]:
        """What tells this text from others without reading it: the names, sizes and dates of its files, and its ends."""
        files = []
        for name, piece in self.pieces:
            path = Path(name).absolute()
            date = path.stat().st_mtime_ns if path.is_file() else 0
            files.append(f"{path} {piece.shape[0]} {date}")
        return [*files, f"{self.start} {self.stop}"]

    def place(self, position: int) -> str:
        """The name of a byte for messages: its text and position in it."""
        position += self.start
        k = min(bisect_right(self.ends, position), len(self.ends) - 1)
        name, piece = self.pieces[k]
        return f"{name}, byte {position - (self.ends[k] - piece.shape[0])},"

    @property
    def name(self) -> str:
        """The name of the pieces."""
        first = Path(self.pieces[0][0]).name
        return first if len(self.pieces) == 1 else f"{first} and {len(self.pieces) - 1} more"


def last_character(block: bytes) -> int:
    """Where the last character of UTF-8 bytes begins, so that a cut there is between characters. The end if it is not UTF-8."""
    for k in range(1, min(4, len(block) - 1) + 1):
        if block[-k] & 0xC0 != 0x80:
            return len(block) - k
    return len(block)


def first_character(block: bytes) -> bytes:
    """The bytes of the first UTF-8 character. The first byte if it is none."""
    for k in range(1, min(4, len(block)) + 1):
        try:
            block[:k].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return block[:k]
    return block[:1]
