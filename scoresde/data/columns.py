r"""The columns of a table, and the transform between its rows and the tensors x of a model.

A row r has one number for each column j, and

.. math:: x_j = \frac{r_j + u_j - \text{shift}_j}{\text{scale}_j}.

    RealColumn       a real number; u = 0
    WholeColumn      a whole number from low to high; u ~ U(0, 1), the dequantization
    CategoryColumn   one of several texts, as its position in a list; u ~ U(0, 1)

The log-density of x and the change of volume, :math:`-\sum_j \ln \text{scale}_j`, give the log-density of the row in the units of
the table: a density in the real columns, times the probability of the whole numbers and categories (at least, on average over u).

The order of the categories has no meaning for the data, but the model sees it. Few categories are no problem. For many,
save one column of 0 and 1 for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.data.values import as_tensor, check_event
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class RealColumn:
    """A column of real numbers, mapped to (r - shift) / scale.

    Args:
        column: The name of the column in the table.
        shift: A real number, such as the mean of the training rows.
        scale: A number above 0, such as their standard deviation.
    """

    column: str
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number that is allowed."""
        return -math.inf, math.inf


@dataclass(frozen=True)
class WholeColumn:
    """A column of whole numbers, dequantized uniformly.

    Args:
        column: The name of the column in the table.
        low: The smallest number that is allowed.
        high: The largest number that is allowed.
        shift: A real number, such as the mean of the training rows plus 1/2.
        scale: A number above 0, such as their standard deviation.
    """

    column: str
    low: int
    high: int
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self)
        if not -(2**53) <= self.low < self.high <= 2**53:
            raise ValueError(
                f"low={self.low!r}, high={self.high!r} of column {self.column!r} are not allowed: give low < high, "
                "whole numbers up to 2**53"
            )

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number that is allowed."""
        return float(self.low), float(self.high)


@dataclass(frozen=True)
class CategoryColumn:
    """A column of texts. Each is represented by its position in ``values``, which is dequantized uniformly.

    Args:
        column: The name of the column in the table.
        values: All texts that occur, at least two.
        shift: A real number, such as the mean position in the training rows plus 1/2.
        scale: A number above 0, such as the standard deviation of the positions.
    """

    column: str
    values: Sequence[str]
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        _check(self)
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"values={list(self.values)[:8]} of column {self.column!r} are not allowed: give two different texts at least"
            )

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last position."""
        return 0.0, len(self.values) - 1.0


Column = RealColumn | WholeColumn | CategoryColumn


def _check(column: Column) -> None:
    if not isinstance(column.column, str) or not column.column:
        raise ValueError(f"column={column.column!r} is not allowed: give the name of a column")
    check_number("shift", column.shift)
    check_number("scale", column.scale, above=0.0)


