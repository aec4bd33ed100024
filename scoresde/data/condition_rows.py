"""The conditions of a data set: for each name a tensor with one row for each event, and its kind (``scoresde.conditions``).

The kind of given values is found from their shape, unless it is given:

    (n,) whole numbers             Classes, one more than the largest
    (n,) real numbers              Vector(1)
    (n, k)                         Vector(k)
    (n, c, *sides)                 Image(c), where the events are (n, C, *sides)
    (n, L, k) otherwise            Tokens(k)
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from scoresde._validation import shown, suggestion
from scoresde.conditions import Classes, ConditionKind, Image, Tokens, Vector, check_name
from scoresde.data.rows import Rows, content_digest
from scoresde.data.stored import Stored
from scoresde.data.values import as_tensor

CLASSES_UP_TO = 1_000_000
"""Largest number of classes that is found from the values. A network has a vector for each class."""


class ConditionRows:
    """Conditions with one row for each of n events.

    Args:
        values: The rows by name: tensors, arrays or lists of length n, or a `Stored`.
        kinds: The kinds by name. A kind that is missing is found from the values.
        shape: Shape of the data, (n, *event).
        name: The name of the data in messages.

    Raises:
        TypeError: If the values or kinds have another type.
        ValueError: If a name is not allowed, or the number of rows or the values do not fit.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None,
        kinds: Mapping[str, ConditionKind] | None,
        shape: Sequence[int],
        name: str = "data",
    ) -> None:
        values, kinds = values or {}, kinds or {}
        for what, given in (("condition", values), ("kinds", kinds)):
            if not isinstance(given, Mapping):
                raise TypeError(f"{what}={shown(given)} is not allowed: give a dictionary, e.g. {{'label': ...}}")
        if unknown := sorted(set(kinds) - set(values)):
            raise ValueError(f"kinds names {unknown[0]!r}, which is not in condition: {', '.join(values) or 'none'}")
        self.values: dict[str, Tensor | Stored] = {}
        self.kinds: dict[str, ConditionKind] = {}
        for key, value in values.items():
            check_name("condition", key)
            where = f"condition {key!r} of data set {name!r}"
            rows = value if isinstance(value, Stored) else as_tensor(where, value).detach().cpu()
            if not rows.shape or rows.shape[0] != shape[0]:
                raise ValueError(f"{where} has shape {tuple(rows.shape)}: give one row for each of {shape[0]} events")
            kind = kinds.get(key) or infer_kind(where, rows, shape)
            if not isinstance(kind, ConditionKind):
                raise TypeError(
                    f"kinds: {key}={shown(kind)} is not a kind: give Classes(n), Vector(n), Image(n) or Tokens(n)"
                )
            if isinstance(kind, Image) and tuple(rows.shape[2:]) != tuple(shape[2:]):
                raise ValueError(
                    f"{where} has sides {tuple(rows.shape[2:])}: give images of the size {tuple(shape[2:])}"
                )
            self.values[key], self.kinds[key] = rows, kind
            if isinstance(rows, Tensor):
                kind.check(where, read_rows(kind, rows), shape[0])

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        """The rows ``index`` (B,) of all conditions."""
        found = {}
        for name, values in self.values.items():
            rows = read_rows(self.kinds[name], values[index])
            if isinstance(values, Stored) and not self.kinds[name].fits(rows):
                bad = self.kinds[name].wrong_row(rows) or 0
                self.kinds[name].check(f"condition {name!r} of {values.place(int(index[bad]))}", rows[bad : bad + 1], 1)
            found[name] = rows
        return found

    def part(self, index: Tensor) -> ConditionRows:
        """The conditions of some of the events."""
        made = ConditionRows(None, None, (0,))
        made.kinds = self.kinds
        made.values = {k: v.part(index) if isinstance(v, Rows) else v[index] for k, v in self.values.items()}
        return made

    def joined(self, other: ConditionRows) -> ConditionRows:
        """These conditions and others of the same events. Raises ValueError for a name that both have."""
        if both := sorted(set(self.values) & set(other.values)):
            raise ValueError(f"condition {both[0]!r} is not allowed: there is one of this name already")
        made = ConditionRows(None, None, (0,))
        made.kinds, made.values = self.kinds | other.kinds, self.values | other.values
        return made

    def digest(self) -> str:
        """16 hex digits that identify names, kinds and rows."""
        found = hashlib.sha256()
        for name, values in self.values.items():
            content = content_digest(values) if isinstance(values, Tensor) else values.digest()
            found.update(f"{name} {self.kinds[name]!r} {content} ".encode())
        return found.hexdigest()[:16]


