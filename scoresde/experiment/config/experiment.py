"""An experiment: all objects that a config names, built and checked before anything is spent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from scoresde._validation import check_choice, check_count, check_number, shown, suggestion
from scoresde.data import Splits
from scoresde.experiment.config.annotations import hints
from scoresde.experiment.config.builder import ConfigError, build, refused, settings
from scoresde.experiment.config.limits import BATCHES, DRAWS, LARGEST, THREADS, check_size, within_memory
from scoresde.experiment.config.loader import SECTIONS, check_values
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.experiment.config.weight_names import DEFAULT, weights_name
from scoresde.likelihood import Divergence, Engine, Hadamard
from scoresde.losses import DenoisingScoreMatching
from scoresde.metrics import Coordinates, Extractor
from scoresde.samplers import Sampler
from scoresde.score import Prediction, ScoreModel
from scoresde.sde import LinearSDE
from scoresde.solvers import ODESolver

_NAME = re.compile(r"[^./\\@]{1,60}")

Solver = Engine | ODESolver
"""What integrates the flow of a likelihood."""


@dataclass(frozen=True)
class SamplingConfig:
    """config.sampling. count: samples to draw. batch_size: at a time; the samples do not depend on it. seed: of the draws.
    weights: "ema", "ema1", ..., "model" or the width of a post-hoc average, see weights.py."""

    count: int = 64
    batch_size: int = 64
    seed: int = 0
    weights: str | float = DEFAULT

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_size("batch_size", self.batch_size)
        if self.count > BATCHES * self.batch_size:
            raise ValueError(
                f"count={self.count} is not allowed with batch_size={self.batch_size}: give at most {BATCHES} batches"
            )
        check_count("seed", self.seed, least=0)
        weights_name(self.weights)


@dataclass(frozen=True)
class LikelihoodConfig:
    """config.likelihood.

    split: "test" or "train". draws: dequantisations averaged for each event. limit: events taken from the front; 0 for all.
    batch_size: events at a time; rows depend on it by rounding only. seed: of dequantisation and probes.
    t_min: where the flow starts.
    solver: `Multistep` unless given; or `RungeKutta`, `ScipyODE`, anything with their ``solve``.
    tolerance: of the default solver, bits/dim; None for .02.
    grid_events: training events to which the grid of a `Multistep` without one is fitted (`fit_grid`), at most ``limit``;
        0 for the standard grid.
    divergence: a `Divergence`.
    weights: as those of `SamplingConfig`.
    """

    split: str = "test"
    draws: int = 1
    limit: int = 0
    batch_size: int = 128
    seed: int = 0
    t_min: float = 1e-5
    solver: Solver | None = None
    tolerance: float | None = None
    grid_events: int = 32
    divergence: Divergence = Hadamard()  # noqa: RUF009  (frozen)
    weights: str | float = DEFAULT

    def __post_init__(self) -> None:
        check_choice("split", self.split, ("train", "test"))
        check_size("draws", self.draws, most=DRAWS)
        check_count("limit", self.limit, least=0)
        check_size("batch_size", self.batch_size)
        check_count("seed", self.seed, least=0)
        check_size("grid_events", self.grid_events, least=0)
        check_number("t_min", self.t_min, above=0.0)
        weights_name(self.weights)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, above=0.0)
            if self.solver is not None:
                raise ValueError(f"tolerance={self.tolerance!r} with solver={self.solver!r}: give it to the solver")
        if not (self.solver is None or isinstance(self.solver, Engine) or hasattr(self.solver, "solve")):
            raise TypeError(
                f"solver={self.solver!r} is not a solver: give a node with a name, as {{'name': 'Multistep'}}"
            )
        if not isinstance(self.divergence, Divergence):
            raise TypeError(f"divergence={self.divergence!r} is not a Divergence: give a node with a name")


@dataclass(frozen=True)
class EvaluationConfig:
    """config.evaluation.

    extractor: an `Extractor`. split: "train" or "test", the reference; the other one is the yardstick. reference: an .npz
    file with ``mu`` and ``sigma`` in place of the split, for the Fréchet distance alone; where empty, the split. samples: a
    folder of images or an array's file, as `scoresde inspect` reads them, in place of the folder's own samples. batch_size:
    events at a time; features depend on it by rounding only. neighbours: k of precision and recall. compared: events of each
    set that precision, recall and the kernel distance take, which need all pairs; chosen at random by index, the same ones
    every time.
    """

    extractor: Extractor = Coordinates()  # noqa: RUF009  (frozen)
    split: str = "train"
    reference: str = ""
    samples: str = ""
    batch_size: int = 64
    neighbours: int = 3
    subset_size: int = 10_000

    def __post_init__(self) -> None:
        if not isinstance(self.extractor, Extractor):
            raise TypeError(f"extractor={self.extractor!r} is not an Extractor: give a node with a name")
        check_choice("split", self.split, ("train", "test"))
        for name in ("reference", "samples"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: give a path in quotes")
        check_size("batch_size", self.batch_size)
        check_size("neighbours", self.neighbours)
        check_size("subset_size", self.subset_size, least=2)

    @property
    def other_split(self) -> str:
        """The yardstick's."""
        return "test" if self.split == "train" else "train"


