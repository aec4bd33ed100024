"""An experiment: all objects that a config describes, built and checked before training starts."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from scoresde._validation import check_count, shown, suggestion
from scoresde.conditions import ConditionKind
from scoresde.data import Splits, Transform
from scoresde.experiment.config.annotations import hints
from scoresde.experiment.config.builder import ConfigError, build, build_section, config_errors, find_class
from scoresde.experiment.config.condition_values import check_ignored, check_network
from scoresde.experiment.config.condition_values import check_values as check_conditions
from scoresde.experiment.config.editing import EditingConfig, build_editing
from scoresde.experiment.config.families import (
    AnySampler,
    Process,
    build_process,
    check_takes_tokens,
    family_of,
    process_of,
)
from scoresde.experiment.config.guidance import build_guidance, check_guidance
from scoresde.experiment.config.likelihood_check import check_likelihood
from scoresde.experiment.config.limits import LARGEST, THREADS, within_memory
from scoresde.experiment.config.loader import SECTIONS, check_values
from scoresde.experiment.config.sections import (
    EvaluationConfig,
    LikelihoodConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
)
from scoresde.experiment.config.targets import check_objectives, model_sizes, target_kinds, without_targets
from scoresde.experiment.config.trained import MAIN, as_one, trained_modules
from scoresde.jump import JumpProcess, JumpSampler
from scoresde.loggers import Logger, TensorBoardLogger
from scoresde.losses import Objective
from scoresde.product import ProductProcess, ProductSampler
from scoresde.samplers import Sampler
from scoresde.score import ConditionalModel, Prediction, ScoreModel
from scoresde.sde import SDE, Chain

_NAME = re.compile(r"[^./\\@]{1,60}")


@dataclass(frozen=True)
class Experiment:
    """Everything that a config describes, as objects.

    The model has initial weights. ``Workdir.model`` loads trained ones.

    Args:
        config: The config.
        seed: Seed of the initial weights, the batches and the noise.
        device: Device of the computations.
        threads: Number of CPU threads; 0 leaves PyTorch's choice.
        data: Training and test data.
        process: The process: an SDE, or a jump process for data of tokens.
        model: The model: a ``ScoreModel``, or for example a ``Classifier`` or a ``CategoricalModel``.
        objectives: The losses by name: "objective", and those of the section ``objectives``. Each trains its own modules.
        optimizers: How the modules of each objective are updated.
        training: The section ``training``.
        sampling: The section ``sampling``.
        samplers: Samplers by name.
        guidance: The section ``guidance``, see ``guidance.py``.
        likelihood: The section ``likelihood``.
        evaluation: The section ``evaluation``.
        editing: The section ``editing``.
        loggers: Loggers by name: those of the section ``loggers``, or TensorBoard if there is no such section and the package
            is installed.
    """

    config: ConfigDict
    seed: int
    device: torch.device
    threads: int
    data: Splits
    process: Process
    model: ConditionalModel
    objectives: dict[str, Objective]
    optimizers: dict[str, OptimizerConfig]
    training: TrainingConfig
    sampling: SamplingConfig
    samplers: dict[str, AnySampler]
    guidance: Mapping[str, Any]
    likelihood: LikelihoodConfig
    evaluation: EvaluationConfig
    editing: EditingConfig
    loggers: dict[str, Logger] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: ConfigDict) -> Experiment:
        """Build all objects of a config.

        Args:
            config: A config, as `load_config` returns it.

        Returns:
            The experiment.

        Raises:
            ConfigError: If the config is not valid. The message names the key, its value and what is allowed.
        """
        content = config.to_dict()
        for key in content:
            if key not in SECTIONS:
                raise ConfigError(
                    f"config.{key} is not known: the sections are {', '.join(SECTIONS)}{suggestion(key, SECTIONS)}"
                )
        for key in ("data", "network", MAIN):
            if key not in content:
                raise ConfigError(f"config.{key} is missing: give a node, {{'name': ..., arguments}}")
        check_values(content)
        seed = _whole(content, "seed", 0)
        data = build(content["data"], "data", Splits)
        process = build_process(content, data)
        discrete = discretized(content, process)
        objectives = _objectives(content, discrete, seed, data.transform)
        targets = target_kinds(objectives, data.kinds)
        model = build_model(content, data, discrete, seed, targets)
        check_objectives(objectives, model)
        kinds = without_targets(data.kinds, targets)
        training = build_section(TrainingConfig, content.get("training", {}), "training")
        sampling = build_section(SamplingConfig, content.get("sampling", {}), "sampling")
        with config_errors("network"):
            check_network(model.network, kinds, training.condition_dropout)
        if not targets:  # a model with targets has no samples
            with config_errors("sampling", arguments=("condition",)):
                check_conditions(sampling.condition, data, training.condition_dropout)
        samplers = _samplers(content, process_of(model), data.event_shape, seed)
        likelihood = build_section(LikelihoodConfig, content.get("likelihood", {}), "likelihood")
        check_likelihood(likelihood, process, process_of(model))
        with config_errors("likelihood", arguments=("condition",)):
            check_ignored(likelihood.condition, kinds, training.condition_dropout)
        guidance = section(content, "guidance")
        if guidance and isinstance(process, ProductProcess):
            raise ConfigError("config.guidance is not for a product process: leave it out")
        with config_errors("guidance"):
            check_guidance(
                build_guidance(guidance, model, data), data.kinds, sampling.condition, training.condition_dropout
            )
        return cls(
            config=config,
            seed=seed,
            device=_device(content.get("device", "auto")),
            threads=_whole(content, "threads", 0, most=THREADS),
            data=data,
            process=process,
            model=model,
            objectives=objectives,
            optimizers=_optimizers(training, objectives),
            training=training,
            sampling=sampling,
            samplers=samplers,
            guidance=guidance,
            likelihood=likelihood,
            evaluation=build_section(EvaluationConfig, content.get("evaluation", {}), "evaluation", **_gray(data)),
            editing=build_editing(section(content, "editing")),
            loggers=_loggers(content),
        )

    @property
    def sde(self) -> SDE:
        """The process, if it is an SDE. Raises TypeError for a jump process."""
        if not isinstance(self.process, SDE):
            raise TypeError(f"the process of this experiment is {self.process!r}, not an SDE: use experiment.process")
        return self.process

    @property
    def objective(self) -> Objective:
        """The first objective, that of ``config.objective``."""
        return self.objectives[MAIN]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the conditions of the data that the model predicts and does not get."""
        return tuple(name for objective in self.objectives.values() for name in objective.targets)

    def trained(self) -> nn.Module:
        """What training changes and checkpoints store: the network, or an ``nn.ModuleDict`` of several modules.

        Returns:
            The module, which shares its parameters with the model and the objectives.
        """
        return as_one(trained_modules(self.model, self.objectives))

    def copy(self) -> Experiment:
        """An experiment with copies of the model and the objectives. They share the same modules, as the originals do."""
        model, objectives = copy.deepcopy((self.model, self.objectives))
        return replace(self, model=model, objectives=objectives)

    def use_threads(self) -> None:
        """Set PyTorch's number of CPU threads if the config gives one."""
        if self.threads:
            torch.set_num_threads(self.threads)


