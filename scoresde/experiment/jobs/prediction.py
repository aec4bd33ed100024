"""How well a model predicts its target from x_t, for all events of a split and a range of noise levels.

The noise levels are quantiles of the times of training, so they cover the range that is trained. The noise is a function of
the seed, the event and the level. Parts of `PART` events are saved in shards (``results/predictions.py``): a run that was killed
continues, and processes share the parts (``job.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde._files import bytes_digest, write_atomic, write_sealed
from scoresde.conditions import Classes
from scoresde.data import Dataset
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, config_digest, provenance
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device
from scoresde.experiment.results.predictions import Predictions, PredictionStore, by_level, prior_figures, table_text
from scoresde.noise import NoiseSource
from scoresde.score import TargetModel
from scoresde.sde import LinearSDE
from scoresde.version import __version__

PART = 256
"""Number of events in a part."""
LEVELS = 21
"""Largest number of noise levels. A chain may have fewer."""


@dataclass(frozen=True)
class PredictionJob(Job):
    """Everything that is needed to predict targets."""

    kind: ClassVar[str] = "evaluate"
    unit: ClassVar[str] = "event"

    model: TargetModel
    checkpoint: Checkpoint
    data: Dataset
    store: PredictionStore

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> PredictionJob:
        config, device = experiment.evaluation, local_device(experiment, local)
        if config.samples:
            raise ConfigError(
                f"config.evaluation.samples={config.samples!r} is not allowed for a {type(experiment.model).__name__}, which has "
                "no samples: the split that evaluation.split does not name is evaluated"
            )
        data: Dataset = getattr(experiment.data, config.other_split)
        weights = weights_name(config.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        assert isinstance(model, TargetModel)
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": checkpoint.digest,
            "weights": weights, "split": config.other_split, "data digest": data.digest(), "seed": experiment.seed,
            "target": experiment.objective.targets[0], "t": noise_levels(experiment),
        }  # fmt: skip
        store = PredictionStore(workdir.evaluation / "predictions", settings)
        return cls(experiment, workdir, device, model, checkpoint, data, store)

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    def all_parts(self) -> list[Range]:
        """All parts."""
        count, name = len(self.data), str(self.store.settings["split"])
        return [Range(k, name, first, min(first + PART, count)) for k, first in enumerate(range(0, count, PART))]

    def remaining(self) -> list[Range]:
        found = []
        for part in self.all_parts():
            try:
                there = self.store.part(part.first, part.end)
            except ValueError as problem:
                self.workdir.log(f"{self.workdir.path}: {problem}: computed again")
                there = None
            if there is None:
                found.append(part)
        return found

    def work(self, parts: Sequence[Range], progress: Progress) -> None:
        for part in parts:
            self.store.write(self.predictions(part))
            progress(part.size)

    @torch.no_grad()
    def predictions(self, part: Range) -> Predictions:
        """The predictions of a part, ``batch_size`` events at a time."""
        started, index = time.perf_counter(), torch.arange(part.first, part.end)
        rows = [self._rows(some) for some in index.split(self.experiment.evaluation.batch_size)]
        log_prob, error = (torch.cat(column).double().cpu().numpy() for column in zip(*rows, strict=True))
        if not np.isfinite(log_prob).all():
            event, level = np.argwhere(~np.isfinite(log_prob))[0]
            raise FloatingPointError(
                f"log p(target | x_t) of event {part.first + event} is not finite at t={self.store.settings['t'][level]:g}"
            )
        return Predictions(
            first=part.first, end=part.end, log_prob=log_prob, error=error, nfe=log_prob.shape[1],
            seconds=time.perf_counter() - started, device=str(self.device),
        )  # fmt: skip

    def _rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y | x_t) and the error of events at all levels, both (B, levels)."""
        seed, sde = self.experiment.seed, self.model.sde
        assert isinstance(sde, LinearSDE)
        x0 = self.data.encode(index, seed=seed).to(self.device)
        given = {name: rows.to(self.device) for name, rows in self.data.conditions(index).items()}
        target = given.pop(self.store.settings["target"])
        noise = NoiseSource(seed, index.to(self.device))
        found = []
        for level, t in enumerate(self.store.settings["t"]):
            times = torch.full((len(index),), t, device=self.device, dtype=x0.dtype)
            z = noise.normal(sde.state_shape(x0.shape[1:]), step=level, purpose="prediction noise", dtype=x0.dtype)
            made = self.model.distribution(sde.perturb(x0, times, z), times, **given)
            wrong = (
                made.mode != target if isinstance(self.model.kind, Classes) else (made.mode - target).square().mean(1)
            )
            found.append((made.log_prob(target), wrong))
        log_prob, error = (torch.stack(column, 1) for column in zip(*found, strict=True))
        return log_prob, error

    def announce(self, parts: Sequence[Range]) -> None:
        settings, count = self.store.settings, sum(part.size for part in parts)
        self.workdir.log(
            f"{self.workdir.path}: evaluate: predicting {settings['target']} of {count} of {len(self.data)} {settings['split']} "
            f"events at {len(settings['t'])} noise levels, {self.checkpoint.describe(settings['weights'])}"
        )

    def finish(self, processes: int) -> dict[str, dict[str, Any]]:
        """Write the table and the summary."""
        settings, folder, kind = self.store.settings, self.store.folder, self.model.kind
        self.store.remove_leftovers()
        shards = [shard for part in self.all_parts() if (shard := self.store.part(part.first, part.end)) is not None]
        log_prob, error = (np.concatenate([shard.arrays[k] for shard in shards]) for k in range(2))
        sde = self.model.sde
        assert isinstance(sde, LinearSDE)
        ratio = sde.log_noise(torch.tensor(settings["t"], dtype=torch.float64)).exp().tolist()
        rows = [
            {"t": t, "noise to signal": r, **figures}
            for t, r, figures in zip(settings["t"], ratio, by_level(log_prob, error, kind), strict=True)
        ]
        train = self.experiment.data.train
        known, asked = (d.conditions(torch.arange(len(d)))[settings["target"]] for d in (train, self.data))
        text, title = table_text(rows).encode(), titled(settings["split"], settings["weights"])
        summary = {
            **{key: value for key, value in settings.items() if key != "t"}, **provenance(),
            "model": type(self.model).__name__, "kind": repr(kind), "levels": rows,
            "without x_t": prior_figures(known, asked, kind), "mean nll": float(-log_prob.mean()),
            "events": len(self.data), "data": self.data.name, "process": repr(sde), "processes": processes,
            "checkpoint": self.checkpoint.path.name, "step": self.checkpoint.step,
            "seconds": round(sum(shard.seconds for shard in shards), 2), "table digest": bytes_digest(text),
        }  # fmt: skip
        write_atomic(folder / f"{title}.csv", text)
        write_sealed(folder / f"{title}.json", summary)
        self.workdir.log(f"{self.workdir.path}: {describe(summary)}")
        return {title: summary}


def noise_levels(experiment: Experiment) -> list[float]:
    """Times at equal distances in the distribution of the training times, ascending and different."""
    objective = experiment.objective
    u = torch.linspace(0.0, 1.0, LEVELS, dtype=torch.float64).clamp(1e-6, 1.0 - 1e-6)
    found = objective.time_quantiles(u).float().unique()
    return [float(t) for t in found.clamp(max=float(experiment.sde.T))]


def describe(summary: dict[str, Any]) -> str:
    """One line with the figures at the lowest and the highest noise level."""
    name = "accuracy" if "accuracy" in summary["levels"][0] else "rmse"
    first, last = (summary["levels"][k] for k in (0, -1))
    ends = " to ".join(
        f"{name} {row[name]:.4g} +- {row[f'{name} error']:.2g} and {row['nll']:.4g} nats at noise / signal "
        f"{row['noise to signal']:.3g}"
        for row in (first, last)
    )
    prior = summary["without x_t"]
    return (
        f"{summary['model']} of {summary['target']}, {summary['events']} {summary['split']} events: {ends}; without x_t "
        f"{name} {prior[name]:.4g}, {prior['nll']:.4g} nats"
    )
