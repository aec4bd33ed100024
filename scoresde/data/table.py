"""Tables: the rows of a CSV or Parquet file as events, one coordinate for each column.

    columns = measure_columns("wine.csv")       shift and scale of each column, from the training rows
    data = Table("wine.csv", columns)           events (number of columns,)

Some columns can be conditions of the others (``table_conditions.py``).

The columns are arguments of `Table`, so the config of a run stores them. Sampling needs no data: it decodes rows by the columns,
and writes them with the same names. `scoresde inspect` writes such a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_choice
from scoresde.data.columns import CategoryColumn, Column, Columns, RealColumn, WholeColumn
from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits, check_split, split_indices
from scoresde.data.table_conditions import (
    condition_columns,
    condition_kind,
    condition_rows,
    condition_value,
    condition_values,
)
from scoresde.data.table_files import Values, read_table, suffix_of, table_bytes
from scoresde.data.transforms import Affine

MOST_CATEGORIES = 64
"""Largest number of different texts in a column that is treated as categories."""


class Table(LazySplits):
    """The rows of a CSV or Parquet file (extra ``tables``).

    Args:
        file: A file that ends in .csv, .csv.gz or .parquet.
        columns: The columns to model, in the order of the coordinates. Other columns of the file are not used.
            `measure_columns` makes them.
        test: A file of test rows. If empty, ``test_fraction`` of the rows is held out at random.
        missing: "refuse" raises a ValueError for missing values, with their number in each column. "drop" leaves out rows
            with missing values in these columns; the name of the data set states how many.
        test_fraction: Fraction of the rows that is held out if there is no ``test``.
        split_seed: Seed of this random split.
        condition: Names of those columns that are conditions of the others, or names of columns by name of the condition:
            {"grade": "wine grade"}. They are not coordinates of an event. Texts are `Classes` with their names, numbers a
            `Vector` (1) that is shifted and scaled as the column states.
    """

    def __init__(
        self,
        file: str,
        columns: Sequence[Column],
        *,
        test: str = "",
        missing: str = "refuse",
        test_fraction: float = 0.1,
        split_seed: int = 0,
        condition: Sequence[str] | Mapping[str, str] = (),
    ) -> None:
        suffix_of(file)
        if test:
            suffix_of(test, "test")
        check_choice("missing", missing, ("refuse", "drop"))
        check_split(test_fraction, split_seed)
        self.all_columns = Columns(columns)
        self.given = condition_columns(condition, self.all_columns)
        given = [column.column for column in self.given.values()]
        self.columns = Columns([column for column in self.all_columns.columns if column.column not in given])
        kinds = {name: condition_kind(column) for name, column in self.given.items()}
        super().__init__((len(self.columns.columns),), self.columns, kinds)
        self.file, self.test_file, self.missing = file, test, missing
        self.test_fraction, self.split_seed = test_fraction, split_seed

    def read(self) -> tuple[Dataset, Dataset]:
        rows, condition, name = self._rows(self.file)
        if self.test_file:
            test, test_condition, test_name = self._rows(self.test_file)
            return self._set(rows, condition, f"{name}/train"), self._set(test, test_condition, f"{test_name}/test")
        parts = split_indices(len(rows), self.test_fraction, self.split_seed)
        train, held_out = ((rows[k], {name: value[k] for name, value in condition.items()}) for k in parts)
        return self._set(*train, f"{name}/train"), self._set(*held_out, f"{name}/test")

    def rows(self) -> Tensor:
        """All rows of ``file`` without the columns that are conditions, of shape (number of rows, number of columns)."""
        return self._rows(self.file)[0]

    def incomplete_rows(self, file: str) -> tuple[Tensor, Tensor]:
        """The rows of another file, in which values may be missing.

        Args:
            file: A table with the columns of the events. Columns that are conditions are not read.

        Returns:
            The rows, of shape (number of rows, number of columns), with a value that the column allows where one is missing; and
            which values are known, a tensor of bool of the same shape.

        Raises:
            FileNotFoundError: If the file or pyarrow is missing.
            ValueError: For columns that are missing, and values that a column does not allow.
        """
        found = read_table(file, self.columns.names)
        known = np.stack([~found[name].missing for name in self.columns.names], 1)
        rows = np.zeros(known.shape)
        for k, column in enumerate(self.columns.columns):
            rows[:, k] = min(max(round(column.shift), column.ends[0]), column.ends[1])
            if known[:, k].any():
                rows[known[:, k], k] = _numbers(file, column, found[column.column], known[:, k])
        return self.columns.check(torch.from_numpy(rows), file), torch.from_numpy(known)

    def condition_row(self, name: str, value: Any) -> Tensor:
        return condition_value(f"condition.{name}", self.given[name], value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes]:
        return self.file_of(self.columns.check(raw, "samples"), condition)

    def file_of(
        self, rows: Tensor, condition: Mapping[str, Tensor] | None = None, known: Tensor | None = None
    ) -> tuple[str, bytes]:
        """Rows in the file format of the table.

        Args:
            rows: Rows with values that the columns allow, of shape (B, number of columns).
            condition: The conditions of the rows by name, each with B rows.
            known: Which cells are written, a tensor of bool of the shape of ``rows``; the others are empty. None for all.

        Returns:
            The ending of the file's name and its content.
        """
        suffix = suffix_of(self.file).removesuffix(".gz")
        numbers = rows.to(torch.float64).numpy()
        values = {column.column: numbers[:, k] for k, column in enumerate(self.columns.columns)}
        for name, given in (condition or {}).items():
            values[self.given[name].column] = condition_values(self.given[name], given)
        columns = [column for column in self.all_columns.columns if column.column in values]
        written = {c.column: _written(c, values[c.column]) for c in columns}
        if known is not None and not bool(known.all()):
            for k, name in enumerate(self.columns.names):
                written[name] = written[name].astype(object)
                written[name][~known[:, k].numpy()] = None
        return suffix, table_bytes(written, suffix)

    def _set(self, rows: Tensor, condition: Mapping[str, Tensor], name: str) -> Dataset:
        return Dataset(rows, self.columns, name, condition=condition, kinds=self.kinds)

    def _rows(self, file: str) -> tuple[Tensor, dict[str, Tensor], str]:
        """The rows of a file, their conditions, and a name that states how many were left out."""
        found = read_table(file, self.all_columns.names)
        kept, left_out = complete_rows(file, found, self.missing)
        numbers = {c.column: _numbers(file, c, found[c.column], kept) for c in self.all_columns.columns}
        rows = torch.from_numpy(np.stack([numbers[name] for name in self.columns.names], 1))
        try:
            condition = {name: condition_rows(column, numbers[column.column]) for name, column in self.given.items()}
        except ValueError as problem:
            raise ValueError(f"{file}: {problem}") from problem
        name = Path(file).name
        return rows, condition, f"{name}, {left_out} of {len(kept)} rows left out" if left_out else name


def complete_rows(file: str, found: dict[str, Values], missing: str) -> tuple[np.ndarray, int]:
    """Which rows have a value in every column, of shape (number of rows,), and the number of other rows.

    Raises ValueError for ``missing="refuse"`` if there are others, or if no row is complete.
    """
    counts = {name: int(values.missing.sum()) for name, values in found.items() if values.missing.any()}
    absent = np.any([values.missing for values in found.values()], axis=0)
    if counts and (missing == "refuse" or absent.all()):
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        advice = (
            "leave out these columns" if absent.all() else 'leave out these rows by missing="drop", or these columns'
        )
        raise ValueError(
            f"{file} has missing values in {int(absent.sum())} of {len(absent)} rows, by column: {listed}: {advice}"
        )
    return ~absent, int(absent.sum())


def _numbers(file: str, column: Column, found: Values, kept: np.ndarray) -> np.ndarray:
    """The numbers of a column in the complete rows. Raises ValueError for values that the column does not allow."""
    values, where = found.values[kept], f"{file}: column {column.column!r}"
    if isinstance(column, CategoryColumn):
        if found.kind not in ("category", "whole"):
            raise ValueError(f"{where} is {found.kind}, and {column!r} is of texts, or whole numbers as texts")
        values = values if found.kind == "category" else _as_texts(values)
        position = {text: k for k, text in enumerate(column.values)}
        if unknown := sorted({text for text in values if text not in position}):
            raise ValueError(f"{where} holds {unknown[0]!r}: allowed are {', '.join(map(repr, column.values))}")
        return np.array([position[text] for text in values], np.float64)
    if found.kind not in ("real", "whole"):
        raise ValueError(f"{where} is {found.kind}, and {column!r} is of numbers")
    out: np.ndarray = values
    return out


def _as_texts(values: np.ndarray) -> np.ndarray:
    """Whole numbers as texts."""
    return np.array([f"{value:.0f}" for value in values], dtype=object)


def _written(column: Column, values: np.ndarray) -> np.ndarray:
    """The values of a column for a file. x has 24 bits, so real numbers get no more, unless the shift is large."""
    if isinstance(column, CategoryColumn):
        return np.array(column.values, dtype=object)[values.astype(np.int64)]
    if isinstance(column, WholeColumn):
        return values.astype(np.int64)
    return values.astype(np.float32) if abs(column.shift) <= 100.0 * column.scale < 1e30 else values


@checked_arguments
def measure_columns(
    file: str,
    columns: Sequence[str] = (),
    *,
    test: str = "",
    missing: str = "refuse",
    test_fraction: float = 0.1,
    split_seed: int = 0,
    categories: Sequence[str] = (),
) -> tuple[Column, ...]:
    """The columns of a table, with shift and scale so that the training rows have mean 0 and standard deviation 1.

    Real numbers make a `RealColumn`, whole numbers (also ``True`` and ``False``, and real columns without a fraction) a
    `WholeColumn`, texts a `CategoryColumn`. The range of whole numbers and the list of texts are those of all rows.

    Args:
        file: A file that ends in .csv, .csv.gz or .parquet.
        columns: The names of the columns to model. By default all.
        test: As for `Table`.
        missing: As for `Table`.
        test_fraction: As for `Table`.
        split_seed: As for `Table`.
        categories: Names of columns of whole numbers that make a `CategoryColumn`, such as the number of a class.

    Returns:
        The columns for `Table`, which must get the same other arguments.

    Raises:
        FileNotFoundError: If a file or pyarrow is missing.
        ValueError: For columns that have no model: other types, constant columns, more than 64 different texts. The message
            names them. Also for missing values, as `Table`.
    """
    check_choice("missing", missing, ("refuse", "drop"))
    if test:
        suffix_of(test, "test")
    tables = {name: read_table(name, columns) for name in ((file, test) if test else (file,))}
    names = columns or list(tables[file])
    tables = {place: {name: found[name] for name in names if name in found} for place, found in tables.items()}
    kept = {place: complete_rows(place, found, missing)[0] for place, found in tables.items()}
    train = torch.arange(int(kept[file].sum()))
    if not test:
        train = split_indices(len(train), test_fraction, split_seed)[0]
    made, faults = [], []
    if absent := [name for name in categories if name not in names]:
        raise ValueError(f"categories names {absent[0]!r}, which is not in columns: {', '.join(map(repr, names))}")
    for name in names:
        every = np.concatenate([found[name].values[kept[place]] for place, found in tables.items() if name in found])
        kind, texts = tables[file][name].kind, None
        if name in categories and kind == "whole":
            texts = [f"{value:.0f}" for value in np.unique(every)]
            kind, every = "category", _as_texts(every)
        fault = unsuitable(kind, every)
        if name in categories and kind == "real":
            fault = "is of real numbers, which are no categories"
        if fault:
            faults.append(f"{name!r} {fault}")
        else:
            made.append(_measured(name, kind, every, train.numpy(), texts))
    if faults:
        raise ValueError(f"{file}: {', '.join(faults)}: name the other columns (columns=...), or change these")
    return tuple(made)


def unsuitable(kind: str, values: np.ndarray) -> str:
    """Why a column without missing values has no model. An empty string if it has one."""
    if kind not in ("real", "whole", "category"):
        return f"is of type {kind}"
    distinct = len(set(values.tolist()))
    if distinct < 2:
        return f"is constant ({values[:1].tolist()[0]!r})" if len(values) else "has no values"
    if kind == "category" and distinct > MOST_CATEGORIES:
        return f"has {distinct} different texts, more than {MOST_CATEGORIES}"
    return "" if kind == "category" or np.isfinite(values).all() else "holds infinite values"


def _measured(name: str, kind: str, values: np.ndarray, train: np.ndarray, texts: list[str] | None = None) -> Column:
    """A column whose shift and scale are those of the training rows ``train``. ``texts`` are the categories in order."""
    texts = texts or []
    if kind == "category":
        texts = texts or sorted(set(values.tolist()))
        values = np.array([texts.index(text) for text in values], np.float64)
    mean, variance = float(values[train].mean()), float(values[train].var())
    whole = kind != "real"
    found = Affine.standard(mean + 0.5 * whole, (variance + whole / 12.0) ** 0.5)
    low, high = int(values.min()) if whole else 0, int(values.max()) if whole else 0
    # a range that float32 cannot resolve is real
    if kind == "whole" and max(high + 1.0 - found.shift, found.shift - low) < 2.0**21:
        return WholeColumn(name, low, high, found.shift, found.scale)
    if kind == "category":
        return CategoryColumn(name, tuple(texts), found.shift, found.scale)
    return RealColumn(name, found.shift, found.scale)
