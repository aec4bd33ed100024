"""Vocabularies: how the bytes of a text become tokens, and tokens become text again.

    Bytes            256 tokens, one for each byte; any file
    Characters       one token for each character of an alphabet; UTF-8 text
    TokenizerFile    a vocabulary of the package tokenizers, in a JSON file; UTF-8 text

Each is exact: the tokens of a text decode to the same bytes, or the text is refused. Each token stands for a number of bytes,
whose sum is the length of the text. So bits/byte compare models with different vocabularies.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from scoresde._representation import prints_as_call


class Encoded(NamedTuple):
    """Tokens of a text.

    Attributes:
        tokens: The tokens, (n,).
        sizes: The number of bytes that each token stands for, (n,).
    """

    tokens: np.ndarray
    sizes: np.ndarray


Place = Callable[[int], str]
"""The name of a byte of a text for messages, a function of its position."""


class Vocabulary(ABC):
    """Base class of vocabularies.

    Attributes:
        names: The text of each token, or () where tokens are not texts.
    """

    names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def tokens(self) -> int:
        """The number of tokens."""

    @property
    def table(self) -> np.ndarray | None:
        """The token of each of the 256 bytes, -1 where there is none. None if a token can stand for several bytes."""
        return None

    @abstractmethod
    def encode(self, content: bytes, place: Place) -> Encoded:
        """The tokens of a text.

        Args:
            content: The bytes of the text.
            place: The name of a byte for messages.

        Returns:
            The tokens and their sizes in bytes, whose sum is the length of the text.

        Raises:
            ValueError: If the text has no such tokens. The message names the first byte that has none.
        """

    @abstractmethod
    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of tokens.

        Args:
            tokens: Tokens, (n,).

        Returns:
            Its bytes.
        """

    def digest(self) -> str:
        """16 hex digits that identify the vocabulary."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def identity(self) -> str:
        """What the tokens of a text depend on, the version of a package included."""
        return self.digest()

    def text(self, tokens: Tensor) -> str:
        """The text of tokens to read. Bytes that are not UTF-8, which samples can contain, are written as ``\\\\xff``.

        Args:
            tokens: Tokens, (n,).

        Returns:
            The text.
        """
        return self.decode(tokens.cpu().numpy()).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Bytes(Vocabulary):
    """256 tokens, one for each byte. Every file is a text.

    Example:
        >>> from scoresde.data import Bytes
        >>> Bytes().tokens
        256
    """

    @property
    def tokens(self) -> int:
        return 256

    @property
    def table(self) -> np.ndarray:
        return np.arange(256)

    def encode(self, content: bytes, place: Place) -> Encoded:
        return Encoded(np.frombuffer(content, np.uint8), np.ones(len(content), np.uint8))

    def decode(self, tokens: np.ndarray) -> bytes:
        return tokens.astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Characters(Vocabulary):
    """One token for each character of an alphabet.

    Args:
        alphabet: The characters, at least two and each one once. Token k is character k.

    Raises:
        ValueError: If a character occurs twice, or there are fewer than two.

    Example:
        >>> from scoresde.data import Characters
        >>> Characters.of("to be or not to be")
        Characters(alphabet=' benort')
    """

    alphabet: str

    def __post_init__(self) -> None:
        if len(self.alphabet) < 2:
            raise ValueError(f"alphabet={self.alphabet!r} is not allowed: give two characters at least")
        if twice := next((c for k, c in enumerate(self.alphabet) if c in self.alphabet[:k]), ""):
            raise ValueError(f"alphabet={self.alphabet!r} contains {twice!r} more than once: give each character once")
        if wrong := next((c for c in self.alphabet if "\ud800" <= c <= "\udfff"), ""):
            raise ValueError(f"alphabet={self.alphabet!r} contains {wrong!r}, half of a pair, which has no UTF-8 bytes")

    @classmethod
    def of(cls, text: str) -> Characters:
        """The characters of a text in the order of their numbers.

        Args:
            text: A text.

        Returns:
            The vocabulary.
        """
        return cls("".join(sorted(set(text))))

    @property
    def tokens(self) -> int:
        return len(self.alphabet)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The characters."""
        return tuple(self.alphabet)

    @property
    def table(self) -> np.ndarray | None:
        if not self.alphabet.isascii():
            return None
        out = np.full(256, -1)
        out[_numbers(self.alphabet)] = np.arange(self.tokens)
        return out

    def encode(self, content: bytes, place: Place) -> Encoded:
        numbers = _numbers(as_utf8(content, place))
        known = _numbers(self.alphabet)
        order = known.argsort()
        found = order[np.searchsorted(known[order], numbers).clip(max=len(known) - 1)]
        sizes = _utf8_sizes(numbers)
        if len(wrong := (known[found] != numbers).nonzero()[0]):
            character = chr(numbers[wrong[0]])
            raise ValueError(
                f"{place(int(sizes[: wrong[0]].sum()))} holds the character {character!r} (U+{ord(character):04X}), which is not "
                f"in the alphabet of {self.tokens} characters: add it, or give Bytes()"
            )
        return Encoded(found, sizes)

    def decode(self, tokens: np.ndarray) -> bytes:
        return "".join(self.alphabet[k] for k in tokens.tolist()).encode()


