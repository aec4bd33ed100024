"""Texts for `scoresde inspect`: which vocabulary, length and stride to use, and what the file contains."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scoresde.data.inspect_source import Source, counted
from scoresde.data.text import TOTAL
from scoresde.data.text_bytes import AT_ONCE, TextBytes
from scoresde.data.vocabularies import Bytes, Characters, Vocabulary
from scoresde.data.windows import TokenSequence, Windows

FEW_CHARACTERS = 64
"""Largest number of characters of a text that become its alphabet. Other texts are read as bytes."""
LONGEST, SHORTEST, WINDOWS = 256, 8, 40
"""Largest and smallest length of a window, and number of windows that a text should have at least."""
MANY = 2**22
"""Number of bytes from which training windows do not start at every byte."""
STANDARD = {"text8": "Text8", "enwik8": "Enwik8"}
"""Classes of the standard texts, by the name of the file."""


def find_text(data: str) -> Source:
    """The text in a file.

    Args:
        data: The name of the file.

    Returns:
        The source. Its events are windows that cover the text.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is empty, or shorter than the shortest window.
    """
    text = TextBytes.of_files([data])
    size = len(text)
    if size < SHORTEST * WINDOWS:
        raise ValueError(f"{data} has {size} bytes: give a text of {SHORTEST * WINDOWS} at least")
    letters, lines = _contents(text)
    vocabulary: Vocabulary = Bytes()
    notes = [f"{size} bytes, {counted(lines, 'line')}, " + _described(letters)]
    node: dict[str, Any] = {"name": "TextFile", "train": data}
    if Path(data).name in STANDARD and size == TOTAL:
        node = {"name": STANDARD[Path(data).name], "file": data}
    elif letters and len(letters) <= FEW_CHARACTERS:
        vocabulary = Characters("".join(sorted(letters)))
        node["vocabulary"] = {"name": "Characters", "alphabet": vocabulary.alphabet}
    length = LONGEST
    while length > SHORTEST and size < WINDOWS * length:
        length //= 2
    node["length"] = length
    if size >= MANY and node["name"] == "TextFile":
        node["stride"] = length // 8
    events = Windows(TokenSequence(text, vocabulary), length)
    return Source("a text", node, events, name=events.place, notes=tuple(notes), tokens=vocabulary.tokens)


def _described(letters: set[str] | None) -> str:
    if letters is None:
        return "not UTF-8: read as bytes"
    how = "they are the tokens" if len(letters) <= FEW_CHARACTERS else "read as bytes"
    return f"UTF-8 with {len(letters)} different characters: {how}"


def _contents(text: TextBytes) -> tuple[set[str] | None, int]:
    """The different characters, None if the text is not UTF-8, and the number of lines."""
    letters: set[str] | None = set()
    decoder, lines = codecs.getincrementaldecoder("utf-8")(), 0
    for block, last in _blocks(text):
        lines += block.count(b"\n")
        try:
            if letters is not None:
                letters |= set(decoder.decode(block, last))
        except UnicodeDecodeError:
            letters = None
    return letters, lines


def _blocks(text: TextBytes) -> Iterator[tuple[bytes, bool]]:
    for first in range(0, len(text), AT_ONCE):
        stop = min(first + AT_ONCE, len(text))
        yield text.read(first, stop), stop == len(text)
