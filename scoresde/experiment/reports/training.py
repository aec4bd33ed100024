"""The report's section on training: progress, curves, and samples during training.

Files may be incomplete or missing.
"""

from __future__ import annotations

import html
import io
import math
import re
from pathlib import Path

import numpy as np

from scoresde._files import NO_ARRAY, bytes_digest, read_plain
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, newer_damaged
from scoresde.experiment.folder.plots import curve_picture, is_png
from scoresde.experiment.folder.shown_events import PICTURE
from scoresde.experiment.folder.tensor_file import CheckpointError
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.reports.html import figure, note, problem_note, shown_figure
from scoresde.experiment.training.metrics_log import rows_digest, whole_rows

_PREVIEW = re.compile(r"step-(\d+)-(\w+)\.(png|txt)")
PREVIEWS = 6
"""Number of previews in a row, including the first and the last."""
_TITLES = {
    "loss": "loss, mean since the previous point",
    "grad_norm": "norm of the gradient before clipping",
    "learning_rate": "learning rate",
    "images_per_second": "training events per second",
    "ema_distance": "relative distance between the weights and their average",
    "memory_mib": "peak memory, MiB",
    "skipped": "skipped steps so far",
}

Metrics = dict[str, list[float]]
"""Columns of metrics.csv, all as long as ``step``."""


def read_metrics(file: Path) -> Metrics:
    """The columns of metrics.csv. Cells that are not numbers are NaN; incomplete lines are left out."""
    head, rows = whole_rows(file)
    return {name: [_number(row[name]) for row in rows] for name in head} if rows else {}


def progress(experiment: Experiment, workdir: Workdir, metrics: Metrics) -> str:
    """The progress of training, and the last checkpoint."""
    steps = experiment.training.steps
    parts, files = [], list_checkpoints(workdir.checkpoints)
    at = int(metrics["step"][-1]) if metrics else 0
    try:
        last = last_checkpoint(workdir.checkpoints)
    except CheckpointError as problem:
        last = None
        parts.append(problem_note(f"No checkpoint can be read: {problem}"))
    if last is not None:
        at = max(at, last.step)
        damaged = newer_damaged(last)
        if damaged:
            parts.append(problem_note(f"Damaged and skipped: {', '.join(damaged)}"))
        if last.facts.get("metrics", "") not in ("", rows_digest(workdir.metrics_file, last.step)):
            parts.append(
                problem_note(f"metrics.csv has changed since {last.path.name} was written: curves may be wrong.")
            )
        status = f"last checkpoint {last.path.name}"
    else:
        status = "no checkpoint yet" if not files else "no checkpoint"
    line = f"step {at:,} of {steps:,}, {status}"
    return f"<p><progress max='{steps}' value='{min(at, steps)}'></progress> {html.escape(line)}</p>{''.join(parts)}"


def training_section(experiment: Experiment, workdir: Workdir, metrics: Metrics) -> str:
    """Curves and previews."""
    parts = ["<h2>Training</h2>"]
    if not metrics:
        parts.append(problem_note("No step is logged yet: run scoresde train."))
    bad = sorted((workdir.path / "bad_batches").glob("*.safetensors"))
    if bad:
        parts.append(
            problem_note(f"Batches with a loss or gradient that is not finite: {len(bad)}, saved in bad_batches/.")
        )
    return "".join([*parts, *_curves(experiment, metrics), _previews(workdir.path / "previews")])


def speed(experiment: Experiment, metrics: Metrics) -> list[float]:
    """Training events per second between two rows. NaN if the clock was reset between them."""
    steps, seconds = metrics["step"], metrics.get("seconds", [math.nan] * len(metrics["step"]))
    found = []
    for k in range(len(steps)):
        before = (steps[k - 1], seconds[k - 1]) if k else (0.0, 0.0)
        took = seconds[k] - before[1]
        found.append((steps[k] - before[0]) * experiment.training.batch_size / took if took > 0 else math.nan)
    return found


def _curves(experiment: Experiment, metrics: Metrics) -> list[str]:
    if not metrics:
        return []
    columns = {name: values for name, values in metrics.items() if name not in ("step", "seconds")}
    columns.setdefault("images_per_second", speed(experiment, metrics))
    by_time = {name: columns.pop(name) for name in list(columns) if re.fullmatch(r"loss_t\d+", name)}
    order = sorted(columns, key=lambda name: list(_TITLES).index(name) if name in _TITLES else len(_TITLES))
    shown = [(_TITLES.get(name, name), {name: columns[name]}) for name in order]
    if by_time:
        shown.insert(1, (f"loss by t, in {len(by_time)} intervals of equal probability, small t first", by_time))
    found = []
    for title, lines in shown:
        if any(math.isfinite(value) and value for values in lines.values() for value in values):
            found.append(figure(curve_picture(metrics["step"], lines), title, "half"))
    return found


def _previews(folder: Path) -> str:
    rows: dict[str, list[tuple[int, Path]]] = {}
    for file in folder.glob("step-*"):
        if named := _PREVIEW.fullmatch(file.name):
            rows.setdefault(named[2], []).append((int(named[1]), file))
    parts = []
    for kind, files in sorted(rows.items()):
        files.sort()
        chosen = sorted({round(k * (len(files) - 1) / (PREVIEWS - 1)) for k in range(PREVIEWS)})
        figures = "".join(_preview(*files[k]) for k in chosen)
        weights = {"ema": "averaged weights", "raw": "weights without averaging"}.get(kind, kind)
        parts.append(f"<h3>Samples during training, {html.escape(weights)}</h3>{figures}")
        if len(files) > len(chosen):
            parts.append(note(f"{len(chosen)} of {len(files)} {_what(files[-1][1])}s in previews/"))
    return "".join(parts)


def _preview(step: int, file: Path) -> str:
    try:
        content = read_plain(file)
    except (OSError, ValueError) as problem:
        return problem_note(str(problem))
    if file.suffix == PICTURE and not is_png(content):
        return problem_note(f"{file.name} is not a complete picture")
    if _written_as(file.with_suffix(".npz")) not in ("", bytes_digest(content)):
        return problem_note(f"{file.name} is not the {_what(file)} of its .npz file")
    return shown_figure(file.suffix, content, f"step {step:,}")


def _what(file: Path) -> str:
    return "picture" if file.suffix == PICTURE else "text"


def _written_as(numbers: Path) -> str:
    """The digest of the picture that was saved with a preview's numbers. An empty string if it is not known."""
    try:
        with np.load(io.BytesIO(read_plain(numbers)), allow_pickle=False) as found:
            return str(found["picture"])
    except (*NO_ARRAY, KeyError):
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