@dataclass(frozen=True)
class Experiment:
    """Everything that a config says, as objects. The model has fresh weights; a work folder has the trained ones."""

    config: ConfigDict
    seed: int
    device: torch.device
    threads: int
    data: Splits
    sde: LinearSDE
    model: ScoreModel
    objective: DenoisingScoreMatching
    training: TrainingConfig
    sampling: SamplingConfig
    samplers: dict[str, Sampler]
    likelihood: LikelihoodConfig
    evaluation: EvaluationConfig

    @classmethod
    def from_config(cls, config: ConfigDict) -> Experiment:
        """Build everything. Raises ConfigError naming the key, the value and what is allowed."""
        content = config.to_dict()
        for key in content:
            if key not in SECTIONS:
                raise ConfigError(
                    f"config.{key} is not known: there are {', '.join(SECTIONS)}{suggestion(key, SECTIONS)}"
                )
        for key in ("data", "sde", "network", "objective"):
            if key not in content:
                raise ConfigError(f"config.{key} is missing: give a node, {{'name': ..., arguments}}")
        check_values(content)
        seed = _whole(content, "seed", 0)
        data = build(content["data"], "data", Splits)
        sde = build(content["sde"], "sde", LinearSDE)
        model = build_model(content, data, sde, seed)
        likelihood = settings(LikelihoodConfig, content.get("likelihood", {}), "likelihood")
        if likelihood.t_min >= sde.T:
            raise ConfigError(
                f"config.likelihood.t_min={likelihood.t_min!r} is not allowed: give a number below T={sde.T}"
            )
        return cls(
            config=config,
            seed=seed,
            device=_device(content.get("device", "auto")),
            threads=_whole(content, "threads", 0, most=THREADS),
            data=data,
            sde=sde,
            model=model,
            objective=_objective(content["objective"], model.sde, seed),
            training=settings(TrainingConfig, content.get("training", {}), "training"),
            sampling=settings(SamplingConfig, content.get("sampling", {}), "sampling"),
            samplers=_samplers(content),
            likelihood=likelihood,
            evaluation=settings(EvaluationConfig, content.get("evaluation", {}), "evaluation", **_grey(data)),
        )

    def use_threads(self) -> None:
        """Set torch's number of CPU threads, where the config names one."""
        if self.threads:
            torch.set_num_threads(self.threads)


def build_model(config: Mapping[str, Any], data: Splits, sde: LinearSDE, seed: int) -> ScoreModel:
    """The network, initialised from ``seed`` without touching the global random state, and its ScoreModel.

    ``model.steps`` puts the model on the process's chain of so many steps, for DDPM's and SMLD's discrete objectives.
    """
    options = dict(section(config, "model"))
    if steps := _whole(options, "steps", 0, where="model.", most=LARGEST):
        try:
            sde = sde.discretize(steps)
        except (TypeError, ValueError) as problem:
            raise ConfigError(f"config.model.steps={steps!r}: {problem}") from problem
    options.pop("steps", None)
    for name in ("prediction", "label"):
        if isinstance(options.get(name), Mapping):
            options[name] = build(options[name], f"model.{name}", hints(ScoreModel)[name], transform=data.transform)
    prediction = options.get("prediction")
    levels = getattr(getattr(prediction, "transform", None), "levels", 1) if isinstance(prediction, Prediction) else 1
    with torch.random.fork_rng(devices=[]), within_memory():
        torch.manual_seed(seed)
        network = build(
            config["network"], "network", nn.Module, event_shape=sde.state_shape(data.event_shape), outputs=levels
        )
    return settings(ScoreModel, options, "model", network=network, sde=sde)


def _objective(node: Mapping[str, Any], sde: LinearSDE, seed: int) -> DenoisingScoreMatching:
    """The objective, once its times have been seen to suit the process."""
    objective = build(node, "objective", DenoisingScoreMatching, sde=sde, seed=seed)
    with refused("objective.times"), torch.no_grad():
        objective.times.times(objective.sde, torch.tensor([0.25, 0.75]))
    return objective


def _grey(data: Splits) -> dict[str, float]:
    """What is black and what is white, for an extractor that asks, where the data has levels."""
    levels = getattr(data.transform, "levels", 0)
    return {"low": 0.0, "high": levels - 1.0} if levels else {}


def _samplers(config: Mapping[str, Any]) -> dict[str, Sampler]:
    nodes = section(config, "samplers")
    for name in nodes:
        if not _NAME.fullmatch(name) or not name.isprintable():
            raise ConfigError(
                f"config.samplers: {shown(name)} is not allowed as a name, since files are called so: give up to 60 characters "
                "without slashes, none of them a dot or an @"
            )
    return {name: build(node, f"samplers.{name}", Sampler) for name, node in nodes.items()}


def _whole(config: Mapping[str, Any], key: str, default: int, *, where: str = "", most: int = 2**63 - 1) -> int:
    value = config.get(key, default)
    try:
        check_count(key, value, least=0)
    except ValueError as problem:
        raise ConfigError(f"config.{where}{problem}") from problem
    if value > most:
        raise ConfigError(f"config.{where}{key}={value} is not allowed: give a whole number up to {most}")
    return int(value)


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of a config, empty where there is none. Raises ConfigError."""
    found = config.get(key, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"config.{key}={shown(found)}: give a section, {{'key': value, ...}}")
    return found


def _device(name: Any) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if not isinstance(name, str):
            raise TypeError
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise TypeError
    except (RuntimeError, AssertionError, TypeError) as problem:
        raise ConfigError(f"config.device={shown(name)} cannot be used: give 'auto', 'cpu' or 'cuda:0'") from problem
    return device
