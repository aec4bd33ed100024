r"""Windows of a text: events of a fixed number of tokens, cut from a long sequence.

Training windows start at every multiple of ``stride``, from the first token. They overlap where the stride is below the length.

.. math:: [k s, k s + L), \quad k = 0 .. \lfloor (n - L) / s \rfloor

Windows for evaluation cover the sequence in order. Each token is in one window; only the last window is moved back to the end of
the sequence, and overlaps the one before it unless n is a multiple of L.

.. math:: [m_k, m_k + L), \quad m_k = \min(k L, n - L), \quad k = 0 .. \lceil n / L \rceil - 1

The bits of the last window count as a whole, and its bytes only where they are new. Their sums over all windows are therefore an
upper bound of the bits of the whole text, and exactly its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.rows import FileArray
from scoresde.data.stored import Stored
from scoresde.data.text_bytes import AT_ONCE, TextBytes, first_character
from scoresde.data.token_cache import stored_tokens
from scoresde.data.vocabularies import Encoded, Vocabulary


def small_kind(largest: int) -> np.dtype:
    """The smallest dtype for whole numbers 0 .. largest that torch computes with."""
    return np.dtype(next(kind for kind in (np.uint8, np.int16, np.int32, np.int64) if largest <= np.iinfo(kind).max))


class TokenSequence:
    """The tokens of a text.

    Where every byte is a token they are read from the text on demand. Otherwise they are in memory, with two to eight bytes each,
    or in the files of a folder.

    Args:
        text: The text.
        vocabulary: The vocabulary.
        cache: A folder for the tokens of texts that are not in memory. None keeps them in memory.

    Raises:
        ValueError: If the text has no such tokens. The bytes of a large text are checked when they are read.
    """

    def __init__(self, text: TextBytes, vocabulary: Vocabulary, cache: Path | None = None) -> None:
        self.text, self.vocabulary, self.kind = text, vocabulary, small_kind(vocabulary.tokens - 1)
        self._tokens: np.ndarray | FileArray | None = None
        self._sizes: np.ndarray | FileArray | None = None
        self._table, self._hash = vocabulary.table, ""
        if self._table is not None:
            if text.in_memory:
                blocks = range(0, len(text), AT_ONCE)
                self._tokens = np.concatenate([self._block(k, min(k + AT_ONCE, len(text))) for k in blocks])
        elif cache is None or text.in_memory:
            tokens, sizes = zip(*self._encoded(), strict=True)
            self._tokens, self._sizes = np.concatenate(tokens), np.concatenate(sizes)
        else:
            self._tokens, self._sizes, self._hash = stored_tokens(cache, text, vocabulary, self.kind, self._encoded)

    def _encoded(self) -> Iterator[Encoded]:
        """The tokens of the text, several at a time, in small dtypes."""
        whole = self.text.in_memory
        blocks = [(0, self.text.read(0, len(self.text)))] if whole else self.text.blocks()
        for first, block in blocks:
            found = self.vocabulary.encode(block, lambda k, first=first: self.text.place(first + k))  # type: ignore[misc]
            sizes = found.sizes.astype(small_kind(int(found.sizes.max(initial=0))))
            yield Encoded(found.tokens.astype(self.kind), sizes)

    def _look_up(self, content: np.ndarray, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """The tokens of bytes at these positions, where every byte is a token."""
        assert self._table is not None
        found = self._table[content]
        if len(wrong := (found < 0).nonzero()[0]):
            self._refuse(int(positions[wrong[0]]))
        out: np.ndarray = found.astype(self.kind)
        return out

    def _block(self, first: int, stop: int) -> np.ndarray:
        """The tokens from ``first`` to ``stop``."""
        if self._tokens is not None:
            return _part(self._tokens, first, stop)
        return self._look_up(np.frombuffer(self.text.read(first, stop), np.uint8), range(first, stop))

    def _refuse(self, at: int) -> None:
        """Raise the error for the byte at a position, which has no token."""
        character = first_character(self.text.read(at, min(at + 4, len(self.text))))
        self.vocabulary.encode(character, lambda k: self.text.place(at + k))

    def __len__(self) -> int:
        return len(self.text) if self._tokens is None else self._tokens.shape[0]

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens at these positions, (n,)."""
        return self._look_up(self.text[numbers], numbers) if self._tokens is None else self._tokens[numbers]

    def byte_count(self, start: int, stop: int) -> int:
        """The number of bytes that the tokens from ``start`` to ``stop`` stand for."""
        return stop - start if self._sizes is None else int(_part(self._sizes, start, stop).sum(dtype=np.int64))

    def hash(self) -> str:
        """The SHA-256 of all tokens."""
        if self._hash:
            return self._hash
        found = hashlib.sha256(str(self.kind).encode())
        for first in range(0, len(self), AT_ONCE):
            found.update(self._block(first, min(first + AT_ONCE, len(self))).tobytes())
        return found.hexdigest()


def _part(array: np.ndarray | FileArray, start: int, stop: int) -> np.ndarray:
    return array[start:stop] if isinstance(array, np.ndarray) else array[np.arange(start, stop)]


class Windows(Stored):
    """Windows of a text, in training or for evaluation. See the module for the rules.

    Args:
        sequence: The tokens.
        length: Number of tokens of a window.
        stride: Distance of training windows. 0 for windows for evaluation.

    Raises:
        ValueError: If a window is longer than the text.
    """

    def __init__(self, sequence: TokenSequence, length: int, stride: int = 0) -> None:
        n, name = len(sequence), sequence.text.name
        if n < length:
            part = "training" if stride else "held-out"
            raise ValueError(
                f"length={length} is more than the {n} tokens of the {part} part of {name}: give {n} at most"
            )
        self.sequence, self.length, self.stride, self.event_shape = sequence, length, stride, (length,)
        self.count = (n - length) // stride + 1 if stride else -(-n // length)

    def __len__(self) -> int:
        return self.count

    def starts(self, index: Tensor | slice) -> np.ndarray:
        """The first token of each window."""
        numbers = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index.numpy(), np.int64)
        if self.stride:
            return numbers * self.stride
        return np.minimum(numbers * self.length, len(self.sequence) - self.length)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = self.starts(index)[:, None] + np.arange(self.length)
        return torch.from_numpy(self.sequence[numbers.reshape(-1)].reshape(numbers.shape))

    def read(self, index: int) -> Tensor:
        return self[torch.tensor([index])][0]

    def byte_counts(self, index: Tensor | slice) -> Tensor:
        starts = self.starts(index)
        stops = starts + self.length
        if not self.stride:  # the last window begins with tokens of the one before
            numbers = np.arange(len(self))[index] if isinstance(index, slice) else index.numpy()
            starts = numbers * self.length
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        return torch.tensor([self.sequence.byte_count(a, b) for a, b in pairs])

    def covered(self, count: int) -> bytes:
        """The bytes that the first ``count`` windows for evaluation stand for.

        Args:
            count: Number of windows.

        Returns:
            The beginning of the text; all of it for all windows.
        """
        stop = min(count * self.length, len(self.sequence))
        return self.sequence.text.read(0, self.sequence.byte_count(0, stop))

    def place(self, index: int) -> str:
        start = int(self.starts(torch.tensor([index]))[0])
        return f"window {index}, tokens {start} to {start + self.length} of {self.sequence.text.name}"

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        head = f"{self.shape} {self.stride} {self.sequence.vocabulary.digest()} {self.sequence.hash()}"
        return hashlib.sha256(head.encode()).hexdigest()[:16]
