"""The families of processes: an SDE in ``config.sde``, or a jump process or a product process in ``config.process``.

    config.sde      VPSDE, ...        ScoreModel, Classifier, ...     Sampler          data of real numbers or dequantized levels
    config.process  Absorbing, ...    CategoricalModel, RatioModel    JumpSampler      data of tokens, with the transform Tokens
    config.process  ProductProcess    ProductModel                    ProductSampler   a MixedTable

A product process is a node with two others, ``sde`` and ``jumps``. ``jumps`` is the jump process of each column of tokens, with
the number of tokens of that column.

The family says which classes the other sections may name. Everything else is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from scoresde.data import MixedColumns, Splits, Tokens
from scoresde.experiment.config.annotations import parameters_of
from scoresde.experiment.config.builder import ConfigError, build, config_errors, find_class, known_names
from scoresde.jump import CategoricalModel, JumpLikelihood, JumpModel, JumpObjective, JumpProcess, JumpSampler
from scoresde.losses import SDEObjective
from scoresde.product import ProductLikelihood, ProductModel, ProductObjective, ProductProcess, ProductSampler
from scoresde.samplers import Sampler
from scoresde.schedules import ChainBound
from scoresde.score import ConditionalModel, NoiseConditionalModel, ScoreModel
from scoresde.sde import SDE, ScalarSDE

Process = SDE | JumpProcess | ProductProcess
"""A process of any family."""
SampledModel = ScoreModel | JumpModel | ProductModel
"""A model that has samples."""
AnySampler = Sampler | JumpSampler | ProductSampler
"""A sampler of any family."""


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
        likelihood: The class of ``likelihood.method``, whose default is used if the config has none. That of an SDE is optional.
        text: A process of the family, in words.
    """

    section: str
    process: type[Any]
    model: type[Any]
    models: type[Any]
    objective: type[Any]
    sampler: type[Any]
    likelihood: type[Any]
    text: str


SDES = Family("sde", SDE, ScoreModel, NoiseConditionalModel, SDEObjective, Sampler, ChainBound, "an SDE")
JUMPS = Family(
    "process", JumpProcess, CategoricalModel, JumpModel, JumpObjective, JumpSampler, JumpLikelihood, "a jump process"
)
PRODUCTS = Family(
    "process", ProductProcess, ProductModel, ProductModel, ProductObjective, ProductSampler, ProductLikelihood,
    "a product process",
)  # fmt: skip


def family_of(process: Process) -> Family:
    """The family of a process."""
    if isinstance(process, ProductProcess):
        return PRODUCTS
    return JUMPS if isinstance(process, JumpProcess) else SDES


def process_of(model: ConditionalModel) -> Process:
    """The process of a model."""
    process: Process = model.process if isinstance(model, JumpModel | ProductModel) else model.sde  # type: ignore[assignment]
    return process


def reverse_likelihood(process: Process, method: Any) -> JumpLikelihood | ProductLikelihood:
    """The method of the likelihood of a jump process or a product process: that of the config, or the default.

    Args:
        process: The process.
        method: ``likelihood.method``, which was checked, or None.
    """
    made: JumpLikelihood | ProductLikelihood = method or family_of(process).likelihood()
    return made


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
    if isinstance(data.transform, MixedColumns):
        return _build_product(config, data.transform)
    if family is SDES and tokens is not None:
        raise ConfigError(
            "config.sde is not for data of tokens: give config.process with a jump process, such as Absorbing"
        )
    if family is JUMPS and tokens is None:
        raise ConfigError(
            f"config.process is for data of tokens, and config.data has the transform {data.transform!r}: give "
            "{'name': 'AsTokens', 'data': ...} for the levels of other data, a MixedTable for a ProductProcess, or config.sde"
        )
    context = {} if tokens is None else {"tokens": tokens}
    process: Process = build(config[family.section], family.section, family.process, **context)
    if tokens is not None and isinstance(process, JumpProcess) and process.tokens != tokens:
        raise ConfigError(
            f"config.process.tokens={process.tokens} is not allowed: the data has {tokens} tokens; leave it out"
        )
    return process


def _build_product(config: Mapping[str, Any], columns: MixedColumns) -> ProductProcess:
    """The product process of a config for a table with numbers and categories."""
    node = config.get("process")
    if not isinstance(node, Mapping) or node.get("name") != "ProductProcess":
        raise ConfigError(
            "config.data has categories as tokens, which need config.process = {'name': 'ProductProcess', 'sde': {...}, 'jumps': "
            "{...}}; for an SDE give the table itself"
        )
    for key in node:
        if key not in ("name", "sde", "jumps"):
            raise ConfigError(f"config.process.{key} is not known: a ProductProcess has sde and jumps")
    sde = build(node.get("sde"), "process.sde", ScalarSDE)  # type: ignore[arg-type]  # None is refused
    jumps: list[JumpProcess | None] = []
    for name, tokens in zip(columns.names, columns.tokens, strict=True):
        jump = None if tokens == 0 else build(node.get("jumps"), "process.jumps", JumpProcess, tokens=tokens)  # type: ignore[arg-type]
        if jump is not None and jump.tokens != tokens:
            raise ConfigError(
                f"config.process.jumps.tokens={jump.tokens} is not allowed: column {name!r} has {tokens} categories; leave it out"
            )
        jumps.append(jump)
    with config_errors("process", arguments=("sde", "jumps")):
        return ProductProcess(sde, jumps)


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
