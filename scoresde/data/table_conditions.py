r"""Columns of a table that are the conditions of the others: p(other columns | these columns).

    CategoryColumn              `Classes` with the texts as names: the position of the text
    RealColumn, WholeColumn     `Vector` (1): (r - shift) / scale, for whole numbers (k + 1/2 - shift) / scale

In a config and on the command line a condition is a text, or a number in the units of the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import shown, suggestion
from scoresde.conditions import Classes, ConditionKind, Vector, check_name
from scoresde.data.columns import CategoryColumn, Column, Columns


def condition_columns(condition: Sequence[str] | Mapping[str, str], columns: Columns) -> dict[str, Column]:
    """The columns that are conditions, by the name of the condition.

    Args:
        condition: Names of columns, which are the names of the conditions too, or names of columns by name of the condition.
        columns: All columns.

    Raises:
        TypeError: If ``condition`` is something else.
        ValueError: If there is no such column, a name is not allowed, a column is named twice, or no other column is left.
    """
    if not isinstance(condition, Sequence | Mapping) or isinstance(condition, str):
        raise TypeError(
            f"condition={shown(condition)} is not allowed: give a list of columns, or {{'grade': 'the column'}}"
        )
    pairs = list(condition.items() if isinstance(condition, Mapping) else zip(condition, condition, strict=True))
    known, found = dict(zip(columns.names, columns.columns, strict=True)), {}
    for name, column in pairs:
        if column not in known:
            raise ValueError(
                f"condition names {shown(column)}, which is not in columns: {', '.join(map(repr, known))}"
                f"{suggestion(column, known)}"
            )
        if not str(name).isidentifier():
            raise ValueError(
                f"condition: {shown(name)} is not allowed as a name: give a Python identifier for the column, e.g. "
                f"{{'grade': {column!r}}}"
            )
        check_name("condition", name)
        found[name] = known[column]
    names = [column.column for column in found.values()]
    if twice := sorted({name for name, column in pairs if [one for _, one in pairs].count(column) > 1}):
        raise ValueError(f"condition names a column more than once: {', '.join(twice)}")
    if len(names) == len(known):
        raise ValueError(f"condition names all columns ({', '.join(map(repr, names))}): leave at least one to model")
    return found


def condition_kind(column: Column) -> ConditionKind:
    """The kind of a column as a condition."""
    return Classes(len(column.values), column.values) if isinstance(column, CategoryColumn) else Vector(1)


def condition_rows(column: Column, values: np.ndarray) -> Tensor:
    """Rows of a condition.

    Args:
        column: The column.
        values: Numbers in the units of the column, or positions of texts, (n,).

    Returns:
        Classes (n,), or standardized numbers (n, 1) in float32.

    Raises:
        ValueError: For values that the column does not allow.
    """
    rows = torch.as_tensor(np.asarray(values, np.float64))[:, None]
    if isinstance(column, CategoryColumn):
        return rows[:, 0].long()
    return Columns((column,)).encode(rows, None, dtype=torch.float32)


def condition_value(name: str, column: Column, value: Any) -> Tensor:
    """One row of a condition from a text, or a number in the units of the column.

    Raises ValueError, naming ``name``, the value, and what is allowed.
    """
    if isinstance(column, CategoryColumn):
        return condition_kind(column).parse(name, value)
    Vector(1).parse(name, value)  # raises for other values
    number = torch.as_tensor(value, dtype=torch.float64).reshape(1)
    try:
        return condition_rows(column, number.numpy())[0]
    except ValueError as problem:
        allowed = str(problem).rpartition(": ")[2]
        raise ValueError(f"{name}={shown(value)} is not allowed for column {column.column!r}: {allowed}") from problem


def condition_values(column: Column, rows: Tensor) -> np.ndarray:
    """Positions of texts, or numbers in the units of the column, (n,), from the rows of a condition."""
    if isinstance(column, CategoryColumn):
        return rows.double().cpu().numpy()
    decoded: np.ndarray = Columns((column,)).decode(rows.cpu())[:, 0].numpy()
    return decoded
