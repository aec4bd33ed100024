"""Texts as windows of tokens: any files, the help texts that come with Python, and the two standard texts of 100 million bytes.

The held-out part is the end of the text. Where it begins depends only on the bytes, not on the vocabulary or the length of the
windows, so bits/byte of models with different ones compare. See ``windows.py`` for how the windows cover it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number
from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits
from scoresde.data.text_bytes import TextBytes, last_character
from scoresde.data.tokens import Tokens
from scoresde.data.vocabularies import Bytes, Characters, Vocabulary
from scoresde.data.windows import TokenSequence, Windows

TOTAL, HELD_OUT = 100_000_000, 5_000_000
"""The bytes of text8 and enwik8, and of each of the two parts at the end that are held out."""
REPEATED = 40
"""Least number of characters of a paragraph of `PythonTopics` that is left out where it occurs again."""


class TextWindows(LazySplits):
    """Base class of texts. A subclass implements ``parts``.

    Args:
        length: Number of tokens of a window.
        vocabulary: The vocabulary.
        stride: Distance of training windows in tokens.
        cache: A folder for the tokens of large texts.
    """

    def __init__(self, length: int, vocabulary: Vocabulary, stride: int, cache: str = "") -> None:
        check_count("length", length)
        check_count("stride", stride)
        super().__init__((length,), Tokens(vocabulary.tokens, vocabulary.names))
        self.length, self.vocabulary, self.stride, self.cache = length, vocabulary, stride, cache

    @abstractmethod
    def parts(self) -> tuple[TextBytes, TextBytes]:
        """The text for training and the held-out text.

        Returns:
            Their bytes.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a text is empty, or cannot be divided.
        """

    def read(self) -> tuple[Dataset, Dataset]:
        cache = Path(self.cache) if self.cache else None
        train, test = (TokenSequence(part, self.vocabulary, cache) for part in self.parts())
        return (
            Dataset(Windows(train, self.length, self.stride), self.transform, f"{train.text.name}/train"),
            Dataset(Windows(test, self.length), self.transform, f"{test.text.name}/test"),
        )

    @property
    def vocabulary_digest(self) -> str:
        return self.vocabulary.digest()

    def texts(self, raw: Tensor) -> list[str]:
        return [self.vocabulary.text(row) for row in self.transform.decode(raw)]

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes]:
        """Samples as a text file, with the number of each above it."""
        return ".txt", "".join(f"----- {k}\n{text}\n" for k, text in enumerate(self.texts(raw))).encode()


class TextFile(TextWindows):
    """Text files as windows of tokens.

    Files are joined as they are, without separators or changes of line ends. Files above 64 MiB are read window by window if
    every byte is a token; for other vocabularies give a ``cache``. An epoch's order takes some 160 bytes for each training window
    while it is drawn: give long texts a larger ``stride``.

    Args:
        train: A file, or several in their order.
        length: Number of tokens of a window.
        vocabulary: How bytes become tokens: `Bytes`, `Characters` or a `TokenizerFile`.
        test: The files of the held-out text. If empty, it is the end of ``train``.
        test_fraction: Fraction of the bytes of ``train`` that is held out if there is no ``test``.
        stride: Distance of training windows in tokens: 1 lets them start anywhere, ``length`` makes them disjoint.
        cache: A folder in which the tokens of texts above 64 MiB are saved, where a token can be several bytes. They are computed
            once for a text and a vocabulary, and read window by window. Empty computes them in each process and keeps them in
            memory.

    Raises:
        FileNotFoundError: At the first use, if a file is missing.
        ValueError: At the first use, if a text is empty, shorter than a window, or has bytes that are not in the vocabulary.

    Example:
        >>> from pathlib import Path
        >>> from scoresde.data import TextFile
        >>> _ = Path("rhyme.txt").write_text("row row row your boat, gently down the stream. " * 4)
        >>> data = TextFile("rhyme.txt", 8, test_fraction=0.25)
        >>> len(data.train), len(data.test), data.test.byte_counts(slice(None))
        (134, 6, tensor([8, 8, 8, 8, 8, 7]))
        >>> data.texts(data.test.encode([0, 5], seed=0))
        ['row row ', 'stream. ']
    """

    def __init__(
        self,
        train: str | Sequence[str],
        length: int,
        vocabulary: Vocabulary = Bytes(),  # noqa: B008  (frozen)
        *,
        test: str | Sequence[str] = "",
        test_fraction: float = 0.1,
        stride: int = 1,
        cache: str = "",
    ) -> None:
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        if not train:
            raise ValueError(f"train={train!r} is not allowed: give a text file")
        super().__init__(length, vocabulary, stride, cache)
        self.train_files, self.test_files = _files(train), _files(test)
        self.test_fraction = test_fraction

    def parts(self) -> tuple[TextBytes, TextBytes]:
        train = TextBytes.of_files(self.train_files)
        if self.test_files:
            return train, TextBytes.of_files(self.test_files)
        return divided(train, self.test_fraction)


class PythonTopics(TextWindows):
    """The help texts of Python's language reference, about 0.38 MB of English: the module ``pydoc_data.topics``.

    Nothing is downloaded. The texts are in the order of their names, joined by a line break. Many paragraphs are in several
    texts. A paragraph of 40 characters or more that occurred before is left out, so that the held-out text has none of the
    training text. The texts differ between versions of Python, and so does the digest.

    Args:
        length: Number of tokens of a window.
        vocabulary: How bytes become tokens.
        test_fraction: Fraction of the bytes, from the end, that is held out.
        stride: Distance of training windows in tokens: 1 lets them start anywhere.
    """

    def __init__(
        self,
        length: int,
        vocabulary: Vocabulary = Bytes(),  # noqa: B008  (frozen)
        *,
        test_fraction: float = 0.1,
        stride: int = 1,
    ) -> None:
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        super().__init__(length, vocabulary, stride)
        self.test_fraction = test_fraction

    def parts(self) -> tuple[TextBytes, TextBytes]:
        content = np.frombuffer(python_topics().encode(), np.uint8)
        return divided(TextBytes([("pydoc_data.topics", content)]), self.test_fraction)


def python_topics() -> str:
    """The text of `PythonTopics`."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept = []
    for paragraph in "\n".join(topics[name] for name in sorted(topics)).split("\n\n"):
        if len(paragraph) < REPEATED or paragraph not in seen:
            kept.append(paragraph)
        seen.add(paragraph)
    return "\n\n".join(kept)


