"""Contact sheets: a row of pictures for each input, and plots for events that are not pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from scoresde.experiment.folder.plots import LEAST_SIDE, png

LARGEST_SIDE = 160
"""Longest side of a picture in a sheet, in screen pixels: larger pictures are shrunk."""
GAP, TEXT, LABEL = 6, 18, 120
"""Width of the lines between pictures, height of a line of text and largest width of the labels of the rows, in pixels."""
PAPER, INK, MISSING = (255, 255, 255), (40, 44, 52), (74, 118, 186)
"""Colors of the sheet, its text, and missing pixels."""


@dataclass(frozen=True)
class SheetRow:
    """The pictures of an input.

    Args:
        label: Its name.
        cells: Pictures (channels, height, width) of any size with the ratio of the samples, uint8. None leaves a place empty.
    """

    label: str
    cells: Sequence[np.ndarray | None]


def contact_sheet(
    heads: Sequence[str], rows: Sequence[SheetRow], sides: tuple[int, int], least: int = LEAST_SIDE
) -> bytes:
    """A table of pictures.

    Args:
        heads: Titles of the columns.
        rows: The rows.
        sides: (height, width) of the samples in pixels. Those above `LARGEST_SIDE` are shrunk.
        least: Smallest longest side of a picture, in screen pixels: smaller samples are enlarged by a whole number, without
            interpolation.

    Returns:
        A PNG file.
    """
    scale = max(1, math.ceil(least / max(sides)))
    shrink = min(1.0, LARGEST_SIDE / max(sides))
    height, width = (max(1, round(side * scale * shrink)) for side in sides)
    left = min(LABEL, GAP * 3 + max(7 * len(row.label) for row in rows)) if len(rows) > 1 else GAP
    lines = [_wrapped(head, width) for head in heads]
    top = GAP + TEXT * max(len(line) for line in lines)
    canvas = Image.new("RGB", (left + len(heads) * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for k, words in enumerate(lines):
        for number, text in enumerate(words):
            draw.text((left + k * (width + GAP), GAP / 2 + number * TEXT), text, INK, font)
    for j, row in enumerate(rows):
        y = top + j * (height + GAP)
        if len(rows) > 1:
            for number, text in enumerate(_wrapped(row.label, left - GAP)[: max(1, height // TEXT)]):
                draw.text((GAP, y + number * TEXT), text, INK, font)
        for k, cell in enumerate(row.cells):
            if cell is not None:
                canvas.paste(_resized(cell, (width, height)), (left + k * (width + GAP), y))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _resized(cell: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(cell, (3, *cell.shape[1:])).transpose(1, 2, 0)))
    smaller = image.size[0] > size[0]
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of about ``width`` pixels, broken at spaces or within long words."""
    most = max(4, width // 7)
    lines = [""]
    for word in text.split(" "):
        while word:
            room = most - len(lines[-1]) - (1 if lines[-1] else 0)
            if len(word) <= room:
                lines[-1] += (" " if lines[-1] else "") + word
                word = ""
            elif lines[-1]:
                lines.append("")
            else:
                lines[-1], word = word[:most], word[most:]
                lines.append("")
    return [line for line in lines if line]


@dataclass(frozen=True)
class Lines:
    """The values of an input that is not a picture.

    Args:
        label: Its name.
        given: The input, (d,); NaN where it is missing.
        samples: The samples, (S, d).
    """

    label: str
    given: np.ndarray
    samples: np.ndarray


def lines_sheet(inputs: Sequence[Lines], names: Sequence[str], unit: str) -> bytes:
    """A plot for each input: its values as points, the samples as lines, their mean, and a standard deviation on each side.

    Args:
        inputs: The inputs.
        names: Names of the coordinates. Empty for numbers.
        unit: The unit of the values, for the axis.

    Returns:
        A PNG file.
    """
    columns = min(2, len(inputs))
    rows = math.ceil(len(inputs) / columns)
    figure = Figure(figsize=(5.2 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, one in zip(axes, inputs, strict=False):
        x = np.arange(one.samples.shape[1])
        mean, std = one.samples.mean(0), one.samples.std(0, ddof=1) if len(one.samples) > 1 else 0.0
        place.fill_between(x, mean - std, mean + std, color="C0", alpha=0.2, linewidth=0)
        place.plot(x, one.samples[:16].T, color="C0", alpha=0.35, linewidth=0.7)
        place.plot(x, mean, color="C0", linewidth=1.6, label="mean, and a standard deviation on each side")
        place.plot(x, one.given, "o", color="C1", markersize=4, label="input")
        place.set_title(one.label, fontsize=9)
        place.set_ylabel(unit, fontsize=8)
        if names:
            place.set_xticks(x, [name[:16] for name in names], rotation=60, ha="right")
        place.tick_params(labelsize=7)
    for place in axes[len(inputs) :]:
        place.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
    return png(figure, tight=False)