def discretized(config: Mapping[str, Any], process: Process) -> Process:
    """The process of the model: the chain of an SDE with ``model.steps`` steps, or the process itself without such a key.

    A chain stays as it is. It is for the discrete objectives of DDPM and SMLD.
    """
    steps = _whole(section(config, "model"), "steps", 0, where="model.", most=LARGEST)
    if not steps or isinstance(process, Chain):
        return process
    if not isinstance(process, SDE):
        raise ConfigError(
            f"config.model.steps={steps!r} is not for jump processes: give the objective DiscreteBound(steps)"
        )
    try:
        return process.discretize(steps)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"config.model.steps={steps!r}: {problem}") from problem


def build_model(
    config: Mapping[str, Any],
    data: Splits,
    process: Process,
    seed: int,
    targets: Mapping[str, ConditionKind] = MappingProxyType({}),
) -> ConditionalModel:
    """Build the network and its model, with weights initialized from ``seed``.

    The model is a ScoreModel, or a CategoricalModel for a jump process, unless ``model.name`` names another class. Its process
    is `discretized`. The global random state does not change.

    ``targets`` are the conditions of the data that the model predicts, with their kinds.
    """
    options = dict(section(config, "model"))
    process = discretized(config, process)
    family = family_of(process)
    options.pop("steps", None)
    kind = find_class(options, "model", family.models) if "name" in options else family.model
    sizes = model_sizes(kind, options, targets)
    if isinstance(process, JumpProcess):
        shapes = {"event_shape": data.event_shape, "tokens": process.tokens, "states": process.states}
    elif isinstance(process, ProductProcess):
        shapes = {"event_shape": (process.input_width,), "outputs": 1}
    else:
        levels = _built_predictions(options, data.transform)
        outputs = sizes.get("outputs", levels * getattr(kind, "outputs_per_coordinate", 1))
        shapes = {"event_shape": process.state_shape(data.event_shape), "outputs": outputs}
    conditions = without_targets(data.kinds, targets) or None
    if isinstance(process, JumpProcess):
        check_takes_tokens(config["network"])
    with torch.random.fork_rng(devices=[]), within_memory():
        torch.manual_seed(seed)
        network = build(config["network"], "network", nn.Module, conditions=conditions, **shapes)
    context = {"network": network, family.section: process}
    if "name" not in options:
        built: ConditionalModel = build_section(family.model, options, "model", **context)
        return built
    if "network" in options:
        raise ConfigError("config.model.network is not allowed: it is config.network")
    named: ConditionalModel = build(options, "model", family.models, **context, **sizes)
    return named


