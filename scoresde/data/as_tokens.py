"""Discrete data as tokens for jump processes: pictures and arrays with all of their levels or as two colors, and tables."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.data.columns import CategoryColumn, RealColumn
from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits, Splits
from scoresde.data.stored import Stored
from scoresde.data.table import Table
from scoresde.data.tokens import Tokens
from scoresde.data.transforms import Quantized


class AsTokens(LazySplits):
    """Discrete data of another source as tokens.

    - Data with levels: token k is level k, or whether the level is at least ``threshold``.
    - A `Table` of categories and whole numbers: token k of a column is its category k, or its smallest number plus k. All
      columns share one vocabulary, of the size of the largest one. A cell of a sample whose token the column does not have is
      empty in the file.

    Args:
        data: The source, with a ``Quantized`` transform, or a `Table` without columns of real numbers. Its conditions are kept.
        threshold: The smallest level that is token 1 of two, 1 .. levels - 1: 128 makes black and white pictures of bytes, as in
            binarized MNIST. None keeps all levels.

    Raises:
        ValueError: If ``data`` has no levels or has columns of real numbers, or ``threshold`` is not one of 1 .. levels - 1.

    Example:
        >>> from scoresde.data import AsTokens, Digits
        >>> AsTokens(Digits()).transform
        Tokens(tokens=17, names=())
        >>> data = AsTokens(Digits(), threshold=8)
        >>> data.train.batch(0, 4, seed=0).x.unique()
        tensor([0, 1])
    """

    def __init__(self, data: Splits, threshold: int | None = None) -> None:
        if isinstance(data, Table) and threshold is not None:
            raise ValueError(f"threshold={threshold!r} is for levels, and the data is a table: leave it out")
        tokens = _column_tokens(data) if isinstance(data, Table) else _level_tokens(data, threshold)
        super().__init__(data.event_shape, tokens, data.kinds)
        self.data, self.threshold = data, threshold

    def read(self) -> tuple[Dataset, Dataset]:
        return self._tokens(self.data.train), self._tokens(self.data.test)

    def _tokens(self, data: Dataset) -> Dataset:
        made = copy.copy(data)
        if isinstance(self.data, Table):
            made.raw = (data.events(torch.arange(len(data))) - _lowest(self.data)).long()
        elif self.threshold is not None:
            made.name = f"{data.name}, at least {self.threshold}"
            in_memory = isinstance(data.raw, Tensor)
            made.raw = (data.raw >= self.threshold).to(torch.uint8) if in_memory else Binarized(data, self.threshold)
        return made.with_transform(self.transform)

    def condition_row(self, name: str, value: Any) -> Tensor:
        return self.data.condition_row(name, value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes] | None:
        if isinstance(self.data, Table):
            last = torch.tensor([column.ends[1] for column in self.data.columns.columns])
            rows = self.transform.decode(raw) + _lowest(self.data)
            return self.data.file_of(torch.minimum(rows, last), condition, rows <= last)
        return self.data.sample_file(raw, condition) if self.threshold is None else None


def _level_tokens(data: Splits, threshold: int | None) -> Tokens:
    transform = data.transform
    if not isinstance(transform, Quantized):
        raise ValueError(
            f"data has the transform {transform!r}, which has no levels: give data with a Quantized transform, such as "
            "Digits(), or a Table of categories and whole numbers"
        )
    levels = transform.levels
    if threshold is not None:
        check_count("threshold", threshold)
        if threshold >= levels:
            raise ValueError(f"threshold={threshold} is not allowed: give 1 .. {levels - 1}, one of {levels} levels")
    return Tokens(levels if threshold is None else 2)


def _column_tokens(data: Table) -> Tokens:
    """The tokens of a table. They have names if all columns have the same categories."""
    columns = data.columns.columns
    if real := [column.column for column in columns if isinstance(column, RealColumn)]:
        raise ValueError(f"data has columns of real numbers, {real[0]!r}: give a table of categories and whole numbers")
    tokens = max(2, *(int(column.ends[1] - column.ends[0]) + 1 for column in columns))
    names = {column.values if isinstance(column, CategoryColumn) else () for column in columns}
    return Tokens(tokens, names.pop() if len(names) == 1 else ())


def _lowest(data: Table) -> Tensor:
    """The smallest number of each column of a table; 0 for categories."""
    return torch.tensor([column.ends[0] for column in data.columns.columns], dtype=torch.float64)


class Binarized(Stored):
    """Events that are read on demand, as 1 where they are at least a threshold and 0 elsewhere.

    Args:
        data: The events with levels.
        threshold: The smallest level that becomes 1.
    """

    def __init__(self, data: Dataset, threshold: int) -> None:
        self.data, self.threshold, self.event_shape = data, threshold, data.event_shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        index = torch.arange(len(self))[index] if isinstance(index, slice) else index
        return (self.data.events(index) >= self.threshold).to(torch.uint8)

    def read(self, index: int) -> Tensor:
        return self[torch.tensor([index])][0]

    def digest(self) -> str:
        held = self.data.raw.digest() if isinstance(self.data.raw, Stored) else self.data.digest()
        return hashlib.sha256(f"{held} at least {self.threshold}".encode()).hexdigest()[:16]
