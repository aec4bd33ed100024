"""Plots of events and curves, as PNG bytes."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from scoresde.data import CategoryColumn, Columns, RealColumn, Transform
from scoresde.data.columns import Column
from scoresde.data.transforms import level_count

LEAST_SIDE = 96
"""Smallest longest side of an event in a picture, in screen pixels: smaller events are enlarged by a whole number."""
GAP, GAP_VALUE = 4, 0.35
"""Width of the lines between events in screen pixels, and their gray."""


def events_shown(event_shape: Sequence[int], transform: Transform) -> int:
    """Number of events in a picture or a text. For single numbers, points in a plane and tables it is larger."""
    return 4096 if math.prod(event_shape) <= 2 or isinstance(transform, Columns) else 64


def event_picture(raw: Tensor, transform: Transform, columns: int = 0) -> bytes:
    """A picture of events.

    Events (1, H, W), (3, H, W), and quantized events (H, W), become a grid of images. Other events become a histogram
    of one number, a scatter plot of two coordinates, or lines. Rows of a table become a histogram of each column.
    Real-valued images are scaled so that the 0.5 % and 99.5 % quantiles are black and white. Small images are enlarged
    without interpolation, see ``LEAST_SIDE``. The grid has ``columns`` columns; 0 makes as many columns as rows, or one
    more.
    """
    if isinstance(transform, Columns):
        return marginals_picture({"": raw}, transform)
    levels, shape = level_count(transform), tuple(raw.shape[1:])
    if (len(shape) == 2 and levels) or (len(shape) == 3 and shape[0] in (1, 3)):
        if levels:
            return _image_grid(raw / (levels - 1), columns)
        values = raw.double().flatten()
        low, high = np.nanquantile(values.numpy(), (0.005, 0.995))
        return _image_grid((raw.double() - low) / max(high - low, 1e-30), columns)
    return _vector_picture(raw.float())


def _image_grid(raw: Tensor, columns: int) -> bytes:
    """A grid of images with values from 0 (black) to 1."""
    images = raw[:, None] if raw.ndim == 3 else raw
    scale = max(1, math.ceil(LEAST_SIDE / max(images.shape[2:])))
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    canvas = torch.full((channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), GAP_VALUE)
    for k in range(count):
        y, x = (k // columns) * (height + GAP) + GAP, (k % columns) * (width + GAP) + GAP
        canvas[:, y : y + height, x : x + width] = images[k]
    pixels = (canvas.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _vector_picture(raw: Tensor) -> bytes:
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    flat = raw.reshape(len(raw), -1).numpy()
    if flat.shape[1] == 1:
        axes.hist(flat[:, 0], bins=50, density=True, histtype="stepfilled")
        axes.set_xlabel("value")
        axes.set_ylabel("density")
    elif flat.shape[1] == 2:
        axes.plot(flat[:, 0], flat[:, 1], ".", markersize=3)
        axes.set_aspect("equal", "datalim")
        axes.set_xlabel("first coordinate")
        axes.set_ylabel("second coordinate")
    else:
        axes.plot(flat[:32].T, linewidth=0.7)
        axes.set_xlabel("coordinate")
        axes.set_ylabel("value")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return png(figure)


def marginals_picture(tables: Mapping[str, Tensor], transform: Columns, columns: int = 4) -> bytes:
    """A histogram of each column of several tables: the fraction of rows in each bin.

    Args:
        tables: Rows (n, number of columns) by name. The first is filled, the others are lines.
        transform: The columns. They determine the range of the plots: 4 scales about the shift, within the allowed range.
        columns: Plots side by side.
    """
    rows = math.ceil(len(transform.columns) / columns)
    figure = Figure(figsize=(9.6, 1.7 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for k, (axes, column) in enumerate(zip(grid, transform.columns, strict=False)):
        edges = _bins(column)
        for number, (name, raw) in enumerate(tables.items()):
            values = raw[:, k].double().clamp(edges[0], edges[-1]).numpy()
            axes.hist(
                values, bins=edges, weights=np.full(len(values), 1.0 / len(values)), label=name, linewidth=1.2,
                histtype="step" if number else "stepfilled", color=f"C{number}" if number else "0.75",
            )  # fmt: skip
        axes.set_title(column.column, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        if isinstance(column, CategoryColumn) and len(column.values) <= 6:
            axes.set_xticks([place + 0.5 for place in range(len(column.values))], [text[:12] for text in column.values])
    for axes in grid[len(transform.columns) :]:
        axes.set_axis_off()
    if len(tables) > 1:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(tables), fontsize=8)
    return png(figure, tight=False)


def _bins(column: Column) -> np.ndarray:
    """Edges of about 30 bins of equal width. The first and the last also contain the values beyond them."""
    low, high = column.shift - 4.0 * column.scale, column.shift + 4.0 * column.scale
    if isinstance(column, RealColumn):
        return np.linspace(low, high, 31)
    least, most = column.ends
    first, last = max(least, math.floor(low)), min(most + 1.0, math.ceil(high))
    width = max(1.0, math.ceil((last - first) / 30.0))
    return np.arange(first, last + width, width)


def curve_picture(steps: Sequence[float], lines: Mapping[str, Sequence[float]]) -> bytes:
    """Lines over steps.

    The scale is logarithmic if they span more than a decade. Values that are not finite are left out.
    """
    figure = Figure(figsize=(5.6, 2.6), layout="constrained")
    axes = figure.add_subplot()
    x, seen = np.asarray(steps, dtype=float), []
    colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(lines))) if len(lines) > 1 else ["C0"]
    for (name, values), color in zip(lines.items(), colors, strict=True):
        y = np.asarray(values, dtype=float)
        kept = np.isfinite(y)
        seen.append(y[kept])
        marker = "." if kept.sum() < 3 else None
        axes.plot(x[kept], y[kept], linewidth=1.2, color=color, label=name, marker=marker)
    every = np.concatenate(seen)
    if every.size and every.min() > 0 and every.max() > 10 * every.min():
        axes.set_yscale("log")
    if len(lines) > 1:
        figure.legend(fontsize=7, loc="outside right center", frameon=False)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return png(figure, tight=False)


def histogram_picture(values: np.ndarray, label: str) -> bytes:
    """A histogram."""
    figure = Figure(figsize=(7, 2.6))
    axes = figure.add_subplot()
    axes.hist(values, bins=40)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label)
    axes.set_ylabel("events")
    return png(figure)


def is_png(content: bytes) -> bool:
    """Whether bytes are a complete PNG file: signature, chunks with valid checksums, and nothing after the last chunk."""
    place, name = 8, b""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    while place + 12 <= len(content) and name != b"IEND":
        (size,), name = struct.unpack_from(">I", content, place), content[place + 4 : place + 8]
        body, end = content[place + 4 : place + 8 + size], place + 12 + size
        if end > len(content) or struct.unpack_from(">I", content, end - 4)[0] != zlib.crc32(body):
            return False
        place = end
    return name == b"IEND" and place == len(content)


def png(figure: Figure, tight: bool = True) -> bytes:
    """A matplotlib figure as PNG bytes, without margins if ``tight``."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight" if tight else None)
    return file.getvalue()
