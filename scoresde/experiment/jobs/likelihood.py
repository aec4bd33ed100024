"""The likelihood of a whole data set, batch by batch, by one process or several, which can be stopped and resumed at any time.

The batches are a function of the config: draw 0 of all events, then draw 1, and so on, in numbered batches of
``batch_size`` events. Finished rows are not computed again, and the missing rows of a batch are computed together. A
run that was killed continues with the remaining batches, and its rows have the same bits as those of an uninterrupted
run. Another batch size or number of processes changes rounding only. (`ScipyODE` controls the error of a whole batch:
its results change within its tolerance.)

``job.py`` describes how processes share the batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._files import bytes_digest, write_sealed
from scoresde.data import Dataset
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import process_of
from scoresde.experiment.config.targets import as_sampled
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, config_digest, provenance
from scoresde.experiment.jobs.fits import event_conditions
from scoresde.experiment.jobs.job import Job, Progress, local_device, run_job
from scoresde.experiment.jobs.likelihood_methods import Method, choose_method
from scoresde.experiment.results.likelihood_rows import Batch, Key, Row, RowStore, write_table
from scoresde.experiment.results.likelihood_summary import event_means, statistics
from scoresde.experiment.results.simple_baseline import baseline_facts, codec_facts
from scoresde.experiment.results.text_facts import describe_text, text_facts
from scoresde.likelihood import bits_per_dim, bits_per_dim_error
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde.base import check_gaussian
from scoresde.solvers import SolverError
from scoresde.version import __version__


def likelihood(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, Any] | None:
    """Compute the log-likelihood of a split with the weights of ``likelihood.weights``.

    The folder likelihood/ gets a table with a row for each event and draw, and a summary.

    Args:
        experiment: The experiment.
        workdir: The work folder of the trained model.
        processes: Number of local processes that share the work.

    Returns:
        The summary. None in a launcher's process that is not the last to finish.

    Raises:
        ConfigError: If the model has no likelihood.
        TypeError: If the noise of the process is not Gaussian.
        WorkdirError: If another likelihood job is running in the folder.
        WorkerError: If a local process died.
        SolverError: If all rows failed.
    """
    if isinstance(as_sampled(experiment.model), ScoreModel):
        check_gaussian(experiment.sde, "the likelihood")
    out: dict[str, Any] | None = run_job(LikelihoodJob, experiment, workdir, processes)
    return out


@dataclass(frozen=True)
class Part:
    """Events of one draw that are computed together. ``number`` is that of the batch."""

    number: int
    draw: int
    index: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of events."""
        return len(self.index)


