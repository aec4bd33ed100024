r"""Tables with numbers and categories for product processes: numbers are real coordinates, categories are tokens.

    RealColumn, WholeColumn    x_j = (r_j + u_j - shift_j) / scale_j, as for `Columns`
    CategoryColumn             x_j = k, the position of the text in the list, as a real number 0.0, 1.0, ...

This is the packed state of ``scoresde.product``. The density of x in the units of the table is a density in the numbers, times a
probability of the categories. Only the numbers change the volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.data.columns import CategoryColumn, Columns, RealColumn
from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits
from scoresde.data.table import Table
from scoresde.noise import NoiseSource


class MixedColumns(Columns):
    """The transform of tables whose categories are tokens. Events have the shape (number of columns,).

    Args:
        columns: The columns, in the order of the coordinates: at least one of categories, and one of numbers.

    Raises:
        ValueError: If all columns are categories, or none.

    Example:
        >>> import torch
        >>> from scoresde.data import CategoryColumn, MixedColumns, RealColumn
        >>> transform = MixedColumns([RealColumn("height", 1.7, 0.1), CategoryColumn("eyes", ["blue", "brown", "green"])])
        >>> transform.tokens
        (0, 3)
        >>> transform.encode([[1.8, 2.0]], None, dtype=torch.float32)
        tensor([[1., 2.]])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if all(self.tokens) or not any(self.tokens):
            kind = (
                "only categories: give AsTokens(table)" if all(self.tokens) else "no categories: give the table itself"
            )
            raise ValueError(f"columns={self.names} has {kind}")

    @property
    def tokens(self) -> tuple[int, ...]:
        """The number of tokens of each coordinate; 0 for real coordinates."""
        return tuple(len(c.values) if isinstance(c, CategoryColumn) else 0 for c in self.columns)

    @property
    def summary(self) -> str:
        """The transform in a few words, for a log."""
        return f"Mixed{super().summary}"

    @property
    def dequantized(self) -> bool:
        """Whether there are columns of whole numbers, which are dequantized."""
        return any(not isinstance(column, RealColumn | CategoryColumn) for column in self.columns)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        x = super()._encode(raw, noise, step=step, dtype=dtype)
        return torch.where(self._categorical(raw.device), raw.to(dtype), x)

    def decode(self, x: Any) -> Tensor:
        """Map x to rows.

        Args:
            x: A tensor of shape (B, number of columns).

        Returns:
            Rows of shape (B, number of columns) in float64. Whole numbers are the nearest allowed ones.

        Raises:
            ValueError: As for `Columns`, and for a categorical coordinate that is not the number of a category. The message names
                the column.
        """
        rows, given = super().decode(x), torch.as_tensor(x).to(torch.float64)
        out = torch.where(self._categorical(rows.device), given, rows)
        return self.check(out, "x")

    def log_volume(self, dimensions: int) -> float:
        """The logarithm of the change of volume of the real coordinates.

        Args:
            dimensions: The number of columns.

        Returns:
            Minus the sum of ln(scale) over the columns of numbers, in nats.

        Raises:
            ValueError: For another number.
        """
        categories = (column.scale for column in self.columns if isinstance(column, CategoryColumn))
        return super().log_volume(dimensions) + math.fsum(map(math.log, categories))

    def _categorical(self, device: torch.device) -> Tensor:
        """Which columns are categories."""
        return torch.tensor(self.tokens, device=device) > 0


class MixedTable(LazySplits):
    """A table of numbers and categories for a product process: its categories are tokens and not dequantized.

    Args:
        data: The table. Its conditions are kept.

    Raises:
        ValueError: If all columns are categories, or none.
    """

    def __init__(self, data: Table) -> None:
        transform = MixedColumns(data.columns.columns)
        super().__init__(data.event_shape, transform, data.kinds)
        self.data = data

    def read(self) -> tuple[Dataset, Dataset]:
        return self.data.train.with_transform(self.transform), self.data.test.with_transform(self.transform)

    def condition_row(self, name: str, value: Any) -> Tensor:
        return self.data.condition_row(name, value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes]:
        return self.data.sample_file(raw, condition)
