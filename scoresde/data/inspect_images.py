"""Folders of images for `scoresde inspect`: only the headers are read, which state sizes and kinds of pixels.

Events are the central squares, shrunk to one side. Of an image of w x h pixels, whose shorter side is s, the crop keeps
s^2 / (w h) of the pixels, and shrinking it to the side a leaves a^2 / s^2 of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scoresde.data.images import ImageFolder
from scoresde.data.inspect_source import Source
from scoresde.data.pixels import GRAY
from scoresde.data.stored import ImageFiles, unreadable

MOST_SIDE = 64
"""Default side to which larger images are shrunk, which one machine can train in days."""
LEAST_KEPT = 0.5
"""Part of the pixels of an image below which the crop is a warning."""
SHOWN = 3
"""Number of files of a kind that are named."""


def find_images(folder: Path, side: int = 0) -> Source:
    """The source of a folder of images.

    Args:
        folder: The folder, searched recursively.
        side: Side of the events in pixels; 0 chooses it.

    Returns:
        The source. Its problems name the images that cannot be read, its warnings and notes the files that are left out
        and the pixels that are cut off.
    """
    files = ImageFolder(str(folder), side=1)._files(folder)
    whole, sizes, gray, clear, problems = [], [], True, 0, []
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.append(image.size)
                gray = gray and image.mode in GRAY
                clear += image.has_transparency_data
            whole.append(file)
        except unreadable() as problem:
            problems.append(f"{file} cannot be read: {problem}")
    if not whole:
        raise ValueError(f"none of the {len(files)} images in {str(folder)!r} can be read: {'; '.join(problems[:3])}")
    shorts = [min(size) for size in sizes]
    least = min(shorts)
    smallest = whole[shorts.index(least)]
    side, why = (side, "as asked for") if side else _side(least)
    if side > least:
        small = sum(short < side for short in shorts)
        problems.append(f"{small} images are smaller than side={side}, {smallest} has {least}: they are not enlarged")
    channels = 1 if gray else 3
    notes = [f"shorter sides from {least} ({smallest.name}) to {max(shorts)} pixels; side {side}: {why}"]
    if clear:
        notes.append(
            f"{clear} images have transparency: it is left out where all of it is opaque, and refused elsewhere"
        )
    kept_warnings, kept_notes = _kept(whole, sizes, side)
    left_warnings, left_notes = _left_out(folder, files)
    return Source(
        what="a folder of images",
        node={"name": "ImageFolder", "folder": str(folder), "side": side, "channels": channels},
        events=ImageFiles(folder, whole, side, channels),
        name=lambda k: str(whole[k]),
        notes=(*notes, *kept_notes, *left_notes),
        warnings=(*kept_warnings, *left_warnings),
        problems=tuple(problems),
    )


def _side(least: int) -> tuple[int, str]:
    """The side of the events and the reason for it."""
    if least > MOST_SIDE:
        return MOST_SIDE, f"shrunk to {MOST_SIDE} for a first run, --side takes any up to {least}"
    return least, "what all have"


def _kept(files: Sequence[Path], sizes: Sequence[tuple[int, int]], side: int) -> tuple[list[str], list[str]]:
    """Warnings and notes on the pixels that crops and shrinking leave."""
    crops = [min(w, h) ** 2 / (w * h) for w, h in sizes]
    total = sum(w * h for w, h in sizes)
    squares = sum(min(w, h) ** 2 for w, h in sizes)
    cropped = sum(crop < 1.0 for crop in crops)
    warnings, notes = [], []
    if min(crops) < LEAST_KEPT:
        k = min(range(len(crops)), key=crops.__getitem__)
        many = sum(crop < LEAST_KEPT for crop in crops)
        warnings.append(
            f"the central square is less than {_percent(LEAST_KEPT)} of the pixels of {many} of {len(files)} images: "
            f"{_percent(crops[k])} of {files[k].name} ({sizes[k][0]} x {sizes[k][1]} pixels). Cut them into squares first if "
            "what lies outside matters"
        )
    if cropped or side < min(map(min, sizes)):
        parts = [f"crops to the central square keep {_percent(squares / total)}"] if cropped else []
        parts.append(f"shrinking to side {side} keeps {_percent(len(files) * side**2 / squares)}")
        notes.append(
            f"{_percent(len(files) * side**2 / total)} of all pixels are kept: {' and '.join(parts)}"
            + (f" of the rest ({cropped} images are not square)" if cropped else "")
        )
    return warnings, notes


def _left_out(folder: Path, files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Warnings and notes on the files of the folder that are no events, by their suffix."""
    used = set(files)
    left = sorted(file for file in folder.rglob("*") if file.is_file() and file not in used)
    counts = Counter(file.suffix.lower() for file in left)
    Image.init()
    pictures = {suffix for suffix in counts if suffix in Image.EXTENSION}

    def listed(suffixes: set[str]) -> str:
        parts = []
        for suffix in sorted(suffixes, key=lambda s: (-counts[s], s)):
            names = [file.name for file in left if file.suffix.lower() == suffix]
            more = ", ..." if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {suffix or 'without a suffix'} ({', '.join(names[:SHOWN])}{more})")
        return ", ".join(parts)

    warnings, notes = [], []
    if pictures:
        count = sum(counts[suffix] for suffix in pictures)
        warnings.append(f"{count} images are left out because of their format, save them as PNG: {listed(pictures)}")
    if others := set(counts) - pictures:
        count = sum(counts[suffix] for suffix in others)
        notes.append(f"{count} files are not images and are left out: {listed(others)}")
    return warnings, notes


def _percent(part: float) -> str:
    """A part in percent with two digits; 100 % only for all."""
    return "100 %" if part >= 1.0 else f"{min(100.0 * part, 99.0):.2g} %"
