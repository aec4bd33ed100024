"""The two families of processes: an SDE for real numbers, in ``config.sde``, or a jump process for tokens, in ``config.process``.

    config.sde      VPSDE, ...        ScoreModel, Classifier, ...     Sampler        data of real numbers or dequantized levels
    config.process  Absorbing, ...    CategoricalModel, RatioModel    JumpSampler    data of tokens, with the transform Tokens

The family says which classes the other sections may name. Everything else is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from scoresde.data import Splits, Tokens
from scoresde.experiment.config.annotations import parameters_of
from scoresde.experiment.config.builder import ConfigError, build, find_class, known_names
from scoresde.jump import CategoricalModel, JumpModel, JumpObjective, JumpProcess, JumpSampler
from scoresde.losses import SDEObjective
from scoresde.samplers import Sampler
from scoresde.score import ConditionalModel, NoiseConditionalModel, ScoreModel
from scoresde.sde import SDE

Process = SDE | JumpProcess
"""A process of either family."""


@dataclass(frozen=True)
class Family:
    """The classes of a family of processes.

    Attributes:
        section: The section of the config with the process, and the name of the argument that others get it by.
        process: The base class of the processes.
        model: The class of the model unless the config names one.
        models: The base class of the models.
        objective: The base class of the objectives.
        sampler: The base class of the samplers.
    """

    section: str
    process: type[Any]
    model: type[Any]
    models: type[Any]
    objective: type[Any]
    sampler: type[Any]


SDES = Family("sde", SDE, ScoreModel, NoiseConditionalModel, SDEObjective, Sampler)
JUMPS = Family("process", JumpProcess, CategoricalModel, JumpModel, JumpObjective, JumpSampler)


def family_of(process: Process) -> Family:
    """The family of a process."""
    return JUMPS if isinstance(process, JumpProcess) else SDES


def process_of(model: ConditionalModel) -> Process:
    """The process of a model."""
    process: Process = model.process if isinstance(model, JumpModel) else model.sde  # type: ignore[assignment]
    return process


def build_process(config: Mapping[str, Any], data: Splits) -> Process:
    """Build the process of a config. A jump process gets the number of tokens of the data.

    Args:
        config: The content of the config.
        data: The data.

    A section that is None counts as missing, so that the command line can replace one by the other.

    Raises:
        ConfigError: If there is none or there are two, or it is not for data of this kind.
    """
    given = [family for family in (SDES, JUMPS) if config.get(family.section) is not None]
    if len(given) == 2:
        raise ConfigError(
            "config.sde and config.process exclude each other: give sde for an SDE, process for a jump process"
        )
    tokens = data.transform.tokens if isinstance(data.transform, Tokens) else None
    if not given:
        name = "sde" if tokens is None else "process"
        raise ConfigError(f"config.{name} is missing: give a node, {{'name': ..., arguments}}")
    (family,) = given
    if family is SDES and tokens is not None:
        raise ConfigError(
            "config.sde is not for data of tokens: give config.process with a jump process, such as Absorbing"
        )
    if family is JUMPS and tokens is None:
        raise ConfigError(
            f"config.process is for data of tokens, and config.data has the transform {data.transform!r}: give "
            "{'name': 'AsTokens', 'data': ...} for the levels of other data, or config.sde"
        )
    context = {} if tokens is None else {"tokens": tokens}
    process: Process = build(config[family.section], family.section, family.process, **context)
    if tokens is not None and isinstance(process, JumpProcess) and process.tokens != tokens:
        raise ConfigError(
            f"config.process.tokens={process.tokens} is not allowed: the data has {tokens} tokens; leave it out"
        )
    return process


def check_takes_tokens(node: Any) -> None:
    """Raise ConfigError if a node names a network of this library that is for real numbers."""
    found = find_class(node, "network", nn.Module)
    if found.__module__.startswith("scoresde.") and "tokens" not in parameters_of(found):
        known = [
            name for name, thing in known_names().items() if inspect.isclass(thing) and issubclass(thing, nn.Module)
        ]
        ours = [name for name in known if "tokens" in parameters_of(known_names()[name])]
        raise ConfigError(
            f"config.network.name={node['name']!r} is not allowed: {found.__name__} is a network of real numbers, and the data "
            f"has tokens: give {', '.join(sorted(ours))}"
        )
