"""Parameters of tests of which some run under ``make test-all`` only, because others cover what they do by default.

``some_long`` marks chosen values of one parameter. ``@pytest.mark.covering`` on a test of several parameters keeps, by
default, a few of their combinations in which each value of each parameter occurs; all of them run under ``make test-all``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest

_WHOLE = False


def say_markers(expression: str) -> None:
    """Take note of pytest's ``-m``, before any test is collected."""
    global _WHOLE
    _WHOLE = "not long" not in expression


def some_long(values: Iterable[Any], long: Callable[[Any], bool] | Iterable[Any]) -> list[Any]:
    """The values, those in ``long`` or for which it holds marked so."""
    if not callable(long):
        chosen = list(long)
        missing = [value for value in chosen if value not in (values := list(values))]
        assert not missing, f"{missing} are no parameters"
        return some_long(values, lambda value: value in chosen)
    return [pytest.param(value, marks=pytest.mark.long) if long(value) else value for value in values]


def whole() -> bool:
    """Whether long tests run too, as under ``make test-all``."""
    return _WHOLE


def examples(count: int) -> int:
    """How many examples hypothesis draws: ``count`` under ``make test-all``, a quarter of them by default."""
    return count if whole() else count // 4


def covering(cells: Iterable[dict[str, Any]]) -> list[int]:
    """Positions of a few cells of a grid in which each value of each axis occurs.

    Args:
        cells: For each cell the value on each axis, or anything hashable that stands for it.

    Returns:
        Positions in ascending order: of a full grid as many as its longest axis has values.
    """
    pairs = [set(cell.items()) for cell in cells]
    used: Counter[Any] = Counter()
    chosen: list[int] = []
    while missing := set().union(*pairs) - set(used):
        best = max(range(len(pairs)), key=lambda i: (len(pairs[i] & missing), -sum(used[p] for p in pairs[i]), -i))
        chosen.append(best)
        used.update(pairs[best])
    return sorted(chosen)


def mark_long_cells(items: Iterable[Any]) -> None:
    """Mark as long what ``pytest.mark.covering`` leaves out of a parametrised test by default.

    Tests that are long anyway do not count towards the covering.
    """
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("covering") and not item.get_closest_marker("long"):
            groups[item.nodeid.partition("[")[0]].append(item)
    for group in groups.values():
        values = [{name: id(value) for name, value in item.callspec.params.items()} for item in group]
        kept = set(covering(values))
        for position, item in enumerate(group):
            if position not in kept:
                item.add_marker(pytest.mark.long)