@dataclass(frozen=True)
class LikelihoodJob(Job):
    """Everything that is needed to compute rows."""

    kind: ClassVar[str] = "likelihood"
    unit: ClassVar[str] = "row"

    method: Method
    checkpoint: Checkpoint
    data: Dataset
    store: RowStore

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> LikelihoodJob:
        device = local_device(experiment, local)
        config, data = experiment.likelihood, getattr(experiment.data, experiment.likelihood.split)
        weights = weights_name(config.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        method = choose_method(experiment, workdir, model, data, checkpoint.digest, device)
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": checkpoint.digest,
            "weights": weights, "split": config.split, "data digest": data.digest(), "transform": repr(data.transform),
            "t_min": config.t_min, "seed": config.seed, **method.settings,
        }  # fmt: skip
        if data.kinds:
            settings["condition"] = config.condition
        return cls(experiment, workdir, device, method, checkpoint, data, RowStore(workdir.likelihood, settings))

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def count(self) -> int:
        """Number of events."""
        limit = self.experiment.likelihood.limit
        return min(limit, len(self.data)) if limit else len(self.data)

    def all_parts(self) -> list[Part]:
        """All batches."""
        config, starts = self.experiment.likelihood, range(0, self.count, self.experiment.likelihood.batch_size)
        firsts = [(draw, first) for draw in range(config.draws) for first in starts]
        return [
            Part(number, draw, tuple(range(first, min(first + config.batch_size, self.count))))
            for number, (draw, first) in enumerate(firsts)
        ]

    def remaining(self) -> list[Part]:
        """The batches that are not done, without finished rows."""
        done = self.store.read()
        parts = [replace(p, index=tuple(i for i in p.index if (i, p.draw) not in done)) for p in self.all_parts()]
        return [part for part in parts if part.index]

    def work(self, parts: Sequence[Part], progress: Progress) -> None:
        try:
            for part in parts:
                started = time.perf_counter()
                found = self.rows(part.draw, torch.tensor(part.index))
                self.store.append(Batch(tuple(found), time.perf_counter() - started, str(self.device)))
                progress(len(found))
        finally:
            self.store.close()

    def rows(self, draw: int, index: Tensor) -> list[Row]:
        """The rows of events ``index`` (B,).

        If the solver fails for the batch, each event is computed alone and may fail.
        """
        config = self.experiment.likelihood
        x = self.data.encode(index, seed=config.seed, draw=draw).to(self.device)
        # probes are keyed by event and draw, like the dequantization
        noise = NoiseSource(config.seed, index.to(self.device)).again(draw)
        try:
            found = self.method.compute(x, noise, event_conditions(self.experiment, self.data, index, self.device))
        except SolverError:
            if len(index) > 1:
                return [row for one in index.split(1) for row in self.rows(draw, one)]
            nothing = math.nan
            return [Row(int(index), draw, nothing, nothing, nothing, nothing, nothing, 0, 0, config.seed, 1)]
        shape, transform = self.data.event_shape, self.data.transform
        discrete = transform.discrete
        errors = (found.standard_error, found.draws_error, found.solver_error)
        columns = (
            found.log_prob,
            bits_per_dim(found.log_prob, shape, transform) if discrete else torch.full_like(found.log_prob, math.nan),
            *(bits_per_dim_error(error, shape) if discrete else error for error in errors),
        )
        figures = torch.stack([column.double().cpu() for column in columns], 1).tolist()
        failed = found.failed.tolist()
        return [
            Row(i, draw, nats, bits, error, part, solver, found.nfe, found.products, config.seed, int(bad))
            for i, (nats, bits, error, part, solver), bad in zip(index.tolist(), figures, failed, strict=True)
        ]

    @property
    def title(self) -> str:
        """The name of the table and the summary."""
        return titled(f"{self.experiment.likelihood.split}{self.method.suffix}", self.store.settings["weights"])

    def announce(self, parts: Sequence[Part]) -> None:
        """Log what will be done, and what changed if there are only rows of other settings."""
        total, rows = self.count * self.experiment.likelihood.draws, sum(part.size for part in parts)
        others = [s for s in self.store.others() if s["split"] == self.store.settings["split"]]
        line = (
            f"{self.workdir.path}: likelihood: computing {rows} of {total} rows, by {self.method.text}, "
            f"{self.checkpoint.describe(self.store.settings['weights'])}"
        )
        if others and not self.store.path.exists():
            line += f"; existing rows have other settings and are not used. Changes: {changes(others[-1], self.store.settings)}"
        self.workdir.log(line)

    def finish(self, processes: int) -> dict[str, Any]:
        """Write the table and the summary. Raises SolverError if all rows failed."""
        config, folder = self.experiment.likelihood, self.workdir.likelihood
        title, done = self.title, self.store.read()
        keys: list[Key] = [(i, part.draw) for part in self.all_parts() for i in part.index]
        rows = [done[key][0] for key in keys]
        batches = {id(batch): batch for _, batch in (done[key] for key in keys)}.values()
        write_table(folder / f"{title}.csv", rows)
        failed = sum(row.failed for row in rows)
        if failed == len(rows):
            raise SolverError(f"all {failed} rows failed, so there is no mean: see {title}.csv in {folder}")
        bounds = ["uniform dequantization"] if self.data.transform.dequantized else []
        volume = self.data.transform.log_volume(prod(self.data.event_shape))
        facts = statistics(
            rows, self.data.transform.discrete, volume, self.method.known, dequantized=self.method.dequantizes
        )
        summary = {
            **facts,
            "unit": "bits/dim" if self.data.transform.discrete else "nats",
            "bound by": [*bounds, *self.method.bounds(self.data)],
            "events": self.count, "draws": config.draws, "rows": len(rows), "failed": failed,
            "known biases": self.method.biases(self.data, self.count, self.device),
            **self.store.settings, **provenance(),
            "probes": self.method.probes, "tolerance": self.method.tolerance, "data": self.data.name,
            "event shape": list(self.data.event_shape), "process": repr(process_of(self.method.model)),
            "mean nfe": sum(row.evaluations for row in rows) / len(rows),
            "mean products": sum(row.products for row in rows) / len(rows),
            "batch size": config.batch_size, "processes": processes,
            "seconds": round(sum(batch.seconds for batch in batches), 2),
            "devices": sorted({batch.device for batch in batches}),
            "checkpoint": self.checkpoint.path.name, "step": self.checkpoint.step,
            "rows in": self.store.path.name, "table digest": bytes_digest((folder / f"{title}.csv").read_bytes()),
        }  # fmt: skip
        events = event_means(rows, self.data.transform.discrete, volume)
        baseline = baseline_facts(self.experiment.data.train, self.data, self.count, config.seed, events)
        summary["baseline"], summary["codecs"] = baseline, codec_facts(self.data, self.count)
        summary["text"] = text_facts(self.experiment.data.train, self.data, self.count, events)
        write_sealed(folder / f"{title}.json", summary)
        if failed:
            self.workdir.log(
                f"{self.workdir.path}: WARNING: {failed} of {len(rows)} rows FAILED and are not in the mean"
            )
        if codecs := summary["codecs"]:
            figures = "; ".join(f"{one['name']} {one['value']:.3f}" for one in codecs["figures"])
            self.workdir.log(
                f"{self.workdir.path}: the first {codecs['images']} images in lossless files, bits/dim: {figures}"
            )
        if text := summary["text"]:
            self.workdir.log(f"{self.workdir.path}: {describe_text(text)}")
        if baseline is not None and baseline["worse"]:
            self.workdir.log(f"{self.workdir.path}: WARNING: {baseline['worse']}")
        self.workdir.log(
            f"{self.workdir.path}: {describe(summary)}, {summary['mean nfe']:.0f} evaluations, {summary['seconds']:.1f} s"
        )
        return summary


def describe(summary: dict[str, Any]) -> str:
    """One line with the result, its standard error and its unit."""
    discrete = summary["unit"] == "bits/dim"
    names = ("bits_per_dim", "standard_error") if discrete else ("nats_of_data", "nats_error")
    value, error = (summary[name] for name in names)
    error = "unknown" if error is None else f"{error:.4f}"
    unit = "bits/dim" if discrete else "nats, log-density of the original data,"
    given = {"data": " given their conditions", "ignore": " without their conditions"}.get(
        summary.get("condition", ""), ""
    )
    bound = "" if "method" not in summary else f", a bound by {summary['bound by'][-1]}: {summary['solver']}"
    return f"{value:.4f} +- {error} {unit} on {summary['events']} {summary['split']} events{given}{bound}"
