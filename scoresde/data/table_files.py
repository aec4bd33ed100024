"""CSV and Parquet files as columns of values, read and written by pyarrow.

    file         a file that ends in .csv or .parquet; .csv may be compressed (.csv.gz)
    kinds        "real", "whole", "category", or another type of pyarrow, which has no model
    missing      an empty field, NA, N/A, NaN, null or None of a CSV file; null and NaN of a Parquet file

A CSV file has the names of its columns in the first line and commas between the fields. Nothing in a file is executed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".csv", ".csv.gz", ".parquet")
INSTALL = "pip install 'scoresde[tables]'"


@dataclass(frozen=True)
class Values:
    """The values of one column.

    Attributes:
        kind: "real" or "whole" (float64 values), "category" (texts), or the name of a type that is not supported.
        values: An array of shape (number of rows,). Missing values are NaN or None.
        missing: Whether each row has no value, of shape (number of rows,).
    """

    kind: str
    values: np.ndarray
    missing: np.ndarray


def suffix_of(file: str, argument: str = "file") -> str:
    """The ending of a table's file, in lower case. Raises ValueError, naming ``argument``, for other files."""
    for suffix in SUFFIXES:
        if file.lower().endswith(suffix):
            return suffix
    raise ValueError(f"{argument}={file!r} is not allowed: give a table that ends in {', '.join(SUFFIXES)}")


def _check_pyarrow() -> None:
    """Raise FileNotFoundError with the command that installs pyarrow if it is missing."""
    if find_spec("pyarrow") is None:
        raise FileNotFoundError(
            f"tables are read and written by the package 'pyarrow', which is not installed: {INSTALL}"
        )


def read_table(file: str, columns: Sequence[str] = ()) -> dict[str, Values]:
    """Read a table.

    Args:
        file: The file.
        columns: The names of the columns to read, in this order. If empty, all.

    Returns:
        The values by column.

    Raises:
        FileNotFoundError: If the file or pyarrow is missing.
        ValueError: If the file is damaged, has no rows, or has no such column.
    """
    suffix = suffix_of(file)
    _check_pyarrow()
    if not Path(file).is_file():
        raise FileNotFoundError(f"no data file {file!r}")
    import pyarrow as pa
    from pyarrow import csv, parquet

    null_values = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]
    try:
        if suffix == ".parquet":
            found = parquet.read_table(file)
        else:
            options = csv.ConvertOptions(
                null_values=null_values, strings_can_be_null=True, quoted_strings_can_be_null=False
            )
            found = csv.read_csv(file, convert_options=options)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise ValueError(f"{file} cannot be read as a table: {' '.join(str(problem).split())}") from problem
    names = found.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file} has several columns with the name {', '.join(map(repr, twice))}: rename them")
    if absent := [name for name in columns if name not in names]:
        raise ValueError(f"{file} has no column {', '.join(map(repr, absent))}: it has {', '.join(map(repr, names))}")
    if not found.num_rows:
        raise ValueError(f"{file} has no rows")
    return {name: _values(found.column(name)) for name in columns or names}


def _values(column: Any) -> Values:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Values("category", np.array(column.to_pylist(), dtype=object), missing)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_boolean(kind):
        column, numeric = column.cast(pa.int8()), True
    if not numeric:
        return Values(str(kind), np.array(column.to_pylist(), dtype=object), missing)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    known = values[~missing]
    whole = bool((known == np.round(known)).all()) and bool((np.abs(known) <= 2.0**53).all())
    return Values("whole" if whole else "real", values, missing)


def table_bytes(columns: Mapping[str, np.ndarray], suffix: str) -> bytes:
    """The content of a file with these columns.

    Args:
        columns: Numbers, or texts as arrays of objects, by name.
        suffix: The ending of the file, .csv or .parquet.

    Raises:
        FileNotFoundError: If pyarrow is missing.
    """
    _check_pyarrow()
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    file = io.BytesIO()
    if suffix == ".parquet":
        parquet.write_table(table, file)
    else:
        csv.write_csv(table, file)
    return file.getvalue()