@dataclass(frozen=True)
class Columns:
    """The transform of tables: each column has its own shift and scale. Events have the shape (number of columns,).

    Args:
        columns: The columns, in the order of the coordinates.
    """

    columns: Sequence[Column]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns or not all(isinstance(c, Column) for c in self.columns):
            raise ValueError(
                f"columns={list(self.columns)!r} is not allowed: give RealColumn, WholeColumn or CategoryColumn objects"
            )
        names = self.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns names {twice} more than once")

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.column for column in self.columns]

    @property
    def summary(self) -> str:
        """The transform in a few words, for a log."""
        kinds = {"real": RealColumn, "whole": WholeColumn, "category": CategoryColumn}
        counts = {name: sum(isinstance(c, kind) for c in self.columns) for name, kind in kinds.items()}
        return f"Columns({', '.join(f'{count} {name}' for name, count in counts.items() if count)})"

    @property
    def discrete(self) -> bool:
        """False: bits/dim are not defined for tables."""
        return False

    @property
    def dequantized(self) -> bool:
        """Whether some columns are dequantized. The log-density is then a lower bound on average."""
        return not all(isinstance(column, RealColumn) for column in self.columns)

    def check(self, raw: Any, name: str = "raw data") -> Tensor:
        """Check rows.

        Args:
            raw: Rows of shape (B, number of columns).
            name: The name of the data in messages.

        Returns:
            The rows as a tensor.

        Raises:
            ValueError: For another shape, NaN or infinities, and in columns of whole numbers and categories for fractions and
                numbers that are not allowed. The message names the column.
        """
        raw = check_event(name, as_tensor(name, raw))
        if raw.ndim != 2 or raw.shape[1] != len(self.columns):
            raise ValueError(f"{name} has shape {tuple(raw.shape)}: it must have shape (B, {len(self.columns)})")
        for column, values in zip(self.columns, raw.to(torch.float64).unbind(1), strict=True):
            low, high = column.ends
            bad = ~torch.isfinite(values) | (values < low) | (values > high)
            if not isinstance(column, RealColumn):
                bad |= values != values.round()
            if bool(bad.any()):
                allowed = "finite numbers" if math.isinf(high) else f"whole numbers from {low:.0f} to {high:.0f}"
                raise ValueError(
                    f"{name}: column {column.column!r} holds {float(values[bad][0]):.17g} in row {int(bad.nonzero()[0])}: "
                    f"allowed are {allowed}"
                )
        out: Tensor = raw
        return out

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Check that x of a dtype can distinguish neighboring whole numbers.

        Args:
            dtype: A floating-point dtype.

        Raises:
            ValueError: If it cannot. The message names the column.
        """
        for column in self.columns:
            low, high = column.ends
            largest = max(abs(low - column.shift), abs(high + 1.0 - column.shift))
            if math.isfinite(largest) and not 4.0 * torch.finfo(dtype).eps * largest <= 1.0:
                raise ValueError(
                    f"column {column.column!r} of whole numbers from {low:.0f} to {high:.0f} with shift={column.shift:g} is too "
                    f"fine for {dtype}: make it a RealColumn"
                )

    def encode(self, raw: Any, noise: NoiseSource | None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Map rows to x.

        Args:
            raw: Rows of shape (B, number of columns).
            noise: The source of u, keyed by row. None sets u = 1/2.
            step: The step that keys the draw of u.
            dtype: The dtype of x.

        Returns:
            x of shape (B, number of columns).

        Raises:
            ValueError: As `check` and `check_dtype`, and for values beyond the range of ``dtype``.
        """
        self.check_dtype(dtype)
        return self._encode(self.check(raw), noise, step=step, dtype=dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        """`encode` for rows that were already checked, for example by a data set."""
        shift, scale, filled = self._numbers(raw.device)
        k = raw.to(torch.float64)
        u = torch.full((), 0.5, dtype=torch.float64, device=raw.device)
        if noise is not None:
            u = noise.uniform(raw.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        x = ((k + filled * u - shift) / scale).to(dtype)
        # rounding must not move x to the next whole number
        inside = ((x.to(torch.float64) * scale + shift).floor() == k) | (filled == 0.0)
        x = torch.where(inside, x, ((k + 0.5 * filled - shift) / scale).to(dtype))
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).any(0).nonzero()[0])
            raise ValueError(
                f"column {self.names[bad]!r} is beyond {dtype} after {self.columns[bad]!r}: give a larger scale"
            )
        return x

    def decode(self, x: Any) -> Tensor:
        """Map x to rows.

        Args:
            x: A tensor of shape (B, number of columns).

        Returns:
            Rows of shape (B, number of columns) in float64. Whole numbers and positions of categories are the nearest allowed
            ones.

        Raises:
            ValueError: For another shape, NaN, infinities and an empty x.
        """
        x = check_event("x", as_tensor("x", x)).to(torch.float64)
        if x.ndim != 2 or x.shape[1] != len(self.columns) or not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: it must have shape (B, {len(self.columns)}), and be finite"
            )
        shift, scale, filled = self._numbers(x.device)
        raw = x * scale + shift
        low, high = torch.tensor([column.ends for column in self.columns], dtype=torch.float64, device=x.device).unbind(
            1
        )
        out: Tensor = torch.where(filled > 0.0, raw.floor().clamp(low, high), raw)
        return out

    def log_volume(self, dimensions: int) -> float:
        """The logarithm of the change of volume, ln |d x / d r|.

        Args:
            dimensions: The number of columns.

        Returns:
            Minus the sum of ln(scale) over the columns, in nats.

        Raises:
            ValueError: For another number.
        """
        if dimensions != len(self.columns):
            raise ValueError(f"dimensions={dimensions} is not allowed: there are {len(self.columns)} columns")
        return -sum(math.log(column.scale) for column in self.columns)

    def _numbers(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Shift, scale, and 1 for dequantized columns, each (number of columns,) in float64."""
        rows = [(c.shift, c.scale, 0.0 if isinstance(c, RealColumn) else 1.0) for c in self.columns]
        shift, scale, filled = torch.tensor(rows, dtype=torch.float64, device=device).unbind(1)
        return shift, scale, filled
