"""Files that are there whole or not at all, and what those are that others have torn."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

NO_ARRAY = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError, OverflowError, SyntaxError,
    TokenError,
)  # fmt: skip
"""What numpy raises for a file that holds no array, or a torn one. RuntimeError: a header that says encrypted, or a compression
that there is not. MemoryError, OverflowError: a header that states 10^13 rows. The last two: a header that is no literal."""


def check_zip(file: str | Path) -> None:
    """Compare every part of a zip archive with its checksum, which neither numpy nor torch does.

    Args:
        file: an .npz or .pth file; one that does not begin as a zip archive is left to its reader.

    Raises:
        ValueError: the archive is broken; names the file and the part.
        OSError: the file cannot be opened.
    """
    with open(file, "rb") as stream:
        if stream.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                broken = archive.testzip()
        except Exception as problem:  # zipfile raises whatever it meets in a torn file
            raise ValueError(f"{file} is torn: {problem}") from problem
    if broken is not None:
        raise ValueError(f"{file} is torn: its part {broken!r} does not have the checksum that it was written with")


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that its name appears with all of its content or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
