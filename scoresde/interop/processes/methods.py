"""Checks of an object of another library: an adapter states which methods and attributes it reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde._validation import shown

DRAWS = 4096
"""Number of values that are drawn where a library gives its prior as a function that draws samples."""


def check_methods(name: str, value: Any, methods: tuple[str, ...], wanted: str) -> None:
    """Check that an object is what an adapter expects.

    Args:
        name: Name of the parameter, for the message.
        value: The object.
        methods: Names of the methods and attributes that the adapter reads.
        wanted: Description of the objects that are allowed.

    Raises:
        TypeError: If the object is a class, or has not all of them.
    """
    if isinstance(value, type):
        raise TypeError(f"{name}={shown(value)} is a class: give an object, {value.__name__}(...)")
    missing = [method for method in methods if not hasattr(value, method)]
    if missing:
        raise TypeError(f"{name}={shown(value)} has no {', '.join(missing)}: give {wanted}")


def as_column(t: Tensor) -> Tensor:
    """Times of shape ``()`` or ``(B,)`` as a float64 column ``(B, 1)``, with B = 1 for one time."""
    return t.detach().to(torch.float64).reshape(-1, 1)
