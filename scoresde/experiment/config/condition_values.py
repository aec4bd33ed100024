"""Conditions of an experiment: whether the network takes those of the data, and which ones samples get.

``sampling.condition`` is one of

    "test", "train"             sample i gets the conditions of event i of this split, from the start again after the last one
    "ignore"                      no condition: samples of p(x)
    {"label": 3}                every sample gets this condition
    {"label": [0, 1, 2]}        sample i gets value i, from the start again after the last one
    {"grade": "low"}            the class with this name; numbers are in the units of the data
    {"label": "balanced"}       sample i gets the class i mod number of classes
    {"label": "test"}           sample i gets this condition of event i of a split

All conditions of the data need a value: training ignores all conditions of an event or none, so the model does not know others.

The conditions of a sample depend only on its index. So they do not depend on how samples are divided into batches and among
processes, and a run that was killed continues with the same ones.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from scoresde._validation import shown, suggestion
from scoresde.conditions import DROPPED, Classes, ConditionKind, Tokens
from scoresde.data import Splits

if TYPE_CHECKING:
    from scoresde.experiment.config.experiment import Experiment

SPLITS = ("test", "train")


def check_network(network: nn.Module, kinds: Mapping[str, ConditionKind], dropout: float) -> None:
    """Raise ValueError unless a network takes the conditions of the data.

    Args:
        network: The network.
        kinds: Kinds of the conditions by name.
        dropout: Probability of training without conditions. If it is not 0, the network must take ``dropped``.
    """
    parameters = inspect.signature(network.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    by_name = [p.name for p in list(parameters)[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    name = type(network).__name__
    for condition in kinds:
        if condition not in by_name:
            raise ValueError(
                f"{name} does not take the condition {condition!r} of the data, only {', '.join(by_name) or 'none'}: "
                "use another network, or data without conditions"
            )
    if kinds and dropout and DROPPED not in by_name:
        raise ValueError(
            f"training.condition_dropout={dropout:g} is not allowed: {name}.forward does not take {DROPPED!r}, the samples whose "
            "conditions it must ignore; give 0"
        )


def check_values(spec: Any, data: Splits, dropout: float) -> None:
    """Raise ValueError unless ``sampling.condition`` fits the conditions of the data and the probability of their dropout."""
    kinds = data.kinds
    check_ignored(spec, kinds, dropout)
    if isinstance(spec, str):
        if spec not in (*SPLITS, "ignore"):
            raise ValueError(
                f"condition={spec!r} is not allowed: give 'test', 'train', 'ignore', or a value for each name, {{'label': 3}}"
            )
        return
    if not isinstance(spec, Mapping):
        raise ValueError(f"condition={shown(spec)} is not allowed: give 'test', 'train', 'ignore' or {{'label': 3}}")
    for name, value in spec.items():
        if name not in kinds:
            raise ValueError(
                f"condition.{name} is not known: the conditions of the data are {', '.join(kinds) or 'none'}"
                f"{suggestion(name, kinds)}"
            )
        names = list(getattr(kinds[name], "names", ()))
        if isinstance(value, str) and value in (*SPLITS, "balanced") and value in names:
            raise ValueError(
                f"condition.{name}={value!r} is not allowed, because a class has this name: give the number of the class, "
                f"{names.index(value)}"
            )
        if not (isinstance(value, str) and value in SPLITS):
            _values(data, name, value, torch.arange(1))
    if missing := [name for name in kinds if name not in spec]:
        raise ValueError(
            f"condition has no value for {', '.join(missing)}: give one, e.g. {{'{missing[0]}': 'test'}} for those of the test "
            "split. Training ignores all conditions of an event or none; condition='ignore' ignores all"
        )


def check_ignored(spec: Any, kinds: Mapping[str, ConditionKind], dropout: float) -> None:
    """Raise ValueError if conditions are ignored that were never ignored in training, or used that were always ignored."""
    if spec == "ignore" and kinds and not dropout:
        raise ValueError(
            "condition='ignore' is not allowed with training.condition_dropout=0: the model is trained with conditions only"
        )
    if spec != "ignore" and kinds and dropout == 1.0:
        raise ValueError(
            f"condition={shown(spec)} is not allowed with training.condition_dropout=1: the model is never trained with "
            "conditions; give 'ignore', or a smaller condition_dropout"
        )


def sample_conditions(experiment: Experiment, first: int, count: int) -> dict[str, Tensor]:
    """The conditions of samples.

    Args:
        experiment: The experiment.
        first: Index of the first sample.
        count: Number of samples.

    Returns:
        The conditions by name, each with ``count`` rows. Empty if the data has none.
    """
    return _conditions(experiment.data, experiment.sampling.condition, torch.arange(first, first + count))


def stored_conditions(data: Splits, settings: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """The conditions of samples that were drawn with other settings.

    Args:
        data: The data.
        settings: The settings of the samples, with those of `condition_facts`.
        count: Number of samples, from the first one.

    Returns:
        The conditions by name, each with ``count`` rows. Empty if the samples have none.

    Raises:
        ValueError: If the samples got the conditions of a split that has changed, or if the conditions cannot be read.
    """
    if "condition" not in settings:
        return {}
    spec = json.loads(settings["condition"])
    for name in splits_used(spec):
        if settings.get(f"{name} data digest") != _split(data, name).digest():
            raise ValueError(f"the samples got the conditions of the {name} split, which has changed")
    return _conditions(data, spec, torch.arange(count))


def _conditions(data: Splits, spec: Any, index: Tensor) -> dict[str, Tensor]:
    """The conditions of the samples ``index`` (B,) for a value of ``sampling.condition``."""
    kinds = data.kinds
    if not kinds or spec == "ignore":
        return {}
    if isinstance(spec, str):
        return _of_events(data, spec, index)
    found = {name: _of_events(data, name, index) for name in splits_used(spec)}
    return {
        name: found[value][name] if isinstance(value, str) and value in found else _values(data, name, value, index)
        for name, value in spec.items()
    }


def splits_used(spec: Any) -> list[str]:
    """The splits whose conditions samples get."""
    values = [spec] if isinstance(spec, str) else [value for value in spec.values() if isinstance(value, str)]
    return [name for name in SPLITS if name in values]


def condition_facts(experiment: Experiment) -> dict[str, Any]:
    """What the conditions of samples depend on. Empty if the data has none."""
    if not experiment.data.kinds:
        return {}
    spec = experiment.sampling.condition
    digests = {name: _split(experiment.data, name).digest() for name in splits_used(spec)}
    return {
        "condition": json.dumps(spec, sort_keys=True, default=str),
        **{f"{name} data digest": digest for name, digest in digests.items()},
    }


def short(text: str) -> str:
    """The start of a text, for messages: a condition may be an image."""
    return text if len(text) <= 100 else f"{text[:97]}..."


def _of_events(data: Splits, name: str, index: Tensor) -> dict[str, Tensor]:
    """The conditions of events ``index`` of a split, from the start again after the last one."""
    split = _split(data, name)
    found: dict[str, Tensor] = split.conditions(index % len(split))
    return found


def _split(data: Splits, name: str) -> Any:
    """A split. Raises FileNotFoundError with a hint if its files are missing."""
    try:
        return getattr(data, name)
    except FileNotFoundError as problem:
        raise FileNotFoundError(
            f"{problem}. Samples get the conditions of the {name} split; to sample without the data, give sampling.condition, "
            "e.g. --condition label=3"
        ) from problem


def _values(data: Splits, name: str, value: Any, index: Tensor) -> Tensor:
    """The rows of samples ``index`` (B,). Raises ValueError for a value that the condition does not allow."""
    kind = data.kinds[name]
    if isinstance(value, str) and value == "balanced":
        if not isinstance(kind, Classes):
            raise ValueError(f"condition.{name}='balanced' is not allowed: it is for classes, and {name} is {kind!r}")
        return index % kind.count
    try:
        row = data.condition_row(name, value)
    except ValueError:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise
        parsed = [data.condition_row(name, one) for one in value]
        if isinstance(kind, Tokens):  # sets of different sizes
            rows = pad_sequence(parsed, batch_first=True, padding_value=torch.nan)
        elif len({row.shape for row in parsed}) == 1:
            rows = torch.stack(parsed)
        else:
            raise ValueError(f"condition.{name} has values of different shapes: give values of one shape") from None
        return rows[index % len(rows)]
    return row.expand(len(index), *row.shape)
