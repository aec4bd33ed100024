"""What `scoresde inspect` finds in a table: the columns that can be modeled, and why others are left out.

left out    columns that are constant, of another type than numbers and texts, with too many different texts, with missing values
            in more than half of the rows, or equal to another column up to shift and scale (their density has no bound)
dropped     rows with missing values in the remaining columns
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from scoresde.data.columns import CategoryColumn, RealColumn
from scoresde.data.inspect_source import Source
from scoresde.data.table import Table, complete_rows, measure_columns, unsuitable
from scoresde.data.table_files import Values, read_table

MOSTLY_MISSING = 0.5
"""Part of missing values above which a column is left out."""
SAME = 1.0 - 1e-9
"""Correlation above which two columns are equal up to shift and scale."""


def find_table(data: str) -> Source:
    """The source of a CSV or Parquet file. Its events are the rows without missing values.

    Raises FileNotFoundError or ValueError if the file cannot be read.
    """
    found = read_table(data)
    left_out = {name: why for name, values in found.items() if (why := _left_out(values))}
    names = [name for name in found if name not in left_out]
    if not names:
        raise ValueError(f"{data} has no column that can be modeled: {_listed(left_out)}")
    kept, dropped = complete_rows(data, {name: found[name] for name in names}, "drop")
    for name, (other, why) in _repeated({name: found[name] for name in names}, kept).items():
        left_out[name] = f"{why} {other!r}"
        names.remove(name)
    missing = {name: int(found[name].missing.sum()) for name in names if found[name].missing.any()}
    handling = "drop" if dropped else "refuse"
    columns = measure_columns(data, names, missing=handling)
    node = {
        "name": "Table", "file": data, "columns": [{"name": type(c).__name__, **asdict(c)} for c in columns],
        "missing": handling,
    }  # fmt: skip
    notes = [
        f"column {c.column}: texts {', '.join(map(repr, c.values))}, as 0 to {len(c.values) - 1}"
        for c in columns
        if isinstance(c, CategoryColumn)
    ]
    if len(columns) > 1:
        first = next((c for c in columns if isinstance(c, CategoryColumn)), columns[-1]).column
        name = first if first.isidentifier() else "grade"
        notes.append(
            f"for a model of the other columns given one of them, set in the data section condition = {{{name!r}: {first!r}}}, "
            f"then sample with --condition {name}=VALUE"
        )
    if left_out:
        notes.append(f"columns left out: {_listed(left_out)}")
    warnings = []
    if dropped:
        listed = ", ".join(f"{name!r} {count}" for name, count in missing.items())
        warnings.append(
            f"{dropped} of {len(kept)} rows have missing values and are dropped; by column: {listed}. Fill them in, or leave out "
            "these columns, if the other rows are not like them"
        )
    rows = Table(data, columns, missing=handling).rows()
    place = np.flatnonzero(kept).tolist()

    def row_name(k: int) -> str:
        return f"{k} (row {place[k]} of the file)" if dropped else str(k)

    return Source(
        "a table", node, rows, row_name, notes=tuple(notes), warnings=tuple(warnings), columns=tuple(names),
        dequantized=tuple(c.column for c in columns if not isinstance(c, RealColumn)),
    )  # fmt: skip


def _left_out(values: Values) -> str:
    """Why a column is left out. An empty string if it is not."""
    share = float(values.missing.mean())
    if share > MOSTLY_MISSING:
        return f"has no value in {100 * share:.0f} % of the rows"
    return unsuitable(values.kind, values.values[~values.missing])


def _repeated(found: dict[str, Values], kept: np.ndarray) -> dict[str, tuple[str, str]]:
    """Columns of numbers that an earlier column determines: the name of that column, and how."""
    known: dict[str, np.ndarray] = {}
    out = {}
    for name, values in found.items():
        if values.kind == "category":
            continue
        x = values.values[kept] - values.values[kept].mean()
        norm = float(np.linalg.norm(x))
        if norm == 0.0:  # constant in the complete rows: measure_columns names it
            continue
        x = x / norm
        same = next((other for other, y in known.items() if abs(float(x @ y)) > SAME), None)
        if same is None:
            known[name] = x
        else:
            equal = np.array_equal(values.values[kept], found[same].values[kept])
            out[name] = same, "is equal to" if equal else "is equal, up to shift and scale, to"
    return out


def _listed(reasons: dict[str, str]) -> str:
    return ", ".join(f"{name!r} {why}" for name, why in reasons.items())