def class_kinds(classes: Mapping[str, int | Sequence[str]] | None, condition: Collection[str]) -> dict[str, Classes]:
    """Kinds of classes by name of the condition, from their number or their names.

    Raises TypeError or ValueError for other values, and for names that are not in ``condition``.
    """
    if not isinstance(classes or {}, Mapping):
        raise TypeError(f"classes={shown(classes)} is not allowed: give a dictionary, e.g. {{'label': 10}}")
    if unknown := sorted(set(classes or {}).difference(condition)):
        raise ValueError(
            f"classes={shown(classes)} is not allowed: {unknown[0]!r} is not in condition: {', '.join(condition) or 'none'}"
            f"{suggestion(unknown[0], condition)}"
        )
    return {name: class_kind(f"classes: {name}", value) for name, value in (classes or {}).items()}


def class_kind(where: str, classes: int | Sequence[str]) -> Classes:
    """Classes from their number or their names. ``where`` names the argument in messages."""
    if isinstance(classes, str) or not isinstance(classes, Sequence | Integral) or isinstance(classes, bool):
        raise TypeError(
            f"{where}={shown(classes)} is not allowed: give the number of classes, or a list of their names"
        )
    if isinstance(classes, Integral):
        if classes < 1:
            raise ValueError(f"{where}={classes!r} is not allowed: give a whole number >= 1, or a list of names")
        return Classes(int(classes))
    if not classes or not all(isinstance(one, str) for one in classes) or len(set(classes)) < len(classes):
        raise ValueError(f"{where}={shown(classes)} is not allowed: give different texts, one for each class")
    return Classes(len(classes), tuple(classes))


def read_rows(kind: ConditionKind, rows: Tensor) -> Tensor:
    """Rows in the dtype that networks take: int64 for classes, else float32. Vectors (n,) become (n, 1)."""
    if isinstance(kind, Classes):
        return rows.long() if not rows.is_floating_point() else rows
    rows = rows.float()
    return rows[:, None] if isinstance(kind, Vector) and rows.ndim == 1 else rows


def infer_kind(where: str, rows: Tensor | Stored, shape: Sequence[int]) -> ConditionKind:
    """The kind of a condition with these rows, for data of shape (n, *event). ``where`` names it in messages."""
    own, first = tuple(rows.shape), rows[:1]
    if len(own) == 1 and not first.is_floating_point():
        if not isinstance(rows, Tensor):
            raise ValueError(f"{where} is read on demand: give the number of its classes, kinds={{...: Classes(n)}}")
        count = max(1, int(rows.max()) + 1) if len(rows) else 1
        if count > CLASSES_UP_TO:
            raise ValueError(
                f"{where} has whole numbers up to {count - 1}, more than {CLASSES_UP_TO}, which are read as classes: number the "
                "classes from 0, give kinds={...: Classes(n)}, or give real numbers"
            )
        return Classes(count)
    if len(own) <= 2:
        return Vector(own[1] if len(own) == 2 else 1)
    if len(own) == len(shape) and own[2:] == tuple(shape[2:]):
        return Image(own[1])
    if len(own) == 3:
        return Tokens(own[2])
    raise ValueError(
        f"{where} has shape {own}: give classes (n,), vectors (n, k), tokens (n, L, k), or images (n, c, *sides) of the size of "
        f"the events {tuple(shape[1:])}"
    )
