"""Evaluation of expressions in configs without executing them, for ``source_statements``."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST = 10_000
"""Largest number of elements of a list and of digits of a number."""
_LEVELS = 6
"""Number of folders above a config that are searched for its imports."""
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.sub,
    ast.UAdd: operator.add,
}
_COMPARED: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


@dataclass(frozen=True)
class Unread:
    """A value that cannot be read as data. where: the file and the line. text: the expression."""

    where: str
    text: str


@dataclass(frozen=True)
class Foreign:
    """An imported name such as ``ml_collections.ConfigDict``, as a path with empty entries for the dots of a relative import."""

    path: tuple[str, ...]


def plain(value: Any) -> bool:
    """Whether a value is a number, a string, None, or a list or dictionary."""
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)


def binary(op: ast.AST, left: Any, right: Any) -> Any:
    """``left op right`` for numbers, strings and lists; None if it cannot be evaluated. For a sign, ``left`` is 0."""
    if isinstance(op, ast.Not):
        return (not right) if plain(right) else None
    function = _BINARY.get(type(op))
    kinds = (int, float, str, list, tuple)
    if function is None or not isinstance(left, kinds) or not isinstance(right, kinds):
        return None
    if isinstance(op, ast.UAdd | ast.USub) and not isinstance(right, int | float):
        return None
    if isinstance(op, ast.USub) and isinstance(right, float):
        return -right
    if not _small(op, left, right):
        return None
    try:
        return function(left, right)
    except (TypeError, ValueError, ArithmeticError):
        return None


def compared(op: ast.AST, left: Any, right: Any) -> bool | None:
    """``left op right``; None if it cannot be evaluated."""
    if not (plain(left) and plain(right)) or type(op) not in _COMPARED:
        return None
    try:
        return bool(_COMPARED[type(op)](left, right))
    except TypeError:
        return None


def _small(op: ast.AST, left: Any, right: Any) -> bool:
    """Whether the size of the result is within the limits of a config."""
    if isinstance(op, ast.Mod):
        return isinstance(left, int | float)
    sizes = [len(v) if isinstance(v, str | list | tuple) else 0 for v in (left, right)]
    digits = [math.log10(abs(v) + 1) if isinstance(v, int) else 0.0 for v in (left, right)]
    if isinstance(op, ast.Pow):
        return (
            isinstance(left, int | float) and isinstance(right, int | float) and abs(right) <= 1024 and digits[0] <= 9
        )
    if isinstance(op, ast.Mult) and any(sizes):
        count = left if sizes[1] else right
        return isinstance(count, int) and max(sizes) * max(count, 0) <= _MOST
    return sum(sizes) <= _MOST and sum(digits) <= _MOST


def locate(config: Path, module: list[str], above: int) -> Path | None:
    """The file of a module that ``config`` imports: next to it or in a folder above it. above: dots of a relative import."""
    folders = [config.parent, *config.absolute().parent.parents][: _LEVELS + 1]
    if above:
        folders = folders[above - 1 : above]
    places = [folder.joinpath(*module).with_suffix(".py") for folder in folders]
    if not above:
        places.insert(0, config.parent / f"{module[-1]}.py")
    return next((p for p in places if p.is_file() and p.absolute() != config.absolute()), None)


def update(node: dict[str, Any], new: dict[str, Any]) -> None:
    """Update a config in place and recursively, like ``ConfigDict.update``."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(node.get(key), dict):
            update(node[key], value)
        else:
            node[key] = value
