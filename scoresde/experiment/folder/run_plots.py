"""A plot that compares runs: training losses, and likelihoods with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scoresde.experiment.folder.plots import png

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""
Bar = tuple[float, float | None]
"""A value and its standard error, which may not be known."""


def runs_picture(losses: Mapping[str, Curve], likelihoods: Mapping[str, Bar], label: str) -> bytes:
    """Training losses over steps on the left, likelihoods on the right, in the same colors.

    Args:
        losses: The curve of each run.
        likelihoods: The likelihood of each run. Runs without one are left out; with none, only losses are drawn.
        label: The label of the axis of likelihoods, with the unit.

    Returns:
        A PNG picture.
    """
    names = list(losses)
    spread = np.linspace(0.0, 0.92, max(2, len(names)))
    colors = dict(
        zip(names, colormaps["tab10"](range(10)) if len(names) <= 10 else colormaps["viridis"](spread), strict=False)
    )
    figure = Figure(figsize=(11.0, 4.6 + 0.16 * max(0, len(names) - 10)), layout="constrained")
    axes = figure.subplots(1, 2 if likelihoods else 1, squeeze=False)[0]
    _losses(axes[0], losses, colors)
    if likelihoods:
        _bars(axes[1], likelihoods, colors, label)
    return png(figure, tight=False)


def _losses(axes: Axes, losses: Mapping[str, Curve], colors: Mapping[str, object]) -> None:
    seen = [np.zeros(0)]
    for name, (steps, values) in losses.items():
        x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
        kept = np.isfinite(y)
        seen.append(y[kept])
        marker = "o" if kept.sum() < 3 else None
        axes.plot(x[kept], y[kept], color=colors[name], label=name, linewidth=1.6, marker=marker)
    every = np.concatenate(seen)
    if every.size and every.min() > 0 and every.max() > 10 * every.min():
        axes.set_yscale("log")
    axes.set_xlabel("training step", fontsize=12)
    axes.set_ylabel("training loss, mean since the previous point", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=11 if len(losses) <= 10 else 8, frameon=False)


def _bars(axes: Axes, likelihoods: Mapping[str, Bar], colors: Mapping[str, object], label: str) -> None:
    for place, (name, (value, error)) in enumerate(likelihoods.items()):
        bar = None if error is None else [error]
        axes.errorbar([value], [place], xerr=bar, fmt="o", color=colors[name], capsize=4, markersize=7)
    axes.set_yticks(range(len(likelihoods)), list(likelihoods), fontsize=11)
    axes.invert_yaxis()
    axes.margins(y=0.3 if len(likelihoods) < 4 else 0.1)
    axes.set_xlabel(label, fontsize=12)
    axes.tick_params(axis="x", labelsize=11)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", alpha=0.3)
