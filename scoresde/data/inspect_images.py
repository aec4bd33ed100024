"""Folders of images for `scoresde inspect`: only the headers are read, which state sizes and kinds of pixels.

Events are the central squares, or the whole images if all have the same ratio of height to width, shrunk to one size. Of an
image of A pixels the crop keeps B (`crop_box`), and shrinking it to an event of C pixels leaves C / B of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from scoresde.data.image_rules import kept_fraction, sides_of
from scoresde.data.images import image_files
from scoresde.data.inspect_source import Source, counted
from scoresde.data.pixels import DEEP_GRAY, GRAY, upright_size
from scoresde.data.stored import ImageFiles, unreadable

MOST_SIDE = 64
"""Default side to which larger images are shrunk, which one machine can train in days."""
LEAST_SIDE = 4
"""Shortest side of an event that is not a square, if it is not given."""
LEAST_KEPT = 0.5
"""Part of the pixels of an image below which the crop is a warning."""
SHOWN = 3
MOST_CLASSES = 1000
"""Largest number of subfolders that are described as possible classes."""
"""Number of files of a kind that are named."""


def find_images(folder: Path, side: int | Sequence[int] = 0) -> Source:
    """The source of a folder of images.

    Args:
        folder: The folder, searched recursively.
        side: Side of square events in pixels, or (height, width); 0 chooses it.

    Returns:
        The source. Its problems name the images that cannot be read, its warnings and notes the files that are left out
        and the pixels that are cut off.
    """
    files = image_files(folder)
    if not files:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no images: put PNG, JPEG, WebP, BMP or TIFF files there, or name another folder"
        )
    whole, sizes, modes, clear, problems = [], [], Counter[str](), 0, []
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.append(upright_size(image))
                modes[image.mode] += 1
                clear += image.has_transparency_data
            whole.append(file)
        except unreadable() as problem:
            problems.append(f"{file} cannot be read: {problem}")
    if not whole:
        raise ValueError(f"none of the {len(files)} images in {str(folder)!r} can be read: {'; '.join(problems[:3])}")
    shorts = [min(size) for size in sizes]
    least = min(shorts)
    smallest = whole[shorts.index(least)]
    side, why = (side, "as asked for") if side else _side(sizes)
    height, width = sides_of(side)
    if small := [file for file, size in zip(whole, sizes, strict=True) if size[0] < width or size[1] < height]:
        problems.append(
            f"{counted(len(small), 'image', 'is')} smaller than side={side}, such as {small[0]}: they are not enlarged; "
            f"the shortest side is {least}, of {smallest.name}"
        )
    options, kinds = _kinds(modes)
    notes = [f"shorter sides from {least} ({smallest.name}) to {max(shorts)} pixels; side {side}: {why}", *kinds]
    if clear:
        notes.append(
            f"{counted(clear, 'image', 'has')} transparency: it is left out where all of it is opaque, and refused elsewhere"
        )
    kept_warnings, kept_notes = _kept(whole, sizes, side)
    left_warnings, left_notes = _left_out(folder, files)
    return Source(
        what="a folder of images",
        node={"name": "ImageFolder", "folder": str(folder), "side": side, **options},
        events=ImageFiles(folder, whole, side, **options),
        name=lambda k: str(whole[k]),
        notes=(*notes, *_classes(folder, whole), *kept_notes, *left_notes),
        warnings=(*kept_warnings, *left_warnings),
        problems=tuple(problems),
    )


def _classes(folder: Path, files: Sequence[Path]) -> list[str]:
    """A note on subfolders that may be classes: each image is in one of a few."""
    places = [file.relative_to(folder).parts for file in files]
    names = sorted({parts[0] for parts in places})
    if min(map(len, places)) < 2 or not 2 <= len(names) <= MOST_CLASSES:
        return []
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return [
        f"each image is in one of {len(names)} subfolders ({listed}): if they are classes, set in the data section classes = "
        f"{len(names)}, or a list of their names, for a model of the images of each class"
    ]


def _kinds(modes: Counter[str]) -> tuple[dict[str, Any], list[str]]:
    """Arguments of `ImageFolder` for images of these modes of Pillow, and notes."""
    if not set(modes) - {"1"}:
        return {"channels": 1, "levels": 2, "resampling": "nearest"}, ["one bit per pixel: 2 levels"]
    if not set(modes) - (set(DEEP_GRAY) - {"F"}):
        return {"channels": 1, "levels": 65536, "resampling": "bicubic"}, ["more than 8 bits per pixel: 65536 levels"]
    notes = []
    if modes["P"]:
        notes.append(
            f"{counted(modes['P'], 'image', 'has')} a palette, and their colors are read. For label maps of K classes, set "
            "in the data section channels = 1, levels = K, resampling = 'nearest', palette = 'indices'"
        )
    return {"channels": 3 if set(modes) - set(GRAY) else 1}, notes


def _side(sizes: Sequence[tuple[int, int]]) -> tuple[int | tuple[int, int], str]:
    """The side of the events, or (height, width) if all images have the same ratio, and the reason for it."""
    width, height = min(sizes)
    longest = max(width, height)
    shrunk = f"shrunk to {MOST_SIDE} for a first run, --side takes any up to "
    if width != height and all(w * height == h * width for w, h in sizes):
        factor = min(1.0, MOST_SIDE / longest)
        event = round(height * factor), round(width * factor)
        if min(event) >= LEAST_SIDE:
            same = "the height and width of all images" if factor == 1.0 else "the ratio of all images"
            return event, same if factor == 1.0 else f"{same}, {shrunk}{height}x{width}"
    least = min(min(size) for size in sizes)
    return (MOST_SIDE, f"{shrunk}{least}") if least > MOST_SIDE else (least, "what all have")


def _kept(
    files: Sequence[Path], sizes: Sequence[tuple[int, int]], side: int | Sequence[int]
) -> tuple[list[str], list[str]]:
    """Warnings and notes on the pixels that crops and shrinking leave."""
    height, width = sides_of(side)
    form = "square" if height == width else "rectangle"
    crops = [kept_fraction(size, side) for size in sizes]
    total = sum(w * h for w, h in sizes)
    inside = sum(crop * w * h for crop, (w, h) in zip(crops, sizes, strict=True))
    cropped = sum(crop < 1.0 for crop in crops)
    warnings, notes = [], []
    if min(crops) < LEAST_KEPT:
        k = min(range(len(crops)), key=crops.__getitem__)
        many = sum(crop < LEAST_KEPT for crop in crops)
        warnings.append(
            f"the central {form} is less than {_percent(LEAST_KEPT)} of the pixels of {many} of {len(files)} images: "
            f"{_percent(crops[k])} of {files[k].name} ({sizes[k][0]} x {sizes[k][1]} pixels). Cut them into {form}s first if "
            "what lies outside matters"
        )
    event = len(files) * height * width
    if cropped or event < total:
        parts = [f"crops to the central {form} keep {_percent(inside / total)}"] if cropped else []
        parts.append(f"shrinking to side {side} keeps {_percent(event / inside)}")
        ratio = "square" if height == width else f"of the ratio {height}:{width}"
        notes.append(
            f"{_percent(event / total)} of all pixels are kept: {' and '.join(parts)}"
            + (f" of the rest ({counted(cropped, 'image', 'is')} not {ratio})" if cropped else "")
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
        warnings.append(
            f"{counted(count, 'image', 'is')} left out because of their format, save them as PNG: {listed(pictures)}"
        )
    if others := set(counts) - pictures:
        count = sum(counts[suffix] for suffix in others)
        notes.append(f"{counted(count, 'file')} of other kinds left out: {listed(others)}")
    return warnings, notes


def _percent(part: float) -> str:
    """A part in percent with two digits; 100 % only for all."""
    return "100 %" if part >= 1.0 else f"{min(100.0 * part, 99.0):.2g} %"
