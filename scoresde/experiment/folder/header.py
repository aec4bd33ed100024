"""Checks of the header of a checkpoint.

A correct checksum shows that the file is complete, not that its content is valid.

A forged header, or one from a faulty program, is an error before any of it is used. The message has the key, its value
and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scoresde._files import parse_json

MOST = 10**9 - 1
"""The largest step that fits into the name of a checkpoint."""
WITHOUT_MOMENTS = "without moments"
"""The key for the names of trained parameters for which Adam has no moments, because no gradient has reached them."""
_SCALER = {"scale": 0.0, "growth_factor": 1.0, "backoff_factor": 0.0, "growth_interval": 0.0}
"""Keys in the state of torch's GradScaler, and the number that each value must exceed."""


def whole_number(where: str, value: Any, most: int = MOST) -> int:
    """Return ``value`` if it is an integer from 0 to ``most``.

    Raises ValueError otherwise, also for booleans and 2.0.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{where}={shortened(value)} is not a whole number from 0 to {most}")
    return value


def finite_number(where: str, value: Any, above: float = -1.0) -> float:
    """Return ``value`` if it is a finite number larger than ``above``. Raises ValueError otherwise."""
    if type(value) not in (int, float) or not math.isfinite(value) or value <= above:
        raise ValueError(f"{where}={shortened(value)} is not a finite number > {above:g}")
    return float(value)


def checked_facts(facts: Any) -> dict[str, Any]:
    """Return the facts of a run.

    Raises ValueError for values that `Trainer.facts` and `train` do not write; {} is valid.
    """
    if not isinstance(facts, dict):
        raise ValueError(f"facts={shortened(facts)} is not a mapping")
    for name in ("skipped", "bad", "processes"):
        if name in facts:
            whole_number(f"facts.{name}", facts[name])
    if "seconds" in facts and finite_number("facts.seconds", facts["seconds"]) < 0.0:
        raise ValueError(f"facts.seconds={facts['seconds']} is below 0")
    for name in ("data", "config", "metrics", "vocabulary"):
        if name in facts and not isinstance(facts[name], str):
            raise ValueError(f"facts.{name}={shortened(facts[name])} is not a string")
    if "config" in facts:
        checked_config(facts["config"], "facts.config")
    if "event_shape" in facts:
        _check_shape(facts["event_shape"])
    if "initial" in facts:
        checked_source(facts["initial"], "facts.initial")
    if facts.get("scaler"):
        _check_scaler(facts["scaler"])
    if "pushed" in facts:
        _check_pushed(facts["pushed"])
    return facts


def checked_config(config: Any, where: str = "config") -> str:
    """Return the JSON of a config. Raises ValueError for anything else."""
    if not isinstance(config, str) or not isinstance(parse_json(config, where), dict):
        raise ValueError(f"{where}={shortened(config)} is not the JSON of a config")
    return config


def checked_source(source: Any, where: str = "source") -> dict[str, Any]:
    """Return a statement about the source of initial weights (``initial.py``). Raises ValueError for anything else."""
    if not isinstance(source, dict) or set(source) != {"config", "step", "weights", "sha256"}:
        raise ValueError(f"{where}={shortened(source)} is not a mapping of config, step, weights and sha256")
    whole_number(f"{where}.step", source["step"])
    for name in ("config", "weights", "sha256"):
        if not isinstance(source[name], str):
            raise ValueError(f"{where}.{name}={shortened(source[name])} is not a string")
    return source


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, list):
        raise ValueError(f"facts.event_shape={shortened(shape)} is not a list of whole numbers")
    for size in shape:
        whole_number("facts.event_shape", size)


def _check_pushed(pushed: Any) -> None:
    """Raise ValueError unless this is what `push` writes: the weights, whether the training state is there, a digest."""
    kinds = {"weights": list, "state": bool, "digest": str}
    if not isinstance(pushed, dict) or any(type(pushed.get(name)) is not kind for name, kind in kinds.items()):
        raise ValueError(f"facts.pushed={shortened(pushed)} needs weights, state and digest")


def _check_scaler(state: Any) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"facts.scaler={shortened(state)} is not a mapping")
    for name, above in _SCALER.items():
        finite_number(f"facts.scaler.{name}", state.get(name), above)
    whole_number("facts.scaler._growth_tracker", state.get("_growth_tracker"))


def without_moments(header: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names under `WITHOUT_MOMENTS`, or None for a checkpoint of a version that did not write them.

    Raises ValueError if the value is not a list of names.
    """
    names = header.get(WITHOUT_MOMENTS)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{WITHOUT_MOMENTS}={shortened(names)} is not a list of names")
    return tuple(names)


def shortened(value: Any) -> str:
    """The repr of a value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
