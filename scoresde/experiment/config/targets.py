"""Targets: conditions of the data that the model of an experiment predicts instead of getting them.

An objective says which conditions are its targets. The network is not built with them, and condition dropout does not touch them.
Their kind determines the size of a ``TargetModel``: the number of classes of a ``Classifier``, of coordinates of a ``Regressor``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scoresde._validation import suggestion
from scoresde.conditions import ConditionKind
from scoresde.experiment.config.builder import ConfigError, config_errors
from scoresde.experiment.config.families import SampledModel
from scoresde.experiment.config.trained import key_of
from scoresde.losses import Objective
from scoresde.score import ConditionalModel, ScoreModel, TargetModel


def target_kinds(objectives: Mapping[str, Objective], kinds: Mapping[str, ConditionKind]) -> dict[str, ConditionKind]:
    """The targets of objectives and their kinds.

    Args:
        objectives: The objectives by name.
        kinds: The kinds of the conditions of the data.

    Raises:
        ConfigError: If the data has no such condition.
    """
    found = {}
    for where, objective in objectives.items():
        for target in objective.targets:
            if target not in kinds:
                raise ConfigError(
                    f"config.{key_of(where)}: the target {target!r} is not a condition of the data, whose conditions are "
                    f"{', '.join(kinds) or 'none'}{suggestion(target, kinds)}; see docs/conditions.md for data with conditions"
                )
            found[target] = kinds[target]
    return found


def without_targets(kinds: Mapping[str, ConditionKind], targets: Iterable[str]) -> dict[str, ConditionKind]:
    """The conditions that the network gets."""
    left = set(targets)
    return {name: kind for name, kind in kinds.items() if name not in left}


def model_sizes(model: Any, options: Mapping[str, Any], targets: Mapping[str, ConditionKind]) -> dict[str, int]:
    """The sizes of a ``TargetModel`` and of its network that the target determines. Empty for other models.

    Args:
        model: The class of the model, or another callable that makes it.
        options: The section ``model``.
        targets: The targets and their kinds.

    Raises:
        ConfigError: If there is not one target, it is not of the model's kind, or the config gives the size.
    """
    if not (isinstance(model, type) and issubclass(model, TargetModel)):
        return {}
    name, allowed = model.__name__, model.predicts.__name__
    if len(targets) != 1:
        raise ConfigError(
            f"config.model.name={name!r} is not allowed: a {name} needs an objective with one target, but config.objective has "
            f"{', '.join(targets) or 'none'}; give {{'name': 'TargetLikelihood', 'target': ...}}"
        )
    ((target, kind),) = targets.items()
    if not isinstance(kind, model.predicts):
        raise ConfigError(
            f"config.model.name={name!r} is not allowed for the target {target!r}, which is {kind!r}: a {name} predicts "
            f"{allowed}(...)"
        )
    sizes = model.sizes(kind)
    for key in sizes:
        if key in options:
            raise ConfigError(f"config.model.{key} is not allowed: it is that of the target {target!r}, {kind!r}")
    return sizes


def check_objectives(objectives: Mapping[str, Objective], model: ConditionalModel) -> None:
    """Raise ConfigError for an objective that does not train models of this class."""
    for where, objective in objectives.items():
        if not isinstance(model, objective.model_class):
            name, wanted = type(objective).__name__, objective.model_class
            example = "'Classifier' or 'Regressor'" if wanted is TargetModel else f"{wanted.__name__!r}"
            raise ConfigError(
                f"config.{key_of(where)}: {name} does not train a {type(model).__name__}: give config.model.name={example}, or "
                "another objective"
            )
        with config_errors(key_of(where)):
            objective.check_model(model)


def as_score(model: ConditionalModel) -> ScoreModel:
    """The model, if it is a score.

    Raises:
        ConfigError: If it is another model, for example a ``Classifier``.
    """
    if isinstance(model, ScoreModel):
        return model
    raise ConfigError(f"the model of this run is a {type(model).__name__}, not a score{_predicts(model)}")


def as_sampled(model: ConditionalModel) -> SampledModel:
    """The model, if it has samples and a likelihood.

    Raises:
        ConfigError: If it has none, for example a ``Classifier``.
    """
    if isinstance(model, SampledModel):
        return model
    raise ConfigError(
        f"the model of this run is a {type(model).__name__}, not a score, so it has no samples and no "
        f"likelihood{_predicts(model)}"
    )


def _predicts(model: ConditionalModel) -> str:
    return ": scoresde evaluate computes how well it predicts" if isinstance(model, TargetModel) else ""
