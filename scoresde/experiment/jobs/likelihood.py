"""The likelihood of a whole data set, batch by batch, by one process or several, which can be stopped and resumed at any time.

The batches are a function of the config: draw 0 of all events, then draw 1, and so on, in numbered batches of
``batch_size`` events. Finished rows are not computed again, and the missing rows of a batch are computed together. A
run that was killed continues with the remaining batches, and its rows have the same bits as those of an uninterrupted
run. Another batch size or number of processes changes rounding only. (`ScipyODE` controls the error of a whole batch:
its results change within its tolerance.)

``job.py`` describes how processes share the batches.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._files import bytes_digest, read_sealed, write_sealed
from scoresde.data import Dataset
from scoresde.data.dataset import permutation
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import Solver
from scoresde.experiment.config.targets import as_score
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, config_digest, provenance
from scoresde.experiment.jobs.job import Job, Progress, local_device, run_job
from scoresde.experiment.results.likelihood_rows import Batch, Key, Row, RowStore, write_table
from scoresde.experiment.results.likelihood_summary import BIAS_EVENTS, biases, event_means, statistics
from scoresde.experiment.results.simple_baseline import baseline_facts, codec_facts
from scoresde.likelihood import (
    FlowGrid,
    Multistep,
    bits_per_dim,
    bits_per_dim_error,
    fit_grid,
    log_likelihood,
)
from scoresde.likelihood.flow import default_solver
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import LinearSDE
from scoresde.solvers import SolverError
from scoresde.version import __version__


def _summary(solver: object) -> str:
    """The solver in one line, without the table of its grid."""
    return str(getattr(solver, "summary", None) or repr(solver))


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
        ConfigError: If the model is not a score.
        WorkdirError: If another likelihood job is running in the folder.
        WorkerError: If a local process died.
        SolverError: If all rows failed.
    """
    as_score(experiment.model)
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

    model: ScoreModel
    checkpoint: Checkpoint
    data: Dataset
    solver: Solver
    store: RowStore

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> LikelihoodJob:
        device = local_device(experiment, local)
        config, data = experiment.likelihood, getattr(experiment.data, experiment.likelihood.split)
        weights = weights_name(config.weights)
        loaded, checkpoint = workdir.model(replace(experiment, device=device), weights)
        model, digest = as_score(loaded), checkpoint.digest
        solver, grid = config.solver or default_solver(model.sde, config.tolerance), "none"
        if isinstance(solver, Multistep):
            if solver.grid is None and config.grid_events:
                solver = replace(solver, grid=fitted_grid(experiment, workdir, model, digest, device))
            if solver.grid is not None:
                grid = hashlib.sha256(solver.grid.to_json().encode()).hexdigest()[:16]
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": digest,
            "weights": weights, "split": config.split, "data digest": data.digest(), "transform": repr(data.transform),
            "solver": _summary(solver), "grid digest": grid, "divergence": repr(config.divergence),
            "t_min": config.t_min, "seed": config.seed,
        }  # fmt: skip
        if data.kinds:
            settings["condition"] = config.condition
        return cls(experiment, workdir, device, model, checkpoint, data, solver, RowStore(workdir.likelihood, settings))

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
            found = log_likelihood(
                self.model.sde, self.model, x, solver=self.solver, divergence=config.divergence, t_min=config.t_min, noise=noise,
                condition=event_conditions(self.experiment, self.data, index, self.device),
            )  # fmt: skip
        except SolverError:
            if len(index) > 1:
                return [row for one in index.split(1) for row in self.rows(draw, one)]
            lost = math.nan
            return [Row(int(index), draw, lost, lost, lost, lost, lost, 0, 0, config.seed, 1)]
        shape, transform = self.data.event_shape, self.data.transform
        discrete = transform.discrete
        errors = (found.standard_error, found.trace_error, found.solver_error)
        columns = (
            found.log_prob,
            bits_per_dim(found.log_prob, shape, transform) if discrete else torch.full_like(found.log_prob, math.nan),
            *(bits_per_dim_error(error, shape) if discrete else error for error in errors),
        )
        failed = (found.failed | ~torch.isfinite(found.log_prob)).tolist()
        figures = torch.stack([column.double().cpu() for column in columns], 1).tolist()
        return [
            Row(i, draw, nats, bits, error, trace, solver, found.nfe, found.vjps, config.seed, int(bad))
            for i, (nats, bits, error, trace, solver), bad in zip(index.tolist(), figures, failed, strict=True)
        ]

    def announce(self, parts: Sequence[Part]) -> None:
        """Log what will be done, and what changed if there are only rows of other settings."""
        total, rows = self.count * self.experiment.likelihood.draws, sum(part.size for part in parts)
        others = [s for s in self.store.others() if s["split"] == self.store.settings["split"]]
        line = (
            f"{self.workdir.path}: likelihood: computing {rows} of {total} rows, by {_summary(self.solver)}, "
            f"{self.checkpoint.describe(self.store.settings['weights'])}"
        )
        if others and not self.store.path.exists():
            line += f"; existing rows have other settings and are not used. Changes: {changes(others[-1], self.store.settings)}"
        self.workdir.log(line)

    def finish(self, processes: int) -> dict[str, Any]:
        """Write the table and the summary. Raises SolverError if all rows failed."""
        config, folder = self.experiment.likelihood, self.workdir.likelihood
        title, done = titled(config.split, self.store.settings["weights"]), self.store.read()
        keys: list[Key] = [(i, part.draw) for part in self.all_parts() for i in part.index]
        rows = [done[key][0] for key in keys]
        batches = {id(batch): batch for _, batch in (done[key] for key in keys)}.values()
        write_table(folder / f"{title}.csv", rows)
        failed = sum(row.failed for row in rows)
        if failed == len(rows):
            raise SolverError(f"all {failed} rows failed, so there is no mean: see {title}.csv in {folder}")
        bounds = ["uniform dequantization"] if self.data.transform.dequantized else []
        if self.model.sde.state_shape(self.data.event_shape) != self.data.event_shape:
            bounds.append("sampled auxiliary variables of the state")
        volume = self.data.transform.log_volume(prod(self.data.event_shape))
        summary = {
            **statistics(rows, self.data.transform.discrete, volume),
            "unit": "bits/dim" if self.data.transform.discrete else "nats",
            "bound by": bounds,
            "events": self.count, "draws": config.draws, "rows": len(rows), "failed": failed,
            "known biases": biases(
                self.model, self.data, count=min(BIAS_EVENTS, self.count), t_min=config.t_min, seed=config.seed,
                device=self.device, batch_size=config.batch_size, conditional=config.condition == "data",
            ),
            **self.store.settings, **provenance(),
            "probes": config.divergence.products or "exact",
            "tolerance": getattr(self.solver, "tolerance", getattr(self.solver, "rtol", None)),
            "data": self.data.name, "event shape": list(self.data.event_shape), "process": repr(self.model.sde),
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
    return f"{value:.4f} +- {error} {unit} on {summary['events']} {summary['split']} events{given}"


def event_conditions(experiment: Experiment, data: Dataset, index: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The conditions of events, without those that ``likelihood.condition`` ignores."""
    if experiment.likelihood.condition == "ignore":
        return {}
    return {name: rows.to(device) for name, rows in data.conditions(index).items()}


def fitted_grid(
    experiment: Experiment, workdir: Workdir, model: ScoreModel, digest: str, device: torch.device
) -> FlowGrid:
    """Fit a time grid to training events and save it with the checkpoint.

    Every process and every restart then uses the same grid.

    At most ``limit`` events are used, so that a test with a few events is fast. A later run with a larger limit uses
    the same grid and the same rows. A file of other settings, or one that cannot be read, is replaced.
    """
    config, train = experiment.likelihood, experiment.data.train
    count, weights = (
        min(config.grid_events, config.limit or config.grid_events, len(train)),
        weights_name(config.weights),
    )
    file = workdir.checkpoints / f"grid-{titled(digest, weights)}-{config.t_min:g}.json"
    head = {
        "scoresde": __version__, "checkpoint digest": digest, "weights": weights, "t_min": config.t_min,
        "data digest": train.digest(), "grid_events": config.grid_events,
    }  # fmt: skip
    if train.kinds:
        head["condition"] = config.condition
    with workdir.lock("grid", wait=True):
        if file.exists():
            try:
                content = read_sealed(file)
                if content["for"] == head:
                    return FlowGrid.from_json(content["grid"])
                problem = "has other settings"
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as found:
                problem = f"cannot be read ({type(found).__name__}: {found})"
            workdir.log(f"{workdir.path}: {file.name} {problem} and is fitted again")
        workdir.log(f"{workdir.path}: fitting the time grid to {count} training events, once for this checkpoint")
        started = time.perf_counter()
        index = permutation(len(train), 0, 0)[:count]
        x = train.encode(index, seed=0).to(device)
        score = model.given(**event_conditions(experiment, train, index, device))
        assert isinstance(model.sde, LinearSDE)  # a Multistep supports no other process
        grid = fit_grid(model.sde, score, x, t_min=config.t_min)
        write_sealed(file, {"for": head, "events": count, "grid": grid.to_json()})
        workdir.log(
            f"{workdir.path}: time grid fitted to {count} training events, {time.perf_counter() - started:.1f} s"
        )
        return grid
