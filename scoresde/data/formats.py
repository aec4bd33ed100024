"""Readers of the file formats of MNIST and CIFAR-10. Nothing in a file is executed.

    idx                 0, 0, type, number d of dimensions, d sizes of four bytes, numbers; big-endian (MNIST)
    CIFAR-10, binary    records of 1 + 3072 bytes: label, then the red, green and blue planes
    CIFAR-10, Python    a serialized dictionary, with an array (n, 3072) of bytes under b"data"

The last format is a program for the unpickler of Python, which could call any function. This reader accepts only the names
of numpy's array and dtype, and replaces them by an inert class that stores its arguments. Every other name raises an error.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIXELS = 3 * 32 * 32
_NAMES = {
    (module, name)
    for module, names in {
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct",),
        "numpy._core.multiarray": ("_reconstruct",),
    }.items()
    for name in names
}


def read_idx(file: Path) -> Tensor:
    """The array of an idx file, gzipped or not. Raises ValueError if the file is not complete."""
    content = file.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as problem:
            raise ValueError(f"{file} is broken: {problem}") from problem
    kind = _IDX_TYPES.get(content[2]) if len(content) >= 4 and content[:2] == b"\0\0" else None
    start = 4 + 4 * content[3] if kind else 0
    if kind is None or len(content) < start:
        raise ValueError(f"{file} is not an idx file: it starts with {content[:4]!r}")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    wanted = math.prod(shape) * np.dtype(kind).itemsize
    if len(content) - start != wanted:
        raise ValueError(f"{file} holds {len(content) - start} bytes of numbers: shape {shape} needs {wanted}")
    array = np.frombuffer(content, kind, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def read_cifar_binary(file: Path) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) in uint8, and labels (n,).

    Raises ValueError unless the file has complete records with labels 0 .. 9.
    """
    content = np.frombuffer(file.read_bytes(), np.uint8)
    if not content.size or content.size % (1 + _PIXELS):
        raise ValueError(f"{file} has {content.size} bytes: not a whole number of records of {1 + _PIXELS}")
    records = content.reshape(-1, 1 + _PIXELS)
    if records[:, 0].max() > 9:
        raise ValueError(f"{file} contains the label {records[:, 0].max()}: the labels of CIFAR-10 are 0 to 9")
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(records[:, 0].copy()).long()


def read_cifar_python(file: Path) -> tuple[Tensor, Tensor | None]:
    """Images (n, 3, 32, 32) in uint8, and labels (n,) if the file has some.

    Raises ValueError for other files, naming any function that they ask for.
    """
    try:
        with open(file, "rb") as stream:
            content = _Reader(stream, encoding="bytes").load()
        _, shape, dtype, fortran, pixels = content[b"data"].state
        kind = dtype.arguments[0]
        if kind not in ("u1", b"u1") or fortran or len(shape) != 2 or shape[1] != _PIXELS:
            raise ValueError(f"its array is of kind {kind!r} and shape {shape}: (n, {_PIXELS}) of bytes is wanted")
        images = torch.from_numpy(np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32).copy())
        labels = content.get(b"labels")
        if labels is None:
            return images, None
        if len(labels) != len(images) or not all(type(k) is int and 0 <= k <= 9 for k in labels):
            raise ValueError(f"it must have {len(images)} labels from 0 to 9")
        return images, torch.tensor(labels)
    except OSError:
        raise
    except Exception as problem:  # a malicious file can raise any exception
        raise ValueError(f"{file} is not a CIFAR-10 batch: {problem}") from problem


class _StandIn:
    """Replaces the classes and functions that a file names."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(Unpickler):
    def find_class(self, module: str, name: str) -> type[_StandIn]:
        if (module, name) not in _NAMES:
            raise UnpicklingError(
                f"it asks for {module}.{name}, which files of CIFAR-10 do not need: it was not executed"
            )
        return _StandIn
