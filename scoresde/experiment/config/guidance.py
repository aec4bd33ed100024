"""The section ``guidance`` of a config: how samples are guided.

    config.guidance = {"name": "ClassifierFree", "weight": 2.0}
    config.guidance = {"name": "ClassifierGuidance", "classifier": "runs/classifier", "target": 3, "weight": 3.0}
    config.guidance = {"name": "ComposedConditions", "conditions": [{"label": 1}, {"label": 2}], "weights": [1.0, -0.5]}

The model of the run is the argument ``score``, or another guidance of it:

    config.guidance = {"name": "DynamicThreshold", "score": {"name": "ClassifierFree", "weight": 5.0}}

``classifier`` is the work folder of another run, whose model is loaded when samples are drawn. ``target`` is a value of the
condition that it predicts: a class by number or name, numbers in the units of its data. ``conditions`` has the values that
``sampling.condition`` has for all samples, in the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import shown, suggestion
from scoresde.conditions import ConditionKind
from scoresde.data import Splits
from scoresde.experiment.config.builder import ConfigError, build, config_errors, find_class
from scoresde.guidance import ClassifierFree, ComposedConditions, Guidance
from scoresde.jump import JumpClassifierGuidance, JumpModel, Sharpened
from scoresde.score import ConditionalModel

SCORE = "score"
CLASSIFIER = "classifier"
TARGET = "target"
CONDITIONS = "conditions"
OF_JUMPS = (ClassifierFree, ComposedConditions, JumpClassifierGuidance, Sharpened)
"""The classes of this library that guide models of jump processes."""


@dataclass(frozen=True)
class LoadedClassifier:
    """The classifier or regressor of another run.

    Attributes:
        model: The trained model.
        data: The data of its run.
        target: The condition that it predicts. None if the model of the run predicts none.
    """

    model: object
    data: Splits
    target: str | None


def classifier_folder(node: Mapping[str, Any], where: str = "guidance") -> str | None:
    """The work folder of the classifier of a section or of one inside it, or None.

    Args:
        node: The section.
        where: Its key, for messages.

    Raises:
        ConfigError: If it is not a path, or if there are several.
    """
    found = []
    if CLASSIFIER in node:
        if not isinstance(node[CLASSIFIER], str) or not node[CLASSIFIER]:
            raise ConfigError(
                f"config.{where}.{CLASSIFIER}={shown(node[CLASSIFIER])} is not allowed: give the work folder of a run"
            )
        found.append(node[CLASSIFIER])
    if isinstance(node.get(SCORE), Mapping):
        found.append(classifier_folder(node[SCORE], f"{where}.{SCORE}"))
    named = [folder for folder in found if folder is not None]
    if len(set(named)) > 1:
        raise ConfigError(f"config.{where}: {' and '.join(map(repr, named))} are two classifiers: give one")
    return named[0] if named else None


def build_guidance(
    node: Mapping[str, Any],
    model: ConditionalModel,
    data: Splits,
    classifier: LoadedClassifier | None = None,
    where: str = "guidance",
) -> Callable[..., Tensor]:
    """The guided score.

    Args:
        node: The section. Empty for no guidance.
        model: The model of the run.
        data: The data, whose conditions ``conditions`` names.
        classifier: The classifier that the section names. None while the experiment is checked and it is not loaded.
        where: The key of the section, for messages.

    Returns:
        The guidance, or the model without a section.

    Raises:
        ConfigError: If the section is not valid.
    """
    if not node:
        return model
    given = dict(node)
    found = find_class(node, where, Guidance)
    if isinstance(model, JumpModel) and found.__module__.startswith("scoresde.") and not issubclass(found, OF_JUMPS):
        names = ", ".join(sorted(one.__name__ for one in OF_JUMPS))
        raise ConfigError(f"config.{where}.name={node['name']!r} is not for jump processes: give {names}")
    context: dict[str, Any] = {SCORE: model}
    if SCORE in given:
        inner = given.pop(SCORE)
        if not isinstance(inner, Mapping) or not inner:
            raise ConfigError(
                f"config.{where}.{SCORE}={shown(inner)} is not allowed: give a node of another guidance, or nothing for "
                "the model of the run"
            )
        context[SCORE] = build_guidance(inner, model, data, classifier, f"{where}.{SCORE}")
    classifier_folder(node, where)
    if given.pop(CLASSIFIER, None) is not None:
        context[CLASSIFIER] = _NotLoaded() if classifier is None else classifier.model
        if TARGET in given and classifier is not None and classifier.target is not None:
            with config_errors(where):
                context[TARGET] = classifier.data.condition_row(classifier.target, given.pop(TARGET))
        elif isinstance(
            given.get(TARGET), str
        ):  # the name of a class, which is looked up when the classifier is loaded
            given[TARGET] = 0
    if CONDITIONS in given:
        context[CONDITIONS] = _parsed(given.pop(CONDITIONS), data)
    return build(given, where, Guidance, **context)


def _parsed(conditions: Any, data: Splits) -> list[dict[str, Tensor]]:
    """Numbers of the model for conditions in the units of the data. Raises ConfigError for those that are not allowed."""
    if not (isinstance(conditions, Sequence) and all(isinstance(condition, Mapping) for condition in conditions)):
        raise ConfigError(
            f"config.guidance.{CONDITIONS}={shown(conditions)} is not allowed: give a list, e.g. [{{'label': 3}}]"
        )
    return [{name: _number(data, name, value) for name, value in condition.items()} for condition in conditions]


def _number(data: Splits, name: str, value: Any) -> Tensor:
    """A condition that is one number."""
    kinds = data.kinds
    if name not in kinds:
        raise ConfigError(
            f"config.guidance: {CONDITIONS}.{name} is not known: the conditions of the data are {', '.join(kinds) or 'none'}"
            f"{suggestion(name, kinds)}"
        )
    if (row := data.condition_row(name, value)).numel() != 1:
        raise ConfigError(
            f"config.guidance: {CONDITIONS}.{name} is {kinds[name]!r}: only classes and single numbers are allowed"
        )
    return row.reshape(())


def check_guidance(guided: object, kinds: Mapping[str, ConditionKind], condition: Any, dropout: float) -> None:
    """Raise ValueError if a run has no conditions to be guided by, was never trained without them, or gives them twice.

    Args:
        guided: The guidance, or a score without.
        kinds: Kinds of the conditions of the data.
        condition: ``sampling.condition``.
        dropout: ``training.condition_dropout``.
    """
    if isinstance(guided, Guidance):
        guided.check_conditions(kinds, condition, dropout)


class _NotLoaded:
    """Stands for a classifier while a config is checked."""

    def log_prob(self, x: Tensor, t: Tensor, target: Any) -> Tensor:
        raise AssertionError("the classifier is not loaded")
