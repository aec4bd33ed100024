"""The section ``guidance`` of a config: how samples are guided.

    config.guidance = {"name": "ClassifierFree", "weight": 2.0}
    config.guidance = {"name": "ClassifierGuidance", "classifier": "runs/classifier", "target": 3, "weight": 3.0}

The model of the run is the argument ``score``. ``classifier`` is the work folder of another run, whose model is loaded when
samples are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from scoresde._validation import shown
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.guidance import ClassifierFree, Guidance
from scoresde.score import NoiseConditionalModel

CLASSIFIER = "classifier"


def build_guidance(
    node: Mapping[str, Any], model: NoiseConditionalModel, classifier: object | None = None
) -> Callable[..., Tensor]:
    """The guided score.

    Args:
        node: The section. Empty for no guidance.
        model: The model of the run.
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
    return build(given, "guidance", Guidance, **context)


def check_guidance(guided: object, kinds: Mapping[str, Any], condition: Any, dropout: float) -> None:
    """Raise ValueError if a run has no conditions to be guided by, or was never trained without them.

    Args:
        guided: The guidance.
        kinds: Kinds of the conditions of the data.
        condition: ``sampling.condition``.
        dropout: ``training.condition_dropout``.
    """
    if not isinstance(guided, ClassifierFree) or guided.unconditional is not None:
        return
    if not kinds:
        raise ValueError(
            "ClassifierFree needs conditions, and the data has none: give data with conditions, e.g. data.labels=True"
        )
    if condition == "ignore":
        raise ValueError(
            "ClassifierFree needs conditions, and sampling.condition='ignore': give values, e.g. --condition label=3"
        )
    if not dropout:
        raise ValueError(
            "ClassifierFree needs the score without conditions, but the model is trained with training.condition_dropout=0: "
            "train with a number above 0"
        )


class _NotLoaded:
    """Stands for a classifier while a config is checked."""

    def log_prob(self, x: Tensor, t: Tensor, target: Any) -> Tensor:
        raise AssertionError("the classifier is not loaded")
