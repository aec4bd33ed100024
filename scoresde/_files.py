"""Files that are written completely or not at all, and checks of files that may be incomplete, edited or replaced."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

NO_ARRAY = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError, OverflowError, SyntaxError,
    TokenError,
)  # fmt: skip
"""What numpy raises for a file without an array, or an incomplete one. RuntimeError: the header states encryption or an
unknown compression. MemoryError, OverflowError: the header states e.g. 10^13 rows. The last two: the header is not a Python
literal."""
DEEPEST = 64
"""Nested brackets that ``parse_json`` accepts; a config has about 6."""
SEAL = "sha256"
"""The key of a sealed JSON file whose value is the digest of all other keys."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_zip(file: str | Path) -> None:
    """Compare every member of a zip archive with its checksum. Neither numpy nor torch does this.

    Args:
        file: An .npz or .pth file. A file that does not start as a zip archive is not checked here.

    Raises:
        ValueError: The archive is damaged. The message names the file and the member.
        OSError: The file cannot be opened.
    """
    with open(file, "rb") as stream:
        if stream.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                broken = archive.testzip()
        except Exception as problem:  # zipfile raises many types of errors for an incomplete file
            raise ValueError(f"{file} is torn: {problem}") from problem
    if broken is not None:
        raise ValueError(f"{file} is torn: its part {broken!r} does not have the checksum in the archive")


class WriteError(OSError):
    """A file that could not be written. The message names the file, the reason and the remedy."""

    def __str__(self) -> str:
        return str(self.args[1])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which an OSError becomes a ``WriteError`` that names ``path``."""
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or str(problem)
        if problem.errno in _FULL:
            reason += ". Free some space or raise the limit, then run the same command again: finished work is kept"
        raise WriteError(problem.errno, f"{path} cannot be written: {reason}") from problem


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that its name appears with its complete content or not at all.

    Raises WriteError, which names the file, for instance if the disk is full. An existing file is then unchanged.
    """
    with writing(path):
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


def read_plain(path: Path) -> bytes:
    """The content of a regular file.

    Raises FileNotFoundError if it does not exist, and ValueError for anything else: a symbolic link, which may lead out of
    the folder, a folder, a pipe or a device.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {kind_of(mode)}: give a regular file")
    return path.read_bytes()


def kind_of(mode: int) -> str:
    """The kind of a file by its mode, in words."""
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a file" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"


def parse_json(text: str | bytes, name: object) -> Any:
    """The content of a JSON text. Raises a ValueError that starts with ``name``, also for more than ``DEEPEST`` levels."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{name} is not JSON: {problem}") from problem
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, (dict, list))]
        level = [node for nodes in inner for node in nodes]
        if not level:
            return content
    raise ValueError(f"{name} has more than {DEEPEST} nested brackets")


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with the digest of its content, so that ``read_sealed`` detects every later change.

    Raises ValueError for NaN and infinities, which JSON does not support.
    """
    plain = {key: value for key, value in content.items() if key != SEAL}
    sealed = {**plain, SEAL: _digest(plain)}
    write_atomic(path, (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """The mapping that ``write_sealed`` wrote, without the digest.

    Raises FileNotFoundError if there is no file, and ValueError if its content has changed.
    """
    content = parse_json(read_plain(path), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not contain a mapping")
    seal = content.pop(SEAL, None)
    if seal is None:
        raise ValueError(f"{path} has no {SEAL}: it was written by an earlier version, or has been changed")
    if seal != _digest(content):
        raise ValueError(f"{path} is not what was written: its {SEAL} does not match its content")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def bytes_digest(content: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
