"""Parameters of tests of which some run under ``make test-all`` only, because others cover what they do by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def some_long(values: Iterable[Any], long: Callable[[Any], bool] | Iterable[Any]) -> list[Any]:
    """The values, those in ``long`` or for which it holds marked so."""
    if not callable(long):
        chosen = list(long)
        missing = [value for value in chosen if value not in (values := list(values))]
        assert not missing, f"{missing} are no parameters"
        return some_long(values, lambda value: value in chosen)
    return [pytest.param(value, marks=pytest.mark.long) if long(value) else value for value in values]
