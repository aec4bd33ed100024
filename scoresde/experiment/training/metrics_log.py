"""The table of a run's metrics, metrics.csv. ``run_loggers.py`` passes its rows to other loggers.

step, loss, grad_norm, learning_rate     means since the last row, or since the run was resumed
seconds                                  of training so far
images_per_second                        events, over all processes
ema_distance                             ||weights - average|| / ||weights||
memory_mib                               largest memory, of the GPU or of the process
skipped                                  steps without an update so far
loss_t1 ... loss_t8                      loss by eighths of the time distribution, small t first; nan without a sample
loss_NAME, grad_norm_NAME                loss and norm of the gradient of objectives.NAME, nan without an update
"""

from __future__ import annotations

import csv
import io
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from scoresde._files import bytes_digest, write_atomic, writing
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import learning_rate
from scoresde.experiment.config.trained import MAIN
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.training.trainer import BUCKETS, Step, Trainer

COLUMNS = (
    "step", "loss", "grad_norm", "learning_rate", "seconds", "images_per_second", "ema_distance", "memory_mib", "skipped",
    *(f"loss_t{k}" for k in range(1, BUCKETS + 1)),
)  # fmt: skip

Row = dict[str, float]


def columns(experiment: Experiment) -> tuple[str, ...]:
    """The columns of an experiment's metrics: `COLUMNS`, and two for each objective of the section ``objectives``."""
    return (*COLUMNS, *(f"{kind}_{name}" for name in _others(experiment) for kind in ("loss", "grad_norm")))


def _others(experiment: Experiment) -> list[str]:
    """The names of the objectives other than the first."""
    return [name for name in experiment.objectives if name != MAIN]


class Meter:
    """Collects steps and computes rows from them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._clear()

    def add(self, result: Step) -> None:
        """Add a step. A skipped step counts only for the speed."""
        self._steps += 1
        if not result.skipped:
            for name, one in result.losses.items():
                self._sums[name] += one.sums
                self._counts[name] += one.counts
                self._norms[name].append(one.norm)

    def row(self) -> Row:
        """The row of the steps since the last one. A mean without steps is NaN."""
        trainer, events = self.trainer, self._steps * self.trainer.config.batch_size
        row = {
            "step": trainer.step,
            "loss": self._loss(MAIN),
            "grad_norm": self._norm(MAIN),
            "learning_rate": learning_rate(trainer.config, trainer.step - 1),
            "seconds": round(trainer.seconds, 3),
            "images_per_second": round(_ratio(events, trainer.seconds - self._since), 2),
            "ema_distance": trainer.averages[0].distance(trainer.trained),
            "memory_mib": round(peak_memory(trainer.group.device) / 2**20, 1),
            "skipped": trainer.skipped,
        }
        by_time = zip(self._sums[MAIN].tolist(), self._counts[MAIN].tolist(), strict=True)
        row |= {f"loss_t{k}": _ratio(total, count) for k, (total, count) in enumerate(by_time, start=1)}
        for name in _others(trainer.experiment):
            row |= {f"loss_{name}": self._loss(name), f"grad_norm_{name}": self._norm(name)}
        self._clear()
        return row

    def _clear(self) -> None:
        names = list(self.trainer.experiment.objectives)
        self._sums, self._counts = (
            {name: torch.zeros(BUCKETS, dtype=torch.float64) for name in names} for _ in range(2)
        )
        self._norms: dict[str, list[float]] = {name: [] for name in names}
        self._steps, self._since = 0, self.trainer.seconds

    def _loss(self, name: str) -> float:
        return _ratio(float(self._sums[name].sum()), float(self._counts[name].sum()))

    def _norm(self, name: str) -> float:
        return _ratio(math.fsum(self._norms[name]), len(self._norms[name]))


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes that this process has allocated, on the GPU if it computes on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def whole_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header of a table of metrics, and its complete rows.

    Lines without an end, with another number of cells than the header, or whose step is not a number, are dropped. They
    are left by a power cut, a full disk or an editor. A missing file is an empty table.
    """
    text = file.read_text(errors="replace").replace("\0", "") if file.exists() else ""
    head, *lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    rows = [dict(zip(head, line, strict=True)) for line in lines if len(line) == len(head)]
    return head, [row for row in rows if row.get("step", "").isdecimal()]


def rows_digest(file: Path, step: int) -> str:
    """The SHA-256 of the rows up to ``step``.

    The header of a checkpoint contains it, so that the report detects a changed row.
    """
    rows = [row for row in whole_rows(file)[1] if int(row["step"]) <= step]
    names = [*COLUMNS, *(name for name in (rows[0] if rows else ()) if name not in COLUMNS)]
    return bytes_digest(repr([[row.get(name, "nan") for name in names] for row in rows]).encode())


@contextmanager
def metrics_writer(workdir: Workdir, step: int, names: Sequence[str] = COLUMNS) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row with the columns ``names``.

    The row is on the disk when the function returns, so before the checkpoint of its step.

    Rows after ``step`` are dropped, because these steps are run again.
    """
    rows = [row for row in whole_rows(workdir.metrics_file)[1] if int(row["step"]) <= step]
    text = io.StringIO()
    before = csv.DictWriter(text, names, restval="nan", extrasaction="ignore")
    before.writeheader()
    before.writerows(rows)
    write_atomic(workdir.metrics_file, text.getvalue().encode())
    with open(workdir.metrics_file, "a", newline="") as file:
        writer = csv.DictWriter(file, names)

        def write(row: Row) -> None:
            with writing(workdir.metrics_file):
                writer.writerow(row)
                file.flush()
                os.fsync(file.fileno())

        yield write


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
