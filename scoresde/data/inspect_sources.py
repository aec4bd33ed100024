"""Find out what kind of data the user names, and the config node that reads it. Nothing is executed or trained.

    folder        of CIFAR-10's batches, of MNIST's idx files, or of images, in this order
    file          of an array or another kind in ``FILES``; or one of CIFAR-10's or MNIST's files, which stands for its folder
    module:name   a class that is a torch data set, made without arguments

A new kind of file is a function ``str -> Source`` and its suffix in ``FILES``.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde._validation import check_choice
from scoresde.data.arrays import names_in, read_array
from scoresde.data.image_rules import sides_of
from scoresde.data.images import CIFAR10, MNIST
from scoresde.data.inspect_images import find_images
from scoresde.data.inspect_source import Source
from scoresde.data.inspect_tables import find_table
from scoresde.data.inspect_texts import STANDARD, find_text
from scoresde.data.items import Items
from scoresde.data.rows import CHANNELS, Rows, channels_first

ALLOWED = (
    "give a folder of images (PNG, JPEG, WebP, BMP, TIFF), an array in .npy or .npz (file.npz:key), a table in .csv or "
    ".parquet, a text in .txt, the folder of CIFAR-10's or MNIST's files, or a torch data set as module:class"
)


LONGER = 4
"""Number of times that a series must be longer than its number of channels for the last axis to be read as the channels."""
LEAST_SIDE, SMOOTH, PROBED = 8, 0.5, 64
"""Least side of a gray image without an axis for its channel, least correlation of its neighboring pixels along both
axes, and number of events from which this correlation is computed."""


def find(data: str, side: int | Sequence[int] = 0, channels: str = "auto") -> Source:
    """Find the source that ``data`` names.

    Args:
        data: A folder, a file or ``module:class``.
        side: Side of square events of an image folder, or (height, width); 0 chooses it.
        channels: The axis of the channels in an array: "first", "last" or "none", as for `Arrays`. "auto" chooses it.

    Returns:
        The source.

    Raises:
        FileNotFoundError: If there is no such file or folder. The message lists what is allowed.
        ValueError: If the data has no kind that can be read.
    """
    if side != 0:
        sides_of(side)
    check_choice("channels", channels, ("auto", *CHANNELS))
    path = Path(data)
    if ".npz:" in data:
        source = find_array(data)
    elif path.is_dir():
        source = _folder(path, side)
    elif data.endswith(".csv.gz"):
        source = find_table(data)
    elif path.suffix in FILES:
        source = FILES[path.suffix](data)
    elif path.is_file():
        source = _file(path)
    elif re.fullmatch(r"[\w.]+:\w+", data):
        source = _torch(data)
    else:
        raise FileNotFoundError(f"{data!r} is not a file, a folder or module:class: {ALLOWED}")
    if side and source.node["name"] != "ImageFolder":
        raise ValueError(f"side={side} is only for folders of images: {data!r} is {source.what}")
    if source.node["name"] == "Arrays":
        return _oriented(source, channels)
    if channels in ("last", "none"):
        raise ValueError(f"channels={channels!r} is only for arrays: {data!r} is {source.what}")
    return source


def _oriented(source: Source, channels: str) -> Source:
    """The source of an array, with the channels of its events first."""
    assert isinstance(source.events, Tensor | Rows)
    shape, why = tuple(source.events.shape[1:]), "as asked for"
    if channels == "auto":
        channels, why = _channels(source.events)
    if channels == "first":
        return source
    events = channels_first(source.node["train"], source.events, channels)
    how = "with its channels last" if channels == "last" else "without channels"
    note = f"{shape} is read {how}, {why}: events have the shape {tuple(events.shape[1:])}"
    return replace(
        source, node={**source.node, "channels": channels}, events=events, notes=(*source.notes, note)
    )  # fmt: skip


def _channels(events: Tensor | Rows) -> tuple[str, str]:
    """The axis of the channels of an array (n, *event), and the reason."""
    shape = tuple(events.shape[1:])
    if channels_are_last(shape):
        return "last", "because it is much shorter; --channels first reads it otherwise"
    near = len(shape) == 2 and min(shape) >= LEAST_SIDE and max(shape) < LONGER * min(shape)
    if near and min(_correlation(events, axis) for axis in (1, 2)) > SMOOTH:
        return "none", "as gray images, because neighbors are alike along both axes; --channels first reads a series"
    return "first", ""


def _correlation(events: Tensor | Rows, axis: int) -> float:
    """The correlation of neighbors along an axis of (n, *event), over some of the events."""
    step = max(1, events.shape[0] // PROBED)
    x = events[::step][:PROBED].double().movedim(axis, -1)
    x = (x - x.mean()) / (x.std() or 1.0)
    found = float((x[..., 1:] * x[..., :-1]).mean())
    return found if math.isfinite(found) else 0.0


def channels_are_last(shape: Sequence[int]) -> bool:
    """Whether the last axis of an event is much more likely to be the channels than the first.

    For two axes, the first must be `LONGER` times as long. For images and volumes, the last must have 1 to 4 entries, and the
    first more.
    """
    if len(shape) == 2:
        return shape[0] >= LONGER * shape[1] and shape[0] >= 2 * LONGER
    return 3 <= len(shape) <= 4 and shape[-1] <= 4 < shape[0]


def _folder(folder: Path, side: int | Sequence[int]) -> Source:
    names = {file.name for place in (folder, *folder.glob("cifar-10-batches-*")) for file in place.glob("*")}
    if names & {"data_batch_1", "data_batch_1.bin"}:
        data = CIFAR10(str(folder))
        return Source("CIFAR-10's batches", {"name": "CIFAR10", "folder": str(folder)}, data.train.raw)
    if any("idx3" in name for name in names):
        return Source(
            "idx files of MNIST's family", {"name": "MNIST", "folder": str(folder)}, MNIST(str(folder)).train.raw
        )
    return find_images(folder, side)


def _file(path: Path) -> Source:
    if path.name in STANDARD:
        return find_text(str(path))
    if re.fullmatch(r"(data_batch_[1-5]|test_batch)(\.bin)?", path.name) or "idx3" in path.name:
        return _folder(path.parent, 0)
    raise ValueError(f"{str(path)!r} is not of a supported kind: {ALLOWED}")


def find_array(data: str) -> Source:
    """The array of ``file.npy``, ``file.npz`` with a single array, or ``file.npz:key``."""
    path = Path(data)
    if path.suffix == ".npz" and path.is_file():
        names = names_in(path)
        data = f"{data}:{names[0]}" if len(names) == 1 else data
    raw = read_array(data)
    if len(raw.shape) < 2 or 0 in raw.shape:
        raise ValueError(f"{data} has shape {tuple(raw.shape)}: give (n, *event), n >= 1, e.g. (n, 1) for scalars")
    return Source("an array", {"name": "Arrays", "train": data}, raw)


def _torch(data: str) -> Source:
    module, _, name = data.partition(":")
    try:
        target = getattr(import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise ValueError(
            f"{data!r} cannot be imported: {problem}; is the module's folder on PYTHONPATH, or the package installed?"
        ) from problem
    if not inspect.isclass(target):
        raise ValueError(f"{data!r} is not a class: give a class whose data set is made without arguments")
    try:
        events = Items(target())
    except Exception as problem:  # third-party classes may raise any exception
        raise ValueError(
            f"{data!r} cannot be made a data set without arguments (a subclass may fill them in): "
            f"{type(problem).__name__}: {problem}"
        ) from problem
    notes = _more_than_events(events.data[0]) if len(events) else ()
    return Source(f"torch data set {name}", {"name": "TorchDataset", "train": {"name": data}}, events, notes=notes)


def _more_than_events(item: Any) -> tuple[str, ...]:
    """A note on an item of a torch data set that has more than an event."""
    if isinstance(item, Mapping) and len(item) > 1:
        names, what = [str(key) for key in item if key != "x"], "dictionaries"
    elif isinstance(item, tuple) and len(item) > 1:
        names, what = ["label", *(f"label{k}" for k in range(2, len(item)))], f"tuples of {len(item)}"
    else:
        return ()
    return (
        f"items are {what}, and only the events are used. For conditions set in the data section condition = {names}, and "
        "classes = {name: number of classes} for whole numbers",
    )


FILES: dict[str, Callable[[str], Source]] = {
    ".npy": find_array, ".npz": find_array, ".csv": find_table, ".parquet": find_table,
    ".txt": find_text,
}  # fmt: skip
"""The function that finds the source of a file, by its suffix."""