class HundredMillion(TextWindows):
    """Base class of the texts of 100 million bytes, with their standard parts."""

    def __init__(self, file: str, length: int, vocabulary: Vocabulary, held_out: str, stride: int) -> None:
        check_choice("held_out", held_out, ("test", "validation"))
        super().__init__(length, vocabulary, stride)
        self.file, self.held_out = file, held_out

    def parts(self) -> tuple[TextBytes, TextBytes]:
        whole = TextBytes.of_files([self.file])
        if len(whole) != TOTAL:
            raise ValueError(
                f"{self.file} has {len(whole)} bytes: text8 and enwik8 have {TOTAL}, after they are unpacked"
            )
        first = TOTAL - HELD_OUT * (1 if self.held_out == "test" else 2)
        return whole.part(0, TOTAL - 2 * HELD_OUT), whole.part(first, first + HELD_OUT)


class Text8(HundredMillion):
    """text8: 100,000,000 small letters and spaces of Wikipedia, in a file that you have.

    The first 90 million characters are for training, the next 5 million are the validation set, and the last 5 million the test
    set.

    Args:
        file: The file ``text8``, unpacked.
        length: Number of tokens of a window.
        vocabulary: How bytes become tokens. By default the space and 26 letters, so that bits/token are bits/character.
        held_out: Which held-out part is the test set of this object, "test" or "validation".
        stride: Distance of training windows in tokens.

    References:
        Mahoney 2011, Large text compression benchmark, mattmahoney.net/dc/textdata.html.
    """

    def __init__(
        self,
        file: str,
        length: int = 256,
        vocabulary: Vocabulary = Characters(" abcdefghijklmnopqrstuvwxyz"),  # noqa: B008  (frozen)
        *,
        held_out: str = "test",
        stride: int = 32,
    ) -> None:
        super().__init__(file, length, vocabulary, held_out, stride)


class Enwik8(HundredMillion):
    """enwik8: the first 100,000,000 bytes of an XML dump of Wikipedia, in a file that you have.

    The first 90 million bytes are for training, the next 5 million are the validation set, and the last 5 million the test set.

    Args:
        file: The file ``enwik8``, unpacked.
        length: Number of tokens of a window.
        vocabulary: How bytes become tokens.
        held_out: Which held-out part is the test set of this object, "test" or "validation".
        stride: Distance of training windows in tokens.

    References:
        Mahoney 2011, Large text compression benchmark, mattmahoney.net/dc/textdata.html.
    """

    def __init__(
        self,
        file: str,
        length: int = 256,
        vocabulary: Vocabulary = Bytes(),  # noqa: B008  (frozen)
        *,
        held_out: str = "test",
        stride: int = 32,
    ) -> None:
        super().__init__(file, length, vocabulary, held_out, stride)


def divided(text: TextBytes, test_fraction: float) -> tuple[TextBytes, TextBytes]:
    """The beginning of a text and its end, of about ``test_fraction`` of the bytes. The cut is between two UTF-8 characters.

    Raises ValueError if one of them is empty.
    """
    cut = len(text) - round(test_fraction * len(text))
    if 0 < cut < len(text):
        before = text.read(max(0, cut - 4), cut + 1)
        cut += last_character(before) - (len(before) - 1)
    if not 0 < cut < len(text):
        raise ValueError(
            f"test_fraction={test_fraction} leaves {len(text) - cut} of {len(text)} bytes for the test set"
        )
    return text.part(0, cut), text.part(cut, len(text))


def _files(given: str | Sequence[str]) -> list[str]:
    return ([given] if given else []) if isinstance(given, str) else [str(Path(file)) for file in given]
