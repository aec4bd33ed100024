"""Arrays in .npy and .npz files, with checks of sizes and checksums, and rows of arrays that are read on demand.

The header of an array states a shape and therefore the number of bytes that must follow. A file with fewer or more bytes raises a
ValueError before memory is allocated. The arrays of an .npz file have checksums, which are compared. An .npy file has none.
Nothing in a file is executed.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from scoresde._files import NO_ARRAY
from scoresde.data.rows import FileArray, Rows
from scoresde.data.values import as_tensor, no_numbers

IN_MEMORY = 2**26
"""Largest size in bytes of an .npy file that is read into memory. Rows of larger files are read on demand."""
_AT_ONCE = 2**24
_WRONG = (*NO_ARRAY, TypeError, KeyError)
"""Exceptions for files that were not written by numpy."""


def read_array(spec: str) -> Tensor | Rows:
    """The array of a file, with the dtype of the file if torch supports it.

    Args:
        spec: ``file.npy`` or ``file.npz:key``.

    Returns:
        A tensor, or `Rows` of the file for an .npy file of more than ``IN_MEMORY`` bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a complete array of real or whole numbers.
    """
    path, _, key = spec.partition(".npz:")
    file = Path(path + ".npz" if key else path)
    if not file.is_file():
        raise FileNotFoundError(f"no data file {str(file)!r}")
    try:
        with open(file, "rb") as stream:
            head = stream.read(6)
            stream.seek(0)
            found: np.ndarray | Rows
            if head.startswith(b"PK"):
                found = _of_archive(stream, key)
            elif key:
                raise ValueError(f"it is not an .npz file of named arrays: give {str(file)!r} without a key")
            elif head == b"\x93NUMPY":
                found = _of_file(stream, file)
            else:  # numpy would advise to execute it
                raise ValueError(f"it was not saved by numpy.save or numpy.savez: it starts with {head!r}")
    except _WRONG as problem:
        said = str(problem) or "it needs more memory than there is"
        raise ValueError(f"{spec}: cannot be read as a plain array: {said}") from problem
    return found if isinstance(found, Rows) else as_tensor(spec, found)


def names_in(file: Path) -> list[str]:
    """The names of the arrays in an .npz file. Raises ValueError for other files."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _WRONG as problem:
        raise ValueError(f"{file}: cannot be read as an .npz file: {problem}") from problem


@dataclass(frozen=True)
class _Header:
    """The checked header of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def read(cls, stream: IO[bytes], length: int) -> _Header:
        """Read the header of a file of ``length`` bytes. Raises ValueError if the size of the array is different."""
        version = npy.read_magic(stream)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in readers:
            raise ValueError(
                f"its format is version {version}, for arrays with named fields: give an array of plain numbers"
            )
        try:
            shape, fortran, dtype = readers[version](stream)
        except Exception as problem:  # numpy parses it as a Python literal, which can raise many exceptions
            raise ValueError(f"its header cannot be read: {type(problem).__name__}: {problem}") from problem
        if any(isinstance(n, bool) or not 0 <= n < 2**63 for n in shape):
            raise ValueError(f"its header states the shape {shape}: sizes are 0 to 2**63 - 1")
        if dtype.kind not in "fiub":
            raise ValueError(no_numbers("it", str(dtype), dtype.kind))
        made = cls(shape, fortran, dtype)
        if (rest := length - stream.tell()) != made.size:
            raise ValueError(
                f"its header states the shape {shape} of {dtype}, {made.size} bytes, and {rest} bytes follow: "
                "the file is cut off, or damaged"
            )
        return made

    def fill(self, stream: IO[bytes]) -> np.ndarray:
        """Read the array that follows the header."""
        content = np.empty(self.size, np.uint8)
        view, done = content.data, 0
        while done < len(view):
            part = stream.read(min(_AT_ONCE, len(view) - done))
            if not part:
                raise ValueError(f"it ends after {done} of {self.size} bytes")
            view[done : done + len(part)] = part
            done += len(part)
        array = content.view(self.dtype)
        return array.reshape(self.shape[::-1]).T if self.fortran else array.reshape(self.shape)


def _of_file(stream: IO[bytes], file: Path) -> np.ndarray | Rows:
    header = _Header.read(stream, os.fstat(stream.fileno()).st_size)
    if header.size <= IN_MEMORY or header.fortran or len(header.shape) < 2:
        return header.fill(stream)
    return Rows(FileArray(file, stream.tell(), header.shape, header.dtype))


def _of_archive(stream: IO[bytes], key: str) -> np.ndarray:
    with zipfile.ZipFile(stream) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if key.removesuffix(".npy") not in names:
            raise ValueError(f"it contains {names or 'no array'}: select one by 'file.npz:key'")
        member = archive.getinfo(f"{key.removesuffix('.npy')}.npy")
        with archive.open(member) as content:
            array = _Header.read(content, member.file_size).fill(content)
            if content.read(1):  # the checksum is compared at the end
                raise ValueError(f"its array {key!r} has more bytes than its directory states")
        return array
