"""Folders of images for `scoresde inspect`: only the headers are read, which state sizes and kinds of pixels."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scoresde.data.images import ImageFolder
from scoresde.data.inspect_source import Source
from scoresde.data.pixels import GRAY
from scoresde.data.stored import ImageFiles, unreadable

MOST_SIDE = 64
"""Default side to which larger images are shrunk, which one machine can train in days."""


def find_images(folder: Path, side: int) -> Source:
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
        problems=tuple(problems),
    )  # fmt: skip


def _side(least: int) -> tuple[int, str]:
    """The side of the events and the reason for it."""
    if least > MOST_SIDE:
        return MOST_SIDE, f"shrunk to {MOST_SIDE} for a first run, --side takes any up to {least}"
    for step in (8, 4, 2):
        if least >= 2 * step:
            return least - least % step, f"the largest multiple of {step} that all have"
    return least, "what all have"
