"""Tokens of a large text in files, which are written once: a folder with tokens, their sizes in bytes, and what they belong to.

    tokens.bin, sizes.bin    the tokens, and the number of bytes of each, without a header
    facts.json               their number and dtype, the text, the vocabulary, and the SHA-256 of the tokens

The name of the folder depends on the vocabulary and on the names, sizes and dates of the files of the text. So a changed text or
tokenizer never finds the tokens of another one. The folder gets its name when all of it is written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scoresde._files import read_sealed, sync_folder, write_sealed, writing
from scoresde.data.rows import FileArray
from scoresde.data.text_bytes import TextBytes
from scoresde.data.vocabularies import Encoded, Vocabulary

SIZE_KIND = np.dtype(np.int32)


class StoredTokens(NamedTuple):
    """Tokens in files.

    Attributes:
        tokens: The tokens, (n,).
        sizes: The number of bytes of each, (n,).
        sha256: The SHA-256 of the dtype and the tokens.
    """

    tokens: FileArray
    sizes: FileArray
    sha256: str


def stored_tokens(
    folder: Path, text: TextBytes, vocabulary: Vocabulary, kind: np.dtype, encode: Callable[[], Iterator[Encoded]]
) -> StoredTokens:
    """The tokens of a text, which are computed if the folder does not have them.

    Args:
        folder: The folder of all texts.
        text: The text.
        vocabulary: The vocabulary.
        kind: The dtype of the tokens.
        encode: Makes the tokens, several at a time.

    Returns:
        The tokens.

    Raises:
        ValueError: If the files are damaged.
        OSError: If they cannot be written.
    """
    about: dict[str, Any] = {"text": text.identity(), "vocabulary": vocabulary.identity(), "dtype": kind.name}
    own = folder / f"tokens-{hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:16]}"
    if not own.is_dir():
        with writing(own):
            folder.mkdir(parents=True, exist_ok=True)
            _write(own, about, kind, encode())
    facts = read_sealed(own / "facts.json")
    count = facts["count"]
    tokens, sizes = _opened(own / "tokens.bin", kind, count), _opened(own / "sizes.bin", SIZE_KIND, count)
    return StoredTokens(tokens, sizes, facts["digest"])


def _opened(file: Path, kind: np.dtype, count: int) -> FileArray:
    wanted, found = count * kind.itemsize, file.stat().st_size
    if found != wanted:
        raise ValueError(f"{file} has {found} bytes, and {wanted} were written: remove the folder {file.parent}")
    return FileArray(file, 0, (count,), kind)


def _write(own: Path, about: dict[str, Any], kind: np.dtype, parts: Iterator[Encoded]) -> None:
    made = Path(tempfile.mkdtemp(prefix=f".{own.name}-", dir=own.parent))
    try:
        count, seal = 0, hashlib.sha256(str(kind).encode())
        with open(made / "tokens.bin", "wb") as tokens, open(made / "sizes.bin", "wb") as sizes:
            for part in parts:
                content = part.tokens.astype(kind).tobytes()
                tokens.write(content)
                sizes.write(part.sizes.astype(SIZE_KIND).tobytes())
                seal.update(content)
                count += len(part.tokens)
            for stream in (tokens, sizes):
                stream.flush()
                os.fsync(stream.fileno())
        write_sealed(made / "facts.json", {**about, "count": count, "digest": seal.hexdigest()})
        try:
            made.rename(own)
        except OSError:
            if not own.is_dir():  # another process was faster
                raise
        sync_folder(own.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)
