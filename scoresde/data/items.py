"""Items of a map-style torch data set: events, and conditions if the items have some.

    x                           an event
    (x, y, ...)                 an event, and conditions in this order
    {"x": x, "label": y, ...}   the same by name

Events and conditions are tensors, arrays, numbers, nested lists of numbers, or PIL images. Items are checked when they are read:
each part has the shape and the dtype of that of the first item.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde._validation import shown
from scoresde.data.pixels import numbers
from scoresde.data.stored import SPOT_CHECKS, Stored, unreadable
from scoresde.data.values import as_tensor

Item = dict[str, Tensor]
"""The event of an item, under the key "", and its conditions by name."""


class MapStyle(Protocol):
    """A map-style torch data set: any object with ``len(data)`` and ``data[k]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Items(Stored):
    """The events of a map-style torch data set.

    PIL images become (channels, height, width) by the rules of ``scoresde.data.pixels``. A list that begins with a tensor, an
    array or an image is treated as a tuple. The digest reads ``SPOT_CHECKS`` events. The items that were read last are kept: an
    item is read once for its event and all of its conditions.

    A random transform inside ``data`` uses global random state. Remove it and use ``flip=True`` instead.

    Args:
        data: An object with ``len(data)`` and ``data[k]``.
        index: Indices of the items to use; all by default.
        name: The name of the data in messages.
        condition: Names of the conditions: of the elements of a tuple after the first, or keys of a dictionary.
        event: The key of the event in a dictionary.
    """

    def __init__(
        self,
        data: Any,
        index: Tensor | None = None,
        name: str = "data",
        condition: Sequence[str] = (),
        event: str = "x",
    ) -> None:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(f"{name}: {type(data).__name__} has no len(data) or no data[k]: give a map-style data set")
        self.data, self.name, self.condition, self.event = data, name, tuple(condition), event
        self.index = list(range(len(data))) if index is None else index.tolist()
        self._first = self._item(0) if self.index else {"": torch.empty(0)}
        self._last: tuple[list[int], list[Item]] = ([], [])
        self.event_shape = tuple(self._first[""].shape) if self.index else ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def given(self) -> dict[str, ItemConditions]:
        """The conditions of the items by name."""
        return {name: ItemConditions(self, name) for name in self.condition}

    def read(self, index: int) -> Tensor:
        return self.read_all([index])[0]

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        return [item[""] for item in self.items(numbers)]

    def items(self, numbers: list[int]) -> list[Item]:
        """Read several items.

        Args:
            numbers: The indices of the items.

        Returns:
            The items in this order.
        """
        known, found = self._last
        if known != numbers:
            found = [self._checked(k) for k in numbers]
            self._last = list(numbers), found
        return found

    def part(self, name: str) -> Tensor:
        """A part of the first item: its event ("") or a condition."""
        return self._first[name]

    def _checked(self, index: int) -> Item:
        """An item with the shapes and dtypes of the first one."""
        item = self._item(index)
        for name, value in item.items():
            first, what = self._first[name], f" condition {name!r}" if name else ""
            if value.shape != first.shape:
                raise ValueError(
                    f"item {self.index[index]}{what} has shape {tuple(value.shape)}, item {self.index[0]} {tuple(first.shape)}"
                )
            if value.dtype != first.dtype:
                raise ValueError(
                    f"item {self.index[index]}{what} has dtype {value.dtype}, item {self.index[0]} {first.dtype}: give one dtype"
                )
        return item

    def _item(self, index: int) -> Item:
        number = self.index[index]
        where = f"{self.name}: item {number}"
        try:
            item = self.data[number]
        except Exception as problem:  # third-party data sets may raise any exception
            raise ValueError(f"{where} cannot be read: {type(problem).__name__}: {problem}") from problem
        event, given = _divided(where, item, self.condition, self.event)
        found = {"": _tensor(where, event, "an image, or a tuple that begins with one of them")}
        for name, value in given.items():
            found[name] = _tensor(f"{where}: condition {name!r}", value, "a number or an image")
        return found

    def digest(self) -> str:
        step = max(1, len(self) // SPOT_CHECKS)
        found = hashlib.sha256(str(self.shape).encode())
        for event in self.read_all(list(range(0, len(self), step))):
            found.update(event.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


class ItemConditions(Stored):
    """A condition of the items of a torch data set. The digest reads ``SPOT_CHECKS`` of them.

    Args:
        items: The items.
        name: The name of the condition.
    """

    def __init__(self, items: Items, name: str) -> None:
        self.items, self.name = items, name
        self.event_shape = tuple(items.part(name).shape) if len(items) else ()

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Tensor:
        return self.read_all([index])[0]

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        return [item[self.name] for item in self.items.items(numbers)]

    def place(self, index: int) -> str:
        return f"item {self.items.index[index]}"

    def digest(self) -> str:
        step = max(1, len(self) // SPOT_CHECKS)
        found = hashlib.sha256(f"{self.name} {self.shape}".encode())
        for row in self.read_all(list(range(0, len(self), step))):
            found.update(row.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def _divided(where: str, item: Any, condition: Sequence[str], event: str) -> tuple[Any, dict[str, Any]]:
    """The event of an item, and its conditions by name, as the data set gave them."""
    if isinstance(item, Mapping):
        if absent := [key for key in (event, *condition) if key not in item]:
            what = "give event=..., the key of the event" if absent[0] == event else "give condition=[...] of its keys"
            raise ValueError(f"{where} is a dictionary with the keys {list(item)[:8]}, without {absent[0]!r}: {what}")
        return item[event], {name: item[name] for name in condition}
    first = item[0] if isinstance(item, list | tuple) and item else None
    if isinstance(item, tuple) or (isinstance(item, list) and not isinstance(first, int | float | list | tuple)):
        if condition and len(item) < 1 + len(condition):
            raise ValueError(
                f"{where} is a {type(item).__name__} of {len(item)}: condition={list(condition)} names elements after the first"
            )
        return first, dict(zip(condition, item[1:], strict=False))
    if condition:
        raise ValueError(
            f"{where} is a {type(item).__name__}: condition={list(condition)} needs items (x, {', '.join(condition)}) or "
            f"dictionaries"
        )
    return item, {}


def _is_image(item: Any) -> bool:
    """Whether this is a PIL image. Without PIL in use, it is not."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(item, pil.Image)


def _tensor(name: str, value: Any, others: str) -> Tensor:
    """The tensor of an event or a condition. Raises ValueError, naming it and what is allowed: numbers and ``others``."""
    if isinstance(value, Mapping):
        raise ValueError(f"{name} is a dictionary with the keys {list(value)[:8]}: give one of its values")
    if _is_image(value):
        try:
            return as_tensor(name, numbers(value))
        except unreadable() as problem:
            raise ValueError(f"{name} cannot be read as an image: {problem}") from problem
    try:
        return as_tensor(name, value).detach().cpu()
    except TypeError as problem:
        text = f"; this is {shown(value)}" if isinstance(value, str) else ""
        raise ValueError(f"{problem}, {others}{text}") from problem
