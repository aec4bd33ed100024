"""What is measured on training events once for a checkpoint: the time grid of a flow's likelihood, and the chain of a bound.

It is saved with the checkpoint, so that every process and every restart uses the same one. A file of other settings, or one
that cannot be read, is replaced.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from scoresde._files import read_sealed, write_sealed
from scoresde.data import Dataset, LevelMiddles, Transform
from scoresde.data.dataset import permutation
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.weight_names import titled, weights_name
from scoresde.experiment.folder.workdir import Workdir, WorkdirError
from scoresde.likelihood import FlowGrid, fit_grid, noisy_levels
from scoresde.noise import NoiseSource
from scoresde.schedules import ChainBound, FittedBound
from scoresde.score import ScoreModel
from scoresde.sde import SDE, LinearSDE, ScalarSDE
from scoresde.version import __version__

Fit = TypeVar("Fit")


def event_conditions(experiment: Experiment, data: Dataset, index: Tensor, device: torch.device) -> dict[str, Tensor]:
    """The conditions of events, without those that ``likelihood.condition`` ignores."""
    if experiment.likelihood.condition == "ignore":
        return {}
    return {name: rows.to(device) for name, rows in data.conditions(index).items()}


def flow_start(
    sde: SDE, x: Tensor, transform: Transform, t_min: float, noise: NoiseSource
) -> tuple[Tensor, Tensor | None]:
    """The states at which the flow starts, and the term that is added to their log-density, if any.

    Data that is not dequantized gets the noise of ``t_min``.
    """
    if not isinstance(transform, LevelMiddles):
        return x, None
    start = noisy_levels(cast(LinearSDE, sde), x, transform, t=t_min, noise=noise)  # which refuses other processes
    return start.x, start.log_weight


def fitted_grid(
    experiment: Experiment, workdir: Workdir, model: ScoreModel, digest: str, device: torch.device
) -> FlowGrid:
    """The time grid of the flow's likelihood.

    At most ``limit`` events are used, so that a test with a few events is fast. A later run with a larger limit uses
    the same grid and the same rows.
    """
    config = experiment.likelihood
    count = min(config.grid_events, config.limit or config.grid_events, len(experiment.data.train))

    def fit(x: Tensor, index: Tensor) -> FlowGrid:
        score = model.given(**event_conditions(experiment, experiment.data.train, index, device))
        assert isinstance(model.sde, LinearSDE)  # a Multistep supports no other process
        noise = NoiseSource(0, index.to(device))
        start, _ = flow_start(model.sde, x, experiment.data.transform, config.t_min, noise)
        return fit_grid(model.sde, score, start, t_min=config.t_min)

    return _stored(
        experiment, workdir, digest, device, name=f"grid-{{}}-{config.t_min:g}", what="time grid", key="grid", count=count,
        settings={"grid_events": config.grid_events}, fit=fit, write=FlowGrid.to_json, read=FlowGrid.from_json,
    )  # fmt: skip


def fitted_bound(
    experiment: Experiment, workdir: Workdir, model: ScoreModel, digest: str, device: torch.device
) -> FittedBound:
    """The chain of the variational bound: its times, its variance and the probabilities of its steps."""
    config, method = experiment.likelihood, experiment.likelihood.method
    assert isinstance(method, ChainBound)  # the config was checked
    made = method

    def fit(x: Tensor, index: Tensor) -> FittedBound:
        assert isinstance(model.sde, ScalarSDE)  # the config was checked
        given = event_conditions(experiment, experiment.data.train, index, device)
        return made.fit(model.sde, model, x, t_min=config.t_min, condition=given or None)

    key = hashlib.sha256(f"{method!r} {config.t_min!r}".encode()).hexdigest()[:8]
    return _stored(
        experiment, workdir, digest, device, name=f"bound-{{}}-{key}", what="chain of the bound", key="bound",
        count=min(method.events, len(experiment.data.train)), settings={"method": repr(method)}, fit=fit,
        write=FittedBound.to_json, read=lambda text: FittedBound.from_json(text, made),
    )  # fmt: skip


def _stored(
    experiment: Experiment,
    workdir: Workdir,
    digest: str,
    device: torch.device,
    *,
    name: str,
    what: str,
    key: str,
    count: int,
    settings: dict[str, Any],
    fit: Callable[[Tensor, Tensor], Fit],
    write: Callable[[Fit], str],
    read: Callable[[str], Fit],
) -> Fit:
    """The content of a file with the checkpoint, or what ``fit`` finds from ``count`` training events and their indices."""
    config, train = experiment.likelihood, experiment.data.train
    weights = weights_name(config.weights)
    file = workdir.checkpoints / f"{name.format(titled(digest, weights))}.json"
    head = {
        "scoresde": __version__, "checkpoint digest": digest, "weights": weights, "t_min": config.t_min,
        "data digest": train.digest(), **settings,
    }  # fmt: skip
    if train.kinds:
        head["condition"] = config.condition
    with workdir.lock("grid", wait=True):
        if file.is_dir():
            raise WorkdirError(f"{file} is a folder, and the {what} is saved under this name: move the folder away")
        if file.exists():
            try:
                content = read_sealed(file)
                if content["for"] == head:
                    return read(content[key])
                problem = "has other settings"
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as found:
                problem = f"cannot be read ({type(found).__name__}: {found})"
            workdir.log(f"{workdir.path}: {file.name} {problem} and is fitted again")
        workdir.log(f"{workdir.path}: fitting the {what} to {count} training events, once for this checkpoint")
        started = time.perf_counter()
        index = permutation(len(train), 0, 0)[:count]
        made = fit(train.encode(index, seed=0).to(device), index)
        write_sealed(file, {"for": head, "events": count, key: write(made)})
        workdir.log(f"{workdir.path}: {what} fitted to {count} training events, {time.perf_counter() - started:.1f} s")
        return made
