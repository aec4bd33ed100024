"""The likelihood of a whole data set: batch by batch, by one process or several, stopped at any time and gone on with.

The plan is a function of the config: draw 0 of all events, then draw 1, ..., in numbered batches of ``batch_size``. What is there
already is not computed again, and what is missing of a batch is computed together: a run that was killed goes on with the batches
that it would have made, and its rows are those of an unbroken one to the last bit. Another batch size or number of processes
changes rounding only (a `ScipyODE` holds its tolerance by the batch: there it changes what the tolerance allows).

How processes share the batches: sharing.py.
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
from scoresde.experiment.config.experiment import Experiment, Solver
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, config_digest
from scoresde.experiment.jobs.job import Job, Progress, local_device, run_job
from scoresde.experiment.results.likelihood_rows import Batch, Key, Row, RowStore, write_table
from scoresde.experiment.results.likelihood_summary import BIAS_EVENTS, biases, statistics
from scoresde.likelihood import (
    DEFAULT_TOLERANCE,
    FlowGrid,
    Multistep,
    bits_per_dim,
    bits_per_dim_error,
    fit_grid,
    log_likelihood,
)
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.solvers import SolverError
from scoresde.version import __version__


def _summary(solver: object) -> str:
    """The solver in one line, without the table of its grid."""
    return str(getattr(solver, "summary", None) or repr(solver))


def likelihood(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, Any] | None:
    """Log-likelihood of a split with the weights of ``likelihood.weights``: a row for each event and draw, and a summary, in
    likelihood/.

    processes: local processes that share the work.

    Returns the summary; None in a launcher's process that is not the last to finish. Raises WorkdirError where another likelihood
    is at work in the folder, WorkerError where a local process died, SolverError where no row has a number.
    """
    out: dict[str, Any] | None = run_job(LikelihoodJob, experiment, workdir, processes)
    return out


@dataclass(frozen=True)
class Part:
    """Events of one draw that are computed together. number: of the batch in the plan."""

    number: int
    draw: int
    index: tuple[int, ...]

    @property
    def size(self) -> int:
        """Events in it."""
        return len(self.index)


@dataclass(frozen=True)
class LikelihoodJob(Job):
    """All that is needed to compute rows."""

    kind: ClassVar[str] = "likelihood"
    unit: ClassVar[str] = "row"

    model: ScoreModel
    checkpoint: Checkpoint
    data: Dataset
    solver: Solver
    store: RowStore

    @classmethod
    def of(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> LikelihoodJob:
        device = local_device(experiment, local)
        plan, data = experiment.likelihood, getattr(experiment.data, experiment.likelihood.split)
        weights = weights_name(plan.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        digest = checkpoint.digest
        solver, grid = plan.solver or Multistep(tolerance=plan.tolerance or DEFAULT_TOLERANCE), "none"
        if isinstance(solver, Multistep):
            if solver.grid is None and plan.grid_events:
                solver = replace(solver, grid=fitted_grid(experiment, workdir, model, digest, device))
            if solver.grid is not None:
                grid = hashlib.sha256(solver.grid.to_json().encode()).hexdigest()[:16]
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": digest,
            "weights": weights, "split": plan.split, "data digest": data.digest(), "transform": repr(data.transform),
            "solver": _summary(solver), "grid digest": grid, "divergence": repr(plan.divergence),
            "t_min": plan.t_min, "seed": plan.seed,
        }  # fmt: skip
        return cls(experiment, workdir, device, model, checkpoint, data, solver, RowStore(workdir.likelihood, settings))

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def count(self) -> int:
        """Events whose likelihood is to be computed."""
        limit = self.experiment.likelihood.limit
        return min(limit, len(self.data)) if limit else len(self.data)

    def plan(self) -> list[Part]:
        """All batches."""
        plan, starts = self.experiment.likelihood, range(0, self.count, self.experiment.likelihood.batch_size)
        firsts = [(draw, first) for draw in range(plan.draws) for first in starts]
        return [
            Part(number, draw, tuple(range(first, min(first + plan.batch_size, self.count))))
            for number, (draw, first) in enumerate(firsts)
        ]

    def left(self) -> list[Part]:
        """The batches that are not done, without the rows that are."""
        done = self.store.read()
        parts = [replace(p, index=tuple(i for i in p.index if (i, p.draw) not in done)) for p in self.plan()]
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
        """The rows of events ``index`` (B,). Where the solver gives the batch up, each event is tried alone, and may fail."""
        plan = self.experiment.likelihood
        x = self.data.encode(index, seed=plan.seed, draw=draw).to(self.device)
        # probes are keyed like the dequantisation, by event; each draw has its own
        noise = NoiseSource(plan.seed, index.to(self.device)).again(draw)
        try:
            found = log_likelihood(
                self.model.sde, self.model, x, solver=self.solver, divergence=plan.divergence, t_min=plan.t_min, noise=noise
            )  # fmt: skip
        except SolverError:
            if len(index) > 1:
                return [row for one in index.split(1) for row in self.rows(draw, one)]
            lost = math.nan
            return [Row(int(index), draw, lost, lost, lost, lost, lost, 0, 0, plan.seed, 1)]
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
            Row(i, draw, nats, bits, error, trace, solver, found.nfe, found.vjps, plan.seed, int(bad))
            for i, (nats, bits, error, trace, solver), bad in zip(index.tolist(), figures, failed, strict=True)
        ]

    def announce(self, parts: Sequence[Part]) -> None:
        """Say what will be done, and why it starts anew where there are rows of other settings only."""
        total, rows = self.count * self.experiment.likelihood.draws, sum(part.size for part in parts)
        others = [s for s in self.store.others() if s["split"] == self.store.settings["split"]]
        line = (
            f"{self.workdir.path}: likelihood of {total} rows, {rows} of them to compute here, by {_summary(self.solver)}, "
            f"{self.checkpoint.said(self.store.settings['weights'])}"
        )
        if others and not self.store.path.exists():
            line += (
                f"; rows of other settings are not used, this starts anew. {changes(others[-1], self.store.settings)}"
            )
        self.workdir.log(line)

    def finish(self, processes: int) -> dict[str, Any]:
        """The table and the summary, of rows that are all there. Raises SolverError where all of them failed."""
        plan, folder = self.experiment.likelihood, self.workdir.likelihood
        title, done = titled(plan.split, self.store.settings["weights"]), self.store.read()
        keys: list[Key] = [(i, part.draw) for part in self.plan() for i in part.index]
        rows = [done[key][0] for key in keys]
        batches = {id(batch): batch for _, batch in (done[key] for key in keys)}.values()
        write_table(folder / f"{title}.csv", rows)
        failed = sum(row.failed for row in rows)
        if failed == len(rows):
            raise SolverError(f"all {failed} rows failed, there is no mean: see {title}.csv in {folder}")
        bounds = ["uniform dequantisation"] if self.data.transform.discrete else []
        if self.model.sde.state_shape(self.data.event_shape) != self.data.event_shape:
            bounds.append("the state's other part is drawn")
        volume = self.data.transform.log_volume(prod(self.data.event_shape))
        summary = {
            **statistics(rows, self.data.transform.discrete, volume),
            "unit": "bits/dim" if self.data.transform.discrete else "nats",
            "bound by": bounds,
            "events": self.count, "draws": plan.draws, "rows": len(rows), "failed": failed,
            "known biases": biases(
                self.model, self.data, count=min(BIAS_EVENTS, self.count), t_min=plan.t_min, seed=plan.seed,
                device=self.device, batch_size=plan.batch_size,
            ),
            **self.store.settings,
            "probes": plan.divergence.products or "exact",
            "tolerance": getattr(self.solver, "tolerance", getattr(self.solver, "rtol", None)),
            "data": self.data.name, "event shape": list(self.data.event_shape), "process": repr(self.model.sde),
            "mean nfe": sum(row.evaluations for row in rows) / len(rows),
            "mean products": sum(row.products for row in rows) / len(rows),
            "batch size": plan.batch_size, "processes": processes,
            "seconds": round(sum(batch.seconds for batch in batches), 2),
            "devices": sorted({batch.device for batch in batches}),
            "checkpoint": self.checkpoint.path.name, "step": self.checkpoint.step,
            "rows in": self.store.path.name, "table digest": bytes_digest((folder / f"{title}.csv").read_bytes()),
        }  # fmt: skip
        write_sealed(folder / f"{title}.json", summary)
        if failed:
            self.workdir.log(
                f"{self.workdir.path}: WARNING: {failed} of {len(rows)} rows FAILED and are not in the mean"
            )
        self.workdir.log(
            f"{self.workdir.path}: {describe(summary)}, {summary['mean nfe']:.0f} evaluations, {summary['seconds']:.1f} s"
        )
        return summary


def describe(summary: dict[str, Any]) -> str:
    """One line: the figure with its standard error and unit."""
    discrete = summary["unit"] == "bits/dim"
    names = ("bits_per_dim", "standard_error") if discrete else ("nats_of_data", "nats_error")
    value, error = (summary[name] for name in names)
    error = "unknown" if error is None else f"{error:.4f}"
    unit = "bits/dim" if discrete else "nats, log-density of the data as given,"
    return f"{value:.4f} +- {error} {unit} on {summary['events']} {summary['split']} events"


def fitted_grid(
    experiment: Experiment, workdir: Workdir, model: ScoreModel, digest: str, device: torch.device
) -> FlowGrid:
    """Fit a grid to training examples and save it next to the checkpoint: every process and every restart uses the same.

    The pilot takes no more examples than there are events to compute (``limit``), so that a look at a few events costs little.
    A later run with a larger limit uses the same grid, and goes on with the same rows. A file that is of other settings, or
    cannot be read, is fitted again.
    """
    plan, train = experiment.likelihood, experiment.data.train
    count, weights = min(plan.grid_events, plan.limit or plan.grid_events, len(train)), weights_name(plan.weights)
    file = workdir.checkpoints / f"grid-{titled(digest, weights)}-{plan.t_min:g}.json"
    head = {
        "scoresde": __version__, "checkpoint digest": digest, "weights": weights, "t_min": plan.t_min,
        "data digest": train.digest(), "grid_events": plan.grid_events,
    }  # fmt: skip
    with workdir.lock("grid", wait=True):
        if file.exists():
            try:
                content = read_sealed(file)
                if content["for"] == head:
                    return FlowGrid.from_json(content["grid"])
                problem = "is of other settings"
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as found:
                problem = f"cannot be read ({type(found).__name__}: {found})"
            workdir.log(f"{workdir.path}: {file.name} {problem}: fitted again")
        workdir.log(f"{workdir.path}: a pilot on {count} training events places nodes, once for this checkpoint")
        started = time.perf_counter()
        x = train.encode(permutation(len(train), 0, 0)[:count], seed=0).to(device)
        grid = fit_grid(model.sde, model, x, t_min=plan.t_min)
        write_sealed(file, {"for": head, "events": count, "grid": grid.to_json()})
        workdir.log(
            f"{workdir.path}: nodes placed by a pilot on {count} training events, {time.perf_counter() - started:.1f} s"
        )
        return grid
