"""The report's section about a classifier or regressor: its figures by noise level."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from scoresde._files import bytes_digest, read_plain, read_sealed
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.plots import png
from scoresde.experiment.folder.workdir import Workdir, config_digest
from scoresde.experiment.reports.html import UNREADABLE, figure, note, problem_note, table


def prediction_section(experiment: Experiment, workdir: Workdir) -> str:
    """A plot and a table for each split and weights."""
    parts = ["<h2>Predictions by noise level</h2>"]
    for file in sorted((workdir.evaluation / "predictions").glob("*.json")):
        try:
            summary = read_sealed(file)
            if summary["table digest"] != bytes_digest(read_plain(file.with_suffix(".csv"))):
                raise ValueError(f"{file.stem}.csv is not the table of this summary")
            parts.append(_one(file.stem, summary))
            before = workdir.outdated(summary)
            if summary["config digest"] != config_digest(experiment):
                before = f"another config, digest {summary['config digest']}"
            if before:
                parts.append(problem_note(f"{file.name}: computed with {before}. Run scoresde evaluate again."))
        except UNREADABLE as problem:
            parts.append(problem_note(f"{file.name} cannot be shown: {problem!r}. Run scoresde evaluate again."))
    return "".join(parts) if len(parts) > 1 else parts[0] + problem_note("Not computed yet: run scoresde evaluate.")


def figure_name(summary: dict[str, Any]) -> str:
    """The figure that is shown with the likelihood: "accuracy" for classes, "rmse" for vectors."""
    return "accuracy" if "accuracy" in summary["levels"][0] else "rmse"


def figure_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of a table: t, noise to signal, the figure and the negative log-likelihood with their errors."""
    name = figure_name(summary)
    return [
        (
            f"{row['t']:.4g}", f"{row['noise to signal']:.4g}", f"{row[name]:.4f}", f"{row[f'{name} error']:.2g}",
            f"{row['nll']:.4f}", f"{row['nll error']:.2g}",
        )
        for row in summary["levels"]
    ]  # fmt: skip


def figure_head(summary: dict[str, Any]) -> tuple[str, ...]:
    """The names of the columns of `figure_rows`."""
    return ("t", "noise / signal", figure_name(summary), "+-", "-log p, nats", "+-")


def prediction_picture(summary: dict[str, Any]) -> bytes:
    """Two plots over the noise level, with one standard error on each side, and the figures without x_t."""
    levels, prior = summary["levels"], summary["without x_t"]
    picture = Figure(figsize=(9.0, 3.2), layout="constrained")
    for axes, name, label in zip(
        picture.subplots(1, 2), (figure_name(summary), "nll"), (figure_name(summary), "-log p, nats"), strict=True
    ):
        ratio = [row["noise to signal"] for row in levels]
        errors = [0.0 if math.isnan(row[f"{name} error"]) else row[f"{name} error"] for row in levels]
        axes.errorbar(ratio, [row[name] for row in levels], yerr=errors, fmt="o-", markersize=3, capsize=2)
        axes.axhline(prior[name], color="0.4", linestyle="--", label="without x_t")
        axes.set_xscale("log")
        axes.set_xlabel("noise / signal, sigma / alpha")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return png(picture, tight=False)


def _one(title: str, summary: dict[str, Any]) -> str:
    prior, name = summary["without x_t"], figure_name(summary)
    return (
        figure(
            prediction_picture(summary),
            f"{summary['model']} of {summary['target']}: {summary['events']} {summary['split']} events, weights "
            f"{summary['weights']}, bars: one standard error on each side",
            "wide",
        )
        + table(f"predictions-{title}", figure_head(summary), figure_rows(summary), numbers=tuple(range(6)))
        + note(
            f"The noise levels are equally spaced in the distribution of the training times. Without x_t, from the training "
            f"targets alone: {name} {prior[name]:.4f}, {prior['nll']:.4f} nats. Mean over the levels: {summary['mean nll']:.4f} "
            f"nats. Data digest {summary['data digest']}, {summary['checkpoint']}, seed {summary['seed']}."
        )
    )
