"""Conditions of a network: what it is given by name in addition to x and the label, one row for each sample."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn


def required_conditions(network: nn.Module) -> frozenset[str]:
    """Names of the conditions without which the network cannot be called. Raises TypeError where it takes no input and label."""
    if getattr(type(network), "forward", None) is nn.Module.forward and "forward" not in vars(network):
        raise TypeError(
            f"network: {type(network).__name__} has no forward(input, label): give a module that is a network"
        )
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):  # compiled code may not say
        return frozenset()
    others = list(signature.parameters.values())[2:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = frozenset(p.name for p in others if p.kind in by_name and p.default is inspect.Parameter.empty)
    try:
        signature.bind(None, None, **dict.fromkeys(required))
    except TypeError as problem:
        name = type(network).__name__
        raise TypeError(
            f"network: {name}.forward{signature} is to be called as network(input, label, **condition): {problem}"
        ) from None
    return required


def check_condition(batch: int, condition: Mapping[str, Any], required: Collection[str]) -> None:
    """Raise TypeError where one of the ``required`` conditions is missing, ValueError where a tensor would broadcast.

    A tensor has ``batch`` rows, or no dimension.
    """
    missing = sorted(set(required).difference(condition))
    if missing:
        raise TypeError(
            f"the network needs {', '.join(missing)}, which the model did not get: call model(x, t, {missing[0]}=...), and give "
            f"samplers and likelihoods lambda x, t: model(x, t, {missing[0]}=...)"
        )
    for name, value in condition.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != batch:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for a batch of {batch}: give one row for each sample"
            )
