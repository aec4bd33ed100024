"""The section ``guidance`` of a config: how samples are guided.

    config.guidance = {"name": "ClassifierFree", "weight": 2.0}
    config.guidance = {"name": "ClassifierGuidance", "classifier": "runs/classifier", "target": 3, "weight": 3.0}
    config.guidance = {"name": "ComposedConditions", "conditions": [{"label": 1}, {"label": 2}], "weights": [1.0, -0.5]}

The model of the run is the argument ``score``. ``classifier`` is the work folder of another run, whose model is loaded when
samples are drawn. ``conditions`` has the values that ``sampling.condition`` has for all samples: classes by number or name,
numbers in the units of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from scoresde._validation import shown, suggestion
from scoresde.data import Splits
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.guidance import ClassifierFree, ClassifierGuidance, ComposedConditions, Guidance
from scoresde.score import NoiseConditionalModel

CLASSIFIER = "classifier"
CONDITIONS = "conditions"


def build_guidance(
    node: Mapping[str, Any], model: NoiseConditionalModel, data: Splits, classifier: object | None = None
) -> Callable[..., Tensor]:
    """The guided score.

    Args:
        node: The section. Empty for no guidance.
        model: The model of the run.
        data: The data, whose conditions ``conditions`` names.
        classifier: The model of the run that ``classifier`` names. None while the experiment is checked and it is not loaded.

    Returns:
        The guidance, or the model without a section.

    Raises:
        ConfigError: If the section is not valid.
    """
    if not node:
        return model
    given = dict(node)
    context: dict[str, Any] = {"score": model}
    if "score" in given:
        raise ConfigError("config.guidance.score is not allowed: it is the model of the run")
    if CLASSIFIER in given:
        place = given.pop(CLASSIFIER)
        if not isinstance(place, str) or not place:
            raise ConfigError(
                f"config.guidance.{CLASSIFIER}={shown(place)} is not allowed: give the work folder of a run"
            )
        context[CLASSIFIER] = _NotLoaded() if classifier is None else classifier
    if CONDITIONS in given:
        context[CONDITIONS] = _parsed(given.pop(CONDITIONS), data)
    return build(given, "guidance", Guidance, **context)


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


def check_guidance(guided: object, kinds: Mapping[str, Any], condition: Any, dropout: float) -> None:
    """Raise ValueError if a run has no conditions to be guided by, was never trained without them, or gives them twice.

    Args:
        guided: The guidance.
        kinds: Kinds of the conditions of the data.
        condition: ``sampling.condition``.
        dropout: ``training.condition_dropout``.
    """
    if isinstance(guided, ComposedConditions):
        if condition != "ignore":
            raise ValueError(
                f"ComposedConditions gives the conditions, and so does sampling.condition={shown(condition)}: give "
                "sampling.condition='ignore'"
            )
    elif isinstance(guided, ClassifierGuidance):
        given = condition != "ignore" and guided.name in kinds
        if given and guided.target is not None:
            raise ValueError(
                f"target={shown(guided.target)} and sampling.condition={shown(condition)} both give {guided.name!r}: give "
                "sampling.condition='ignore', or no target"
            )
        if not given and guided.target is None:
            raise ValueError(f"target is missing, and the samples have no condition {guided.name!r}: give one of them")
        return
    elif not isinstance(guided, ClassifierFree) or guided.unconditional is not None:
        return
    elif not kinds:
        raise ValueError(
            "ClassifierFree needs conditions, and the data has none: give data with conditions, e.g. data.labels=True"
        )
    elif condition == "ignore":
        raise ValueError(
            "ClassifierFree needs conditions, and sampling.condition='ignore': give values, e.g. --condition label=3"
        )
    if not dropout:
        raise ValueError(
            f"{type(guided).__name__} needs the score without conditions, but the model is trained with "
            "training.condition_dropout=0: train with a number above 0"
        )


class _NotLoaded:
    """Stands for a classifier while a config is checked."""

    def log_prob(self, x: Tensor, t: Tensor, target: Any) -> Tensor:
        raise AssertionError("the classifier is not loaded")
