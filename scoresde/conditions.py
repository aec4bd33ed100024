"""Conditions of a network: named arguments in addition to x and the label, with one row for each sample."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn


def required_conditions(network: nn.Module) -> frozenset[str]:
    """Finds the conditions without which a network cannot be called.

    Args:
        network: A module that is called as ``network(input, label, **condition)``.

    Returns:
        The names of its conditions that have no default.

    Raises:
        TypeError: The network does not accept an input and a label.
    """
    if getattr(type(network), "forward", None) is nn.Module.forward and "forward" not in vars(network):
        raise TypeError(f"network: {type(network).__name__} has no forward(input, label): give a module that has one")
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):  # compiled code may have no signature
        return frozenset()
    others = list(signature.parameters.values())[2:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = frozenset(p.name for p in others if p.kind in by_name and p.default is inspect.Parameter.empty)
    try:
        signature.bind(None, None, **dict.fromkeys(required))
    except TypeError as problem:
        name = type(network).__name__
        raise TypeError(
            f"network: {name}.forward{signature} cannot be called as network(input, label, **condition): {problem}"
        ) from None
    return required


def check_condition(batch: int, condition: Mapping[str, Any], required: Collection[str]) -> None:
    """Checks the conditions of a call.

    Args:
        batch: Number of samples. A tensor must have this number of rows, or no dimension.
        condition: The conditions by name.
        required: Names of the required conditions.

    Raises:
        TypeError: A required condition is missing.
        ValueError: A tensor has another number of rows and would broadcast silently.
    """
    missing = sorted(set(required).difference(condition))
    if missing:
        raise TypeError(
            f"the network requires {', '.join(missing)}: call model(x, t, {missing[0]}=...), and give samplers and likelihoods "
            f"the score lambda x, t: model(x, t, {missing[0]}=...)"
        )
    for name, value in condition.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != batch:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for a batch of {batch}: give one row for each sample"
            )
