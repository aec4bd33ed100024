"""Different values of data, all together or for each column of a table.

Values lie on a grid if they are low + k step for whole numbers k: bytes divided by 255, or measurements rounded to 0.1.
Continuous values do not: with m different values, the chance that all lie within `NEAR` steps of a grid of their smallest
difference is (2 `NEAR`)^(m - 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_COLUMNS = 256
"""Largest number of coordinates of an event that are described one by one."""
MOST_VALUES = 4096
"""Largest number of different values of a column that are counted."""
REPEATED = 10
"""Average number of times that each value of a discrete column occurs, at least."""
NEAR = 0.02
"""Largest distance from a grid, in steps."""


@dataclass(frozen=True)
class Grid:
    """Equidistant values low + k step, k = 0 .. count - 1.

    Attributes:
        low: The smallest value.
        step: The distance of neighbors.
        count: Number of values from the smallest to the largest, whether they occur or not.
    """

    low: float
    step: float
    count: int

    @classmethod
    def of(cls, values: Tensor, most: int = 65536) -> Grid | None:
        """The grid of sorted, different values, with at most ``most`` values; None if there is none."""
        if len(values) < 5 or not bool(torch.isfinite(values[-1] - values[0])):
            return None
        step = float(values.diff().min())
        k = (values - values[0]) / step
        if not float(k[-1]) < most or float((k - k.round()).abs().max()) > NEAR:
            return None
        count = round(float(k[-1])) + 1
        return cls(float(values[0]), float(values[-1] - values[0]) / (count - 1), count)


@dataclass(frozen=True)
class Column:
    """One coordinate of events that are vectors.

    Attributes:
        name: Its name.
        distinct: Number of its different values; 0 for more than `MOST_VALUES`.
        whole: Whether they are whole numbers.
        low: The smallest value.
        high: The largest value.
        events: Number of events.
        grid: Its grid, None if it has none.
    """

    name: str
    distinct: int
    whole: bool
    low: float
    high: float
    events: int
    grid: Grid | None = None

    @property
    def constant(self) -> bool:
        """Whether it has a single value."""
        return self.distinct == 1

    @property
    def discrete(self) -> bool:
        """Whether it has two values, or each value occurs at least `REPEATED` times on average."""
        return 0 < self.distinct <= max(2, self.events // REPEATED)

    def __str__(self) -> str:
        ends = f"from {self.low:g} to {self.high:g}"
        if self.constant:
            return f"constant, {self.low:g}"
        kind = "discrete" if self.discrete else "continuous"
        if self.discrete:
            what = "whole numbers" if self.whole else "values"
            return f"{kind}, {self.distinct} different {what} {ends}"
        rounded = ""
        if self.whole:
            rounded = ", whole numbers"
        elif self.grid is not None and self.distinct < self.events:
            rounded = f", rounded to multiples of {self.grid.step:.3g}"
        return f"{kind}, {ends}{rounded}"


class ColumnValues:
    """Collects the different values of each coordinate.

    Args:
        size: Number of coordinates.
    """

    def __init__(self, size: int) -> None:
        self.values: list[Tensor | None] = [torch.empty(0, dtype=torch.float64) for _ in range(size)]
        self.ends = torch.tensor([[math.inf, -math.inf]] * size, dtype=torch.float64)
        self.whole = torch.ones(size, dtype=torch.bool)
        self.events = 0

    def add(self, x: Tensor) -> None:
        """Add finite events (B, size) in float64."""
        self.events += len(x)
        self.whole &= (x == x.round()).all(0)
        low, high = torch.aminmax(x, dim=0)
        self.ends = torch.stack([torch.minimum(self.ends[:, 0], low), torch.maximum(self.ends[:, 1], high)], 1)
        for k, known in enumerate(self.values):
            if known is not None:
                both = torch.cat([known, x[:, k].unique()]).unique()
                self.values[k] = both if len(both) <= MOST_VALUES else None

    def columns(self, names: Sequence[str] = ()) -> tuple[Column, ...]:
        """The columns; without ``names`` they have the names 0, 1, ..."""
        found = []
        for k, values in enumerate(self.values):
            low, high = self.ends[k].tolist()
            distinct, grid = (0, None) if values is None else (len(values), Grid.of(values))
            name = names[k] if names else str(k)
            found.append(Column(name, distinct, bool(self.whole[k]), low, high, self.events, grid))
        return tuple(found)