def _built_predictions(options: dict[str, Any], transform: Transform) -> int:
    """Builds the nodes of a ScoreModel in place. Returns the number of outputs of its prediction for a coordinate."""
    for name in ("prediction", "label"):
        if isinstance(options.get(name), Mapping):
            options[name] = build(options[name], f"model.{name}", hints(ScoreModel)[name], transform=transform)
    prediction = options.get("prediction")
    of = getattr(prediction, "transform", None) if isinstance(prediction, Prediction) else None
    return int(getattr(of, "levels", 1))


def _objectives(config: Mapping[str, Any], process: Process, seed: int, transform: Transform) -> dict[str, Objective]:
    """Build the objectives, and check that their times suit the process."""
    others = _named(config, "objectives")
    if MAIN in others:
        raise ConfigError(f"config.objectives.{MAIN} is not allowed: it is config.{MAIN}; give another name")
    nodes = {MAIN: config[MAIN], **{f"objectives.{name}": node for name, node in others.items()}}
    found = {}
    for where, node in nodes.items():
        objective = build(
            node,
            where,
            family_of(process).objective,
            seed=seed,
            transform=transform,
            **{family_of(process).section: process},
        )
        with config_errors(f"{where}.times"), torch.no_grad():
            objective.time_quantiles(torch.tensor([0.25, 0.75]))
        found[where.removeprefix("objectives.")] = objective
    return found


def _optimizers(training: TrainingConfig, objectives: Mapping[str, Objective]) -> dict[str, OptimizerConfig]:
    """Build the settings of each objective's optimizer."""
    others = [name for name in objectives if name != MAIN]
    for name in training.optimizers:
        if name not in others:
            allowed = (
                f"config.objectives has {', '.join(others)}" if others else "there is no section config.objectives"
            )
            raise ConfigError(
                f"config.training.optimizers.{name} is not known: {allowed}; config.{MAIN} has the settings of training"
                f"{suggestion(name, others)}"
            )
    return {
        name: build_section(OptimizerConfig, training.optimizers.get(name, {}), f"training.optimizers.{name}")
        for name in objectives
    }


def _gray(data: Splits) -> dict[str, float]:
    """The values of black and white in data with levels, for an extractor that needs them."""
    levels = getattr(data.transform, "levels", 0)
    return {"low": 0.0, "high": levels - 1.0} if levels else {}


def _samplers(
    config: Mapping[str, Any], process: Process, event_shape: Sequence[int], seed: int
) -> dict[str, AnySampler]:
    """Build the samplers, and check that they support the process.

    Networks of samplers that are fitted have initial weights from ``seed``. The global random state does not change.
    """
    nodes, samplers = _named(config, "samplers"), {}
    for name, node in nodes.items():
        with torch.random.fork_rng(devices=[]), within_memory():
            torch.manual_seed(seed)
            samplers[name] = build(node, f"samplers.{name}", family_of(process).sampler, event_shape=tuple(event_shape))
    for name, sampler in samplers.items():
        with config_errors(f"samplers.{name}", arguments=("denoise", "t_min", "steps")):
            if isinstance(process, JumpProcess):
                assert isinstance(sampler, JumpSampler)  # the node was checked
                sampler.check_process(process)
                sampler.check_start(process)
            elif isinstance(process, ProductProcess):
                assert isinstance(sampler, ProductSampler)
                sampler.check_process(process)
            else:
                assert isinstance(sampler, Sampler)
                sampler.check_noise(process)
                sampler.check_process(process)
    return samplers


def _loggers(config: Mapping[str, Any]) -> dict[str, Logger]:
    if "loggers" not in config:
        return {"tensorboard": TensorBoardLogger()} if find_spec("tensorboard") is not None else {}
    nodes = _named(config, "loggers")
    return {name: build(node, f"loggers.{name}", Logger) for name, node in nodes.items()}


def _named(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of nodes by name. Raises ConfigError for a name that cannot be the name of a file."""
    nodes = section(config, key)
    for name in nodes:
        if not _NAME.fullmatch(name) or not name.isprintable():
            raise ConfigError(
                f"config.{key}: {shown(name)} is not allowed as a name, because files have this name: give up to 60 "
                "characters without slashes, dots and @"
            )
    return nodes


def _whole(config: Mapping[str, Any], key: str, default: int, *, where: str = "", most: int = 2**63 - 1) -> int:
    """A whole number of a config. Raises ConfigError."""
    value = config.get(key, default)
    try:
        check_count(key, value, least=0)
    except ValueError as problem:
        raise ConfigError(f"config.{where}{problem}") from problem
    if value > most:
        raise ConfigError(f"config.{where}{key}={value} is not allowed: give a whole number up to {most}")
    return int(value)


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of a config, empty if it is missing. Raises ConfigError."""
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