@prints_as_call
class TokenizerFile(Vocabulary):
    """A vocabulary of the package ``tokenizers`` in a JSON file, as ``Tokenizer.save`` writes it.

    No special tokens are added to a text. A tokenizer that changes a text, for example to small letters, is refused for it,
    because bits/byte would be those of another text. Digests of data contain the file.

    Args:
        file: The JSON file.
        sha256: The SHA-256 of the file, 64 hex digits. Another file is refused, so that samples are never decoded by another
            vocabulary than that of the training. Empty for any file.

    Raises:
        ImportError: If the package is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a tokenizer, or has another SHA-256.
    """

    def __init__(self, file: str, sha256: str = "") -> None:
        self.file, self.sha256 = file, sha256
        if find_spec("tokenizers") is None:
            raise ImportError(f"file={file!r}: the package 'tokenizers' is not installed: pip install 'scoresde[text]'")
        if not Path(file).is_file():
            raise FileNotFoundError(f"no tokenizer file {file!r}")
        content = Path(file).read_bytes()
        self._digest = hashlib.sha256(content).hexdigest()
        if sha256 and sha256 != self._digest:
            raise ValueError(
                f"sha256={sha256!r} is not that of {file!r}, {self._digest!r}: the tokenizer is not the one that the config names"
            )
        self._tokenizer = _load(file, content)
        self._count = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self._count < 2:
            raise ValueError(f"{file} has a vocabulary of {self._count} tokens: give a tokenizer with two at least")

    @property
    def tokens(self) -> int:
        return self._count

    def digest(self) -> str:
        return self._digest[:16]

    def identity(self) -> str:
        return f"{self._digest} tokenizers {version('tokenizers')}"

    def encode(self, content: bytes, place: Place) -> Encoded:
        text = as_utf8(content, place)
        found = self._tokenizer.encode(text, add_special_tokens=False)
        again = self._tokenizer.decode(found.ids, skip_special_tokens=False)
        ends = np.concatenate([[0], _utf8_sizes(_numbers(text)).cumsum()])
        if again != text:
            pairs = enumerate(zip(again, text, strict=False))
            at = next((k for k, (a, b) in pairs if a != b), min(len(again), len(text)))
            part = slice(at, at + 20)
            raise ValueError(
                f"{place(int(ends[at]))} is changed by {self.file}, {text[part]!r} to {again[part]!r}: give a tokenizer that "
                "keeps the text, such as one of bytes (ByteLevel)"
            )
        stops = np.maximum.accumulate(ends[[stop for _, stop in found.offsets]])
        stops[-1:] = ends[-1]
        return Encoded(np.array(found.ids, np.int64), np.diff(stops, prepend=0))

    def decode(self, tokens: np.ndarray) -> bytes:
        out: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return out.encode()


def _load(file: str, content: bytes) -> Any:
    """The tokenizer of a file. It is data: nothing in it is executed."""
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_buffer(content)
    except Exception as problem:  # the package raises Exception itself
        raise ValueError(f"{file} cannot be read as a tokenizer: {problem}") from problem
    made.no_padding()
    made.no_truncation()
    return made


def as_utf8(content: bytes, place: Place) -> str:
    """The text of UTF-8 bytes. Raises ValueError with the place of the first byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(
            f"{place(problem.start)} is {content[problem.start]:#04x}, which is not UTF-8 text ({problem.reason}): convert the "
            "file, or give Bytes()"
        ) from problem


def _numbers(text: str) -> np.ndarray:
    """The Unicode number of each character."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _utf8_sizes(numbers: np.ndarray) -> np.ndarray:
    """The number of UTF-8 bytes of each character."""
    return np.searchsorted(np.array([0x80, 0x800, 0x10000]), numbers, side="right").astype(np.uint8) + 1
