"""Events from files that a user names: pictures, arrays, and rows of tables, with missing values.

    picture    one event; transparent pixels are missing
    array      .npy, or .npz:name, with one event or several; NaN is missing
    table      .csv, .csv.gz or .parquet with the columns of a `Table`, one event a row; empty cells are missing

Sizes are not checked here, because a measurement may be smaller than an event.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from scoresde.data.arrays import names_in, read_array
from scoresde.data.images import SUFFIXES as PICTURES
from scoresde.data.pictures import picture_format
from scoresde.data.sources import Splits
from scoresde.data.table import Table
from scoresde.data.table_files import SUFFIXES as TABLES

ARRAYS = (".npy", ".npz")
READABLE = (*sorted(PICTURES), *ARRAYS, *TABLES)
"""Endings of the files that are read."""


@dataclass(frozen=True)
class InputEvent:
    """An event of a file.

    Attributes:
        name: The name of the file without its ending, with the number of the event if the file has several.
        file: The file.
        raw: The event in the units of the data. Missing values are 0, or any value that the data allows.
        known: Which values are known, a tensor of bool of the shape of raw. None if all are.
    """

    name: str
    file: str
    raw: Tensor
    known: Tensor | None = None

    @property
    def size(self) -> str:
        """The shape in words: width x height of a picture, otherwise the shape."""
        if Path(self.file).suffix.lower() in PICTURES:
            return f"{self.raw.shape[-1]} x {self.raw.shape[-2]} pixels"
        return f"the shape {tuple(self.raw.shape)}"


def find_inputs(places: Sequence[str]) -> list[str]:
    """The files that places stand for.

    Args:
        places: Files, ``file.npz:name``, folders, or patterns such as ``photos/*.png``. Of a folder, the readable files in it
            are taken, without subfolders.

    Returns:
        The files: in the order of the places, those of a folder or pattern in the order of their names. A file that is named
        twice is taken once.

    Raises:
        FileNotFoundError: For a place without files.
        ValueError: For a file that cannot be read by its ending.
    """
    found: list[str] = []
    for place in places:
        path = Path(place.partition(".npz:")[0] + ".npz" if ".npz:" in place else place)
        if path.is_dir():
            files = sorted(str(file) for file in path.iterdir() if file.is_file() and _readable(file.name))
        elif path.is_file():
            if not _readable(path.name):
                raise ValueError(f"input={place!r} is not allowed: give files that end in {', '.join(READABLE)}")
            files = [place]
        else:
            files = sorted(
                file for file in glob.glob(place, recursive=True) if Path(file).is_file() and _readable(file)
            )
        if not files:
            raise FileNotFoundError(f"input={place!r}: {_absent(path)}")
        found += files
    return list(dict.fromkeys(found))


def read_inputs(files: Sequence[str], data: Splits) -> list[InputEvent]:
    """Read events.

    Args:
        files: Files, as `find_inputs` returns them.
        data: The data of the model, which determines levels and columns.

    Returns:
        The events of all files. Their names differ: if files of several folders have the same name, all names begin with the
        number of the event.

    Raises:
        ValueError: For a file that cannot be read, or does not suit the data.
    """
    found = [event for file in files for event in _read(file, data)]
    names = [event.name for event in found]
    if len(set(names)) == len(names):
        return found
    digits = len(str(len(found) - 1))
    return [
        InputEvent(f"{k:0{digits}d}-{event.name}", event.file, event.raw, event.known) for k, event in enumerate(found)
    ]


def _read(file: str, data: Splits) -> list[InputEvent]:
    lower = file.lower()
    if lower.endswith(TABLES):
        return _of_table(file, data)
    if Path(lower).suffix in PICTURES:
        return [_of_picture(file, data)]
    return _of_array(file, data)


def _of_picture(file: str, data: Splits) -> InputEvent:
    form = picture_format(data)
    if form is None:
        raise ValueError(
            f"{file} is a picture, and the events of the data have the shape {data.event_shape} and {data.transform!r}: give "
            "arrays (.npy)"
        )
    raw, known = form.read(Path(file))
    if len(data.event_shape) == 2:
        raw, known = raw[0], None if known is None else known[0]
    return InputEvent(Path(file).stem, file, raw, None if known is None else known.expand(raw.shape))


def _of_array(file: str, data: Splits) -> list[InputEvent]:
    spec, dimensions = file, len(data.event_shape)
    if file.lower().endswith(".npz"):
        names = names_in(Path(file))
        if len(names) != 1:
            raise ValueError(f"{file} has the arrays {', '.join(names) or 'none'}: give one as {file}:NAME")
        spec = f"{file}:{names[0]}"
    raw = read_array(spec)
    if not isinstance(raw, Tensor):
        raise ValueError(f"{file} is too large for one command: give at most 64 MiB")
    if raw.ndim not in (dimensions, dimensions + 1) or raw.numel() == 0:
        raise ValueError(
            f"{file} has the shape {tuple(raw.shape)}: give one event with {dimensions} dimensions, as those of the shape "
            f"{data.event_shape}, or several"
        )
    several = raw.ndim > dimensions
    rows = raw if several else raw[None]
    known = None
    if rows.is_floating_point() and bool(rows.isnan().any()):
        known = ~rows.isnan()
        rows = torch.where(known, rows, 0.0)
    rows = _checked(rows, file, data)
    name = Path(spec.partition(".npz:")[0]).name.removesuffix(".npz").removesuffix(".npy")
    digits = len(str(len(rows) - 1))
    return [
        InputEvent(
            f"{name}-{k:0{digits}d}" if several else name, file, row,
            None if known is None or bool(known[k].all()) else known[k],
        )
        for k, row in enumerate(rows)
    ]  # fmt: skip


def _of_table(file: str, data: Splits) -> list[InputEvent]:
    if not isinstance(data, Table):
        raise ValueError(
            f"{file} is a table, and the data of the model is none, but {type(data).__name__}: give "
            f"{'pictures' if picture_format(data) is not None else 'arrays (.npy)'}"
        )
    rows, known = data.incomplete_rows(file)
    name, digits = Path(file).name.partition(".")[0], len(str(len(rows) - 1))
    return [
        InputEvent(f"{name}-{k:0{digits}d}", file, row, None if bool(known[k].all()) else known[k])
        for k, row in enumerate(rows)
    ]


def _checked(rows: Tensor, file: str, data: Splits) -> Tensor:
    """Events in the units of the data. Raises ValueError for values that it does not allow."""
    check = getattr(data.transform, "check", None)
    if check is not None:
        checked: Tensor = check(rows, file)
        return checked
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{file} has infinite values: give finite numbers, or NaN for missing ones")
    return rows.double()


def _readable(name: str) -> bool:
    return name.lower().endswith(READABLE)


def _absent(path: Path) -> str:
    """What is wrong with a place without files, with the closest file name."""
    if path.is_dir():
        return f"the folder holds no files that end in {', '.join(READABLE)}"
    there = [str(file) for file in path.parent.glob("*")] if path.parent.is_dir() else []
    near = get_close_matches(str(path), there, n=1, cutoff=0.6)
    return "no such file" + (f"; did you mean {near[0]!r}?" if near else "")
