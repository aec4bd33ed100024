"""Conversion of tensors, arrays, lists, files, items of data sets and images to tensors.

    kept         uint8, int8 to int64, float16 to float64
    widened      bool to uint8, uint16 to int32, uint32 and small uint64 to int64, bfloat16 and 8-bit floats to float32:
                 torch computes with few of these
    refused      complex numbers, objects, text, dates, masked entries, ragged lists, sparse and quantized tensors

No value is rounded or dropped. An error names the source, the value and what is allowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WIDENED = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.bfloat16: torch.float32,
}
_KEPT = {
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
}  # fmt: skip


def as_tensor(name: str, value: Any) -> Tensor:
    """The numbers of ``value``, unchanged, in a dtype that torch supports.

    Args:
        name: The name of the value in messages.
        value: A tensor, a numpy array, a list or tuple of numbers, arrays or tensors, or any object that numpy converts to
            an array.

    Returns:
        A tensor of the same shape. If ``value`` is a tensor, the result is on its device. It may share memory with ``value``.

    Raises:
        ValueError: For numbers that are not real, masked entries, or elements of different shapes.
        TypeError: For objects that are not numbers.
    """
    if isinstance(value, Tensor):
        return _of_tensor(name, value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(name, value)
    if isinstance(value, list | tuple):
        return _of_list(name, value)
    if isinstance(value, Mapping):
        raise TypeError(f"{name} is a dictionary with the keys {list(value)[:8]}: give one of its values")
    if isinstance(value, int | float | complex) or hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _of_array(name, np.asarray(value))
    raise TypeError(f"{name} is a {type(value).__name__}: give a tensor, a numpy array or a list of numbers")


def check_event(name: str, x: Tensor) -> Tensor:
    """Return ``x``. Raises ValueError if it is empty."""
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}, give (B, *event) with at least one event")
    return x


def _of_tensor(name: str, value: Tensor) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
        raise ValueError(f"{name} is a tensor of layout {value.layout} on {value.device}: give a dense tensor")
    if value.is_complex():
        raise ValueError(no_numbers(name, str(value.dtype).removeprefix("torch."), "c"))
    if value.dtype in _KEPT:
        return value
    if value.dtype == torch.uint64:
        return _of_array(name, value.detach().cpu().numpy()).to(value.device)
    if value.is_floating_point():  # 8 bits
        return value.to(torch.float32)
    return value.to(_WIDENED[value.dtype])


def _of_array(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ma.MaskedArray):
        if count := int(np.ma.getmaskarray(value).sum()):
            raise ValueError(
                f"{name} has {count} masked entries of {value.size}: fill them in, or leave these events out"
            )
        value = value.data
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(no_numbers(name, str(array.dtype), array.dtype.kind))
    if array.dtype == np.uint64:
        if array.size and array.max() >= 2**63:
            raise ValueError(f"{name} contains whole numbers of 2**63 or more, which torch does not support")
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = _double(name, array)
    wide = {"bool": "u1", "uint16": "i4", "uint32": "i8"}.get(array.dtype.name, array.dtype.newbyteorder("="))
    array = np.ascontiguousarray(array, dtype=wide).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _double(name: str, array: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        found = array.astype(np.float64)
    if not np.array_equal(np.isfinite(found), np.isfinite(array)):
        raise ValueError(f"{name} contains {array.dtype} up to {np.abs(array).max()}: too large for float64")
    return found


def _of_list(name: str, values: Sequence[Any]) -> Tensor:
    """Convert a list of numbers at once, and a list of arrays, tensors or lists of them element by element."""
    leaf: Any = values
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, int | float | complex | list | tuple):
        try:
            return _of_array(name, np.asarray(values))
        except ValueError as problem:
            if "inhomogeneous" not in str(problem):
                raise
            raise ValueError(
                f"{name} is a list whose elements have different shapes: give elements of equal shape"
            ) from problem
    elements = [as_tensor(f"{name}[{k}]", value) for k, value in enumerate(values)]
    for k, element in enumerate(elements):
        if element.shape != elements[0].shape:
            raise ValueError(
                f"{name}[{k}] has shape {tuple(element.shape)}, and {name}[0] has {tuple(elements[0].shape)}: "
                f"give elements of equal shape"
            )
    kind = elements[0].dtype
    for element in elements:
        kind = torch.promote_types(kind, element.dtype)
    return torch.stack([element.to(kind) for element in elements])


def no_numbers(name: str, dtype: str, kind: str) -> str:
    """The error message for values that are not real or whole numbers, with a dtype of numpy's kind ``kind``."""
    hint = {
        "c": "; the imaginary part would be lost, give both as coordinates, e.g. numpy.stack((a.real, a.imag), 1)",
        "O": "; arrays of objects are pickles, which are not read",
    }
    return f"{name} holds {dtype}: give real or whole numbers{hint.get(kind, '')}"


def named(numbers: Sequence[int]) -> str:
    """The first eight numbers, for a message."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
