"""The text that `scoresde inspect` prints about data: its properties, warnings, notes, and problems.

problem     training would stop, or learn nothing: no config is written
warning     training runs, and the result is worse than it could be
note        a property to know
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from scoresde.data import Columns, Transform
from scoresde.data.inspect_columns import Column
from scoresde.data.inspect_facts import MOST_LEVELS, Facts
from scoresde.data.inspect_outliers import FAR, LEVELS
from scoresde.data.inspect_source import Source, counted
from scoresde.data.inspect_sources import channels_are_last
from scoresde.data.transforms import level_count

SHOWN = 8
"""Number of events that are named if more have the same problem."""
FEW_OF_LEVELS = 2
"""Ratio of the declared levels to those that the values suggest from which images may be labels or masks."""
SHOWN_COLUMNS = 16
"""Largest number of columns that are described one by one."""
FEW_EVENTS = 10
"""Number of events below which nothing can be learned about their distribution."""
HEAVY = 0.01
"""Part of the events with outliers from which the tails are heavy."""
SMOOTH = 0.5
"""Correlation of neighboring coordinates from which a vector is probably a series."""


def describe(source: Source, facts: Facts, transform: Transform | None = None) -> list[str]:
    """One line for each property of the data.

    ``transform`` is that of the data set that the config builds, if there is one.
    """
    distinct = f"{facts.distinct} different values" if facts.distinct else f"over {MOST_LEVELS} different values"
    count = facts.levels if transform is None else level_count(transform)
    tabular = isinstance(transform, Columns)
    levels = f"{count} {'tokens' if source.tokens else 'levels'}" if count else "no levels: real numbers"
    twins = named(f"{b} = {a}" for a, b in facts.duplicates)
    lines = {
        "found": source.what,
        "events": f"{facts.count} of shape {facts.shape}, {facts.dtype}",
        "range": f"{facts.low:g} to {facts.high:g}, mean {facts.mean:.4g}, standard deviation {facts.std:.4g}",
    }
    if facts.quantiles and not count and not tabular:
        of = "" if facts.sampled == facts.count else f" (of {facts.sampled} random events)"
        pairs = zip(LEVELS, facts.quantiles, strict=True)
        lines["quantiles"] = ", ".join(f"{100 * level:g} %: {value:.4g}" for level, value in pairs) + of
    if tabular or source.tokens:  # figures over columns in different units, or over names, say nothing
        del lines["range"]
    if not tabular:
        lines["values"] = f"{distinct}, {levels}"
    if len(facts.columns) <= SHOWN_COLUMNS:
        lines |= {f"column {column.name}:": _kind(column, source) for column in facts.columns}
    lines |= {
        "duplicates": f"{facts.twins} exact" + (f": {twins}" if twins else ""),
        "not finite": str(len(facts.unfinite)),
        "broken": str(len(facts.broken) + len(source.problems)),
    }
    remarks = [
        ("warning", text) for text in (*source.warnings, *find_warnings(facts, count, tabular, source.dequantized))
    ]
    own = [] if source.tokens else _notes(facts, count, tabular, source.dequantized)
    remarks += [("note", text) for text in (*source.notes, *own)]
    return [f"{name:12s} {text}" for name, text in [*lines.items(), *remarks]]


def _kind(column: Column, source: Source) -> str:
    return f"{column}, dequantized" if column.name in source.dequantized else str(column)


def find_warnings(facts: Facts, levels: int, tabular: bool = False, dequantized: Sequence[str] = ()) -> list[str]:
    """What makes the result worse than it could be.

    Args:
        facts: The facts about the data.
        levels: Number of levels of the transform; 0 if it has none.
        tabular: Whether each coordinate has a transform of its own.
        dequantized: Names of columns that are dequantized, and may be discrete.
    """
    warnings = []
    if facts.count < FEW_EVENTS:
        warnings.append(
            f"{facts.count} events are too few to learn a distribution from: a model repeats them, and a test set of one event "
            "says little"
        )
    if facts.outliers is not None:
        warnings.append(_outliers(facts, levels, tabular))
    if levels:
        return warnings
    real = [column for column in facts.columns if column.name not in dequantized]
    if found := [column for column in real if column.discrete and not column.constant]:
        advice = (
            "Save whole numbers or texts in their place, which are dequantized"
            if tabular
            else "Save the table as a CSV or Parquet file, whose columns of whole numbers and texts are dequantized"
        )
        warnings.append(
            f"{_columns(found)} discrete: a probability density there grows without bound, and log-likelihoods mean "
            f"nothing. {advice}, or leave them out"
        )
    elif facts.grid is not None and not facts.columns:
        low, step, count = facts.grid.low, facts.grid.step, facts.grid.count
        if (low, count) == (0.0, 256) and abs(255 * step - 1) < 1e-3:
            warnings.append(
                "the values are bytes divided by 255: save the bytes, numpy.rint(255 * a).astype('u1'), so that they are "
                "dequantized and bits/dim are meaningful"
            )
        else:
            warnings.append(
                f"the values are {low:g} + {step:.4g} k with k = 0 .. {count - 1}: save the whole numbers k, numpy.rint((a - "
                f"{low:g}) / {step:.6g}).astype('i4'), so that they are dequantized and bits/dim are meaningful"
            )
    return warnings


def _outliers(facts: Facts, levels: int, tabular: bool) -> str:
    found = facts.outliers
    assert found is not None
    at = "" if not facts.shape or facts.shape == (1,) else f" in coordinate {_place(found.coordinate)}"
    if len(facts.columns) > 1:
        at = f" in column {facts.columns[found.coordinate[0]].name}"
    many = found.count > max(1.0, HEAVY * facts.count)  # a single one is no tail
    text = f"{counted(found.count, 'event', 'has')} values more than {FAR:g} robust standard deviations from the median"
    if not many:
        text += f", event {named(found.names, found.count)}"
    text += (
        f". The farthest is {found.value:g} of event {found.worst}{at}, where 98 % of the values are from "
        f"{found.inner[0]:.3g} to {found.inner[1]:.3g}. "
    )
    every, others = found.column_stds if tabular else (facts.std, found.std)
    if levels:
        text += (
            f"Because of these values there are {levels} levels, of which most do not occur, and the rest is squeezed "
            f"into {100 * found.std / max(facts.std, 1e-300):.2g} % of the standard deviation. "
        )
    else:
        text += (
            f"The standard deviation{' of this column' if tabular else ''} is {every:.4g} with these events and {others:.4g} "
            f"without: after the transform, the others have a standard deviation of {others / every:.2g} in place of 1. "
        )
    if many:
        return text + "Heavy tails: train on a transformed copy, such as numpy.arcsinh((a - median) / scale)"
    index = ", ".join(found.names) if found.count <= SHOWN else "..."
    how = "" if tabular else f": numpy.delete(a, [{index}], axis=0)"
    return (
        f"{text}If they are errors, leave them out{how}. Otherwise limit them (numpy.clip), or train on a transformed copy, "
        "such as numpy.arcsinh((a - median) / scale)"
    )


def _place(coordinate: tuple[int, ...]) -> str:
    return str(coordinate[0]) if len(coordinate) == 1 else str(coordinate)


def _columns(columns: Sequence[Column]) -> str:
    names = named(column.name for column in columns)
    return f"column {names} is" if len(columns) == 1 else f"columns {names} are"


def _notes(facts: Facts, levels: int, tabular: bool, dequantized: Sequence[str]) -> list[str]:
    """Properties that are not problems but should be known."""
    shape, notes = facts.shape, []
    if facts.twins:
        notes.append("an event and its duplicate may be in different splits: test results are then too good")
    if 0 < facts.levels <= levels // FEW_OF_LEVELS:
        notes.append(
            f"the largest value is {facts.high:g} of {levels - 1}: if these are labels or masks, set levels = {facts.levels} "
            "and resampling = 'nearest' in the data section of a folder, or save them as an array"
        )
    if len(facts.columns) > SHOWN_COLUMNS:
        kinds = Counter("constant" if c.constant else "discrete" if c.discrete else "continuous" for c in facts.columns)
        notes.append("columns: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    if facts.constant:
        notes.append(f"{counted(facts.constant, 'coordinate', 'is')} constant: their density means little")
    if not levels and not tabular and facts.spread > 10 and facts.outliers is None:
        table = ", or save a CSV or Parquet file, whose columns are standardized one by one" if facts.columns else ""
        notes.append(
            f"the standard deviations of the coordinates differ by a factor of {facts.spread:.3g}: standardize them first, "
            f"(a - a.mean(0)) / a.std(0){table}"
        )
    if not levels and (rounded := [c for c in facts.columns if _rounded(c) and c.name not in dequantized]):
        notes.append(
            f"{_columns(rounded)} rounded: a likelihood can see steps that are wider than the smallest noise level; add "
            "uniform noise as wide as a step if it matters"
        )
    if len(shape) == 1 and shape[0] >= 16 and facts.smooth > SMOOTH and not tabular:
        notes.append(
            f"neighboring coordinates have a correlation of {facts.smooth:.2f}: for a series, add --channels none, so that the "
            "network is a convolutional one"
        )
    if len(shape) == 2 and shape[0] > 4:
        notes.append(
            f"{shape} is read as a series of {shape[0]} channels; --channels last if its last axis has the channels, --channels "
            "none if they are gray images"
        )
    return notes


def _rounded(column: Column) -> bool:
    repeated = column.whole or (column.grid is not None and column.distinct < column.events)
    return repeated and not column.discrete


def find_problems(source: Source, facts: Facts) -> list[str]:
    """Problems that must be fixed before training, one line for each."""
    found = [*source.problems, *facts.broken]
    found = found[:SHOWN] + ([f"and {len(found) - SHOWN} more of this kind"] if len(found) > SHOWN else [])
    shape = facts.shape
    if len(shape) > 2 and channels_are_last(shape) and source.node["name"] != "Arrays":
        found.append(
            f"the channels are last in {shape}: give events with the channels first, {(shape[-1], *shape[:-1])}"
        )
    if facts.unfinite:
        found.append(f"{counted(len(facts.unfinite), 'event', 'has')} NaN or infinities: {named(facts.unfinite)}")
    if facts.std == 0.0 or facts.count < 2:
        found.append(f"{counted(facts.count, 'event')}, standard deviation {facts.std:g}: there is nothing to learn")
    return found


def named(names: Iterable[str], count: int = 0) -> str:
    """The first eight names. ``count`` is their number if ``names`` are not all of them."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if max(count, len(names)) > SHOWN else "")
