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
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from scoresde._files import bytes_digest, write_sealed
from scoresde.data import Dataset, LevelMiddles, Quantized
from scoresde.experiment.config.builder import config_errors
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import Solver
from scoresde.experiment.config.targets import as_score
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.cache import changes
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, config_digest, provenance
from scoresde.experiment.jobs.fits import event_conditions, fitted_bound, fitted_grid, flow_start
from scoresde.experiment.jobs.job import Job, Progress, local_device, run_job
from scoresde.experiment.results.likelihood_rows import Batch, Key, Row, RowStore, write_table
from scoresde.experiment.results.likelihood_summary import BIAS_EVENTS, LEVEL_BOUND, biases, event_means, statistics
from scoresde.experiment.results.simple_baseline import baseline_facts, codec_facts
from scoresde.likelihood import (
    LikelihoodResult,
    Multistep,
    VariationalBound,
    bits_per_dim,
    bits_per_dim_error,
    log_likelihood,
)
from scoresde.likelihood.flow import default_solver
from scoresde.noise import NoiseSource
from scoresde.schedules import FittedBound
from scoresde.score import ScoreModel
from scoresde.sde import ScalarSDE
from scoresde.sde.base import check_gaussian
from scoresde.solvers import SolverError
from scoresde.version import __version__


def _summary(solver: object) -> str:
    """The solver in one line, without the table of its grid."""
    return str(getattr(solver, "summary", None) or repr(solver))


