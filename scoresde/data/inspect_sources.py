"""Find out what kind of data the user names, and the config node that reads it. Nothing is executed or trained.

folder      of CIFAR-10's batches, of MNIST's idx files, or of PNG and JPEG images, in this order
file        an array: .npy, .npz, file.npz:key; or one of CIFAR-10's or MNIST's files, which stands for its folder
module:name a class that is a torch data set, made without arguments
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from scoresde._validation import check_count
from scoresde.data.arrays import names_in, read_array
from scoresde.data.images import CIFAR10, MNIST, ImageFolder
from scoresde.data.pixels import GRAY
from scoresde.data.stored import ImageFiles, Items, Stored, unreadable

MOST_SIDE = 64
"""Default side to which larger images are shrunk, which one machine can train in days."""
ALLOWED = (
    "give a folder of PNG or JPEG images, an array in .npy or .npz (file.npz:key), the folder of CIFAR-10's or MNIST's files, "
    "or a torch data set as module:class"
)


@dataclass(frozen=True)
class Source:
    """The data that was found.

    Attributes:
        what: A description.
        node: The ``data`` section of the config without its transform.
        events: All events (n, *event); those of the training set if the data is already split.
        name: The name of an event in messages, a function of its index.
        notes: Remarks for the user.
        problems: Problems that must be fixed before training, with file names.
    """

    what: str
    node: dict[str, Any]
    events: Tensor | Stored
    name: Callable[[int], str] = str
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def find(data: str, side: int = 0) -> Source:
    """Find the source that ``data`` names.

    Args:
        data: A folder, a file or ``module:class``.
        side: Side of the events of an image folder; 0 chooses it.

    Returns:
        The source.

    Raises:
        FileNotFoundError: If there is no such file or folder. The message lists what is allowed.
        ValueError: If the data has no kind that can be read.
    """
    check_count("side", side, least=0)
    path = Path(data)
    if ".npz:" in data or path.suffix in (".npy", ".npz"):
        source = _array(data)
    elif path.is_dir():
        return _folder(path, side)
    elif path.is_file():
        source = _file(path)
    elif re.fullmatch(r"[\w.]+:\w+", data):
        source = _torch(data)
    else:
        raise FileNotFoundError(f"{data!r} is not a file, a folder or module:class: {ALLOWED}")
    if side:
        raise ValueError(f"side={side} is only for folders of images: {data!r} is {source.what}")
    return source


def _folder(folder: Path, side: int) -> Source:
    names = {file.name for place in (folder, *folder.glob("cifar-10-batches-*")) for file in place.glob("*")}
    if names & {"data_batch_1", "data_batch_1.bin"}:
        data = CIFAR10(str(folder))
        return Source("CIFAR-10's batches", {"name": "CIFAR10", "folder": str(folder)}, data.train.raw)
    if any("idx3" in name for name in names):
        node = {"name": "MNIST", "folder": str(folder), "side": 32}
        return Source(
            "idx files of MNIST's family", node, MNIST(str(folder), side=32).train.raw,
            notes=("28 pixels are set in a black square of 32, which a network can halve thrice",),
        )  # fmt: skip
    return _images(folder, side)


def _file(path: Path) -> Source:
    if re.fullmatch(r"(data_batch_[1-5]|test_batch)(\.bin)?", path.name) or "idx3" in path.name:
        return _folder(path.parent, 0)
    raise ValueError(f"{str(path)!r} is not of a supported kind: {ALLOWED}")


def _array(data: str) -> Source:
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
    return Source(f"torch data set {name}", {"name": "TorchDataset", "train": {"name": data}}, events)


def _images(folder: Path, side: int) -> Source:
    """Read only the headers, which state sizes and kinds of pixels."""
    files = ImageFolder(str(folder), side=1)._files(folder)
    whole, shorts, gray, clear, problems = [], [], True, 0, []
    for file in files:
        try:
            with Image.open(file) as image:
                shorts.append(min(image.size))
                gray = gray and image.mode in GRAY
                clear += image.has_transparency_data
            whole.append(file)
        except unreadable() as problem:
            problems.append(f"{file} cannot be read: {problem}")
    if not whole:
        raise ValueError(f"none of the {len(files)} images in {str(folder)!r} can be read: {'; '.join(problems[:3])}")
    least = min(shorts)
    smallest = whole[shorts.index(least)]
    side, note = (side, "as asked for") if side else _side(least)
    if side > least:
        small = sum(short < side for short in shorts)
        problems.append(f"{small} images are smaller than side={side}, {smallest} has {least}: they are not enlarged")
    channels = 1 if gray else 3
    node = {"name": "ImageFolder", "folder": str(folder), "side": side, "channels": channels}
    sizes = f"shorter sides from {least} ({smallest.name}) to {max(shorts)} pixels; side {side}: {note}"
    alpha = (
        (f"{clear} images have transparency: it is left out where all of it is opaque, and refused elsewhere",)
        if clear
        else ()
    )
    return Source(
        "a folder of images", node, ImageFiles(folder, whole, side, channels), lambda k: str(whole[k]), (sizes, *alpha),
        tuple(problems),
    )  # fmt: skip


def _side(least: int) -> tuple[int, str]:
    """The side of the events and the reason for it."""
    if least > MOST_SIDE:
        return MOST_SIDE, f"shrunk to {MOST_SIDE} for a first run, --side takes any up to {least}"
    for step in (8, 4, 2):
        if least >= 2 * step:
            return least - least % step, f"the largest multiple of {step} that all have"
    return least, "what all have"