def _solver(
    experiment: Experiment, workdir: Workdir, model: ScoreModel, digest: str, device: torch.device
) -> tuple[Solver | FittedBound, str]:
    """What computes the rows, and the digest of what was fitted for it."""
    config = experiment.likelihood
    if config.method is not None:
        bound = fitted_bound(experiment, workdir, model, digest, device)
        return bound, hashlib.sha256(bound.to_json().encode()).hexdigest()[:16]
    solver = config.solver or default_solver(model.sde, config.tolerance)
    if not isinstance(solver, Multistep):
        return solver, "none"
    if solver.grid is None and config.grid_events:
        solver = replace(solver, grid=fitted_grid(experiment, workdir, model, digest, device))
    return solver, "none" if solver.grid is None else hashlib.sha256(solver.grid.to_json().encode()).hexdigest()[:16]


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
        TypeError: If the noise of the process is not Gaussian.
        WorkdirError: If another likelihood job is running in the folder.
        WorkerError: If a local process died.
        SolverError: If all rows failed.
    """
    as_score(experiment.model)
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

    model: ScoreModel
    checkpoint: Checkpoint
    data: Dataset
    solver: Solver | FittedBound
    store: RowStore

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> LikelihoodJob:
        device = local_device(experiment, local)
        config, data = experiment.likelihood, getattr(experiment.data, experiment.likelihood.split)
        weights = weights_name(config.weights)
        loaded, checkpoint = workdir.model(replace(experiment, device=device), weights)
        model, digest = as_score(loaded), checkpoint.digest
        if config.method is None:
            with config_errors("data"):  # data that is not dequantized needs a process with scalar coefficients
                flow_start(
                    model.sde, data.encode([0], seed=0).to(device), data.transform, config.t_min,
                    NoiseSource.of(0, 1, device=device),
                )  # fmt: skip
        solver, grid = _solver(experiment, workdir, model, digest, device)
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": digest,
            "weights": weights, "split": config.split, "data digest": data.digest(), "transform": repr(data.transform),
            "solver": _summary(solver), "grid digest": grid, "divergence": repr(config.divergence),
            "t_min": config.t_min, "seed": config.seed,
        }  # fmt: skip
        if isinstance(solver, FittedBound):
            settings |= {"method": repr(config.method), "divergence": "none"}
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
        x, log_weight = self.data.encode(index, seed=config.seed, draw=draw).to(self.device), None
        # probes are keyed by event and draw, like the dequantization
        noise = NoiseSource(config.seed, index.to(self.device)).again(draw)
        if not isinstance(self.solver, FittedBound):
            x, log_weight = flow_start(self.model.sde, x, self.data.transform, config.t_min, noise)
        try:
            found = self.computed(x, noise, event_conditions(self.experiment, self.data, index, self.device))
        except SolverError:
            if len(index) > 1:
                return [row for one in index.split(1) for row in self.rows(draw, one)]
            nothing = math.nan
            return [Row(int(index), draw, nothing, nothing, nothing, nothing, nothing, 0, 0, config.seed, 1)]
        shape, transform = self.data.event_shape, self.data.transform
        discrete = transform.discrete
        lost = torch.full_like(found.log_prob, math.nan)
        if isinstance(found, VariationalBound):
            errors, failed, products = (
                (found.standard_error, found.standard_error, lost),
                ~torch.isfinite(found.log_prob),
                0,
            )
        else:
            errors = (found.standard_error, found.trace_error, found.solver_error)
            failed, products = found.failed | ~torch.isfinite(found.log_prob), found.vjps
        log_prob = found.log_prob if log_weight is None else found.log_prob + log_weight
        columns = (
            log_prob,
            bits_per_dim(log_prob, shape, transform) if discrete else lost,
            *(bits_per_dim_error(error, shape) if discrete else error for error in errors),
        )
        figures = torch.stack([column.double().cpu() for column in columns], 1).tolist()
        return [
            Row(i, draw, nats, bits, error, trace, solver, found.nfe, products, config.seed, int(bad))
            for i, (nats, bits, error, trace, solver), bad in zip(index.tolist(), figures, failed.tolist(), strict=True)
        ]

    def computed(
        self, x: Tensor, noise: NoiseSource, condition: dict[str, Tensor]
    ) -> LikelihoodResult | VariationalBound:
        """The log-likelihoods of a batch, or lower bounds of them. Raises SolverError if the solver fails."""
        config, transform = self.experiment.likelihood, self.data.transform
        if isinstance(self.solver, FittedBound):
            assert isinstance(self.model.sde, ScalarSDE)
            middles = transform if isinstance(transform, Quantized) and not transform.dequantized else None
            return self.solver(
                self.model.sde, self.model, x, transform=middles, noise=noise, condition=condition or None
            )
        return log_likelihood(
            self.model.sde, self.model, x, solver=self.solver, divergence=config.divergence, t_min=config.t_min, noise=noise,
            condition=condition,
        )  # fmt: skip

    @property
    def title(self) -> str:
        """The name of the table and the summary."""
        name = self.experiment.likelihood.split
        return titled(f"{name}-bound" if isinstance(self.solver, FittedBound) else name, self.store.settings["weights"])

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
        title, done = self.title, self.store.read()
        keys: list[Key] = [(i, part.draw) for part in self.all_parts() for i in part.index]
        rows = [done[key][0] for key in keys]
        batches = {id(batch): batch for _, batch in (done[key] for key in keys)}.values()
        write_table(folder / f"{title}.csv", rows)
        failed = sum(row.failed for row in rows)
        if failed == len(rows):
            raise SolverError(f"all {failed} rows failed, so there is no mean: see {title}.csv in {folder}")
        bounds = ["uniform dequantization"] if self.data.transform.dequantized else []
        if isinstance(self.data.transform, LevelMiddles) and not isinstance(self.solver, FittedBound):
            bounds.append(LEVEL_BOUND)
        if self.model.sde.state_shape(self.data.event_shape) != self.data.event_shape:
            bounds.append("sampled auxiliary variables of the state")
        volume = self.data.transform.log_volume(prod(self.data.event_shape))
        facts = statistics(rows, self.data.transform.discrete, volume)
        chain = isinstance(self.solver, FittedBound)
        if isinstance(self.solver, FittedBound):
            bounds.append("a chain")
            known = cast(dict[str, Any], facts["parts of the error"])
            facts["parts of the error"] = {
                {"trace": "noise and steps"}.get(name, name): value for name, value in known.items() if name != "solver"
            }
        summary = {
            **facts,
            "unit": "bits/dim" if self.data.transform.discrete else "nats",
            "bound by": bounds,
            "events": self.count, "draws": config.draws, "rows": len(rows), "failed": failed,
            "known biases": {} if chain else biases(
                self.model, self.data, count=min(BIAS_EVENTS, self.count), t_min=config.t_min, seed=config.seed,
                device=self.device, batch_size=config.batch_size, conditional=config.condition == "data",
            ),
            **self.store.settings, **provenance(),
            "probes": None if chain else config.divergence.products or "exact",
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
    bound = "" if "method" not in summary else f", a bound by a chain: {summary['solver']}"
    return f"{value:.4f} +- {error} {unit} on {summary['events']} {summary['split']} events{given}{bound}"
