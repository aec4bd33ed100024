"""The header of a checkpoint, checked: a right checksum says that nothing was torn, not that its content makes sense.

A header that was forged, or written by a faulty program, is refused with the key, its value and what is allowed, before any of
it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scoresde._files import parse_json

MOST = 10**9 - 1
"""The largest step: what a checkpoint's name holds."""
WITHOUT_MOMENTS = "without moments"
"""The key with the names of parameters that train and for which Adam has no moments, as no gradient has reached them."""
_SCALER = {"scale": 0.0, "growth_factor": 1.0, "backoff_factor": 0.0, "growth_interval": 0.0}
"""What a state of torch's GradScaler holds, and what each of it must exceed."""


def whole_number(where: str, value: Any, most: int = MOST) -> int:
    """A whole number from 0 to ``most``. Raises ValueError for anything else, booleans and 2.0 included."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{where}={shortened(value)} is not a whole number from 0 to {most}")
    return value


def finite_number(where: str, value: Any, above: float = -1.0) -> float:
    """A finite number larger than ``above``. Raises ValueError for anything else."""
    if type(value) not in (int, float) or not math.isfinite(value) or value <= above:
        raise ValueError(f"{where}={shortened(value)} is not a finite number > {above:g}")
    return float(value)


def checked_facts(facts: Any) -> dict[str, Any]:
    """The facts of a run in a header. Raises ValueError for what `Trainer.facts` and `train` do not write; {} passes."""
    if not isinstance(facts, dict):
        raise ValueError(f"facts={shortened(facts)} is not a mapping")
    for name in ("skipped", "bad", "processes"):
        if name in facts:
            whole_number(f"facts.{name}", facts[name])
    if "seconds" in facts and finite_number("facts.seconds", facts["seconds"]) < 0.0:
        raise ValueError(f"facts.seconds={facts['seconds']} is below 0")
    for name in ("data", "config", "metrics"):
        if name in facts and not isinstance(facts[name], str):
            raise ValueError(f"facts.{name}={shortened(facts[name])} is not a text")
    if "config" in facts and not isinstance(parse_json(facts["config"], "facts.config"), dict):
        raise ValueError(f"facts.config={shortened(facts['config'])} is not the JSON of a config")
    if facts.get("scaler"):
        _check_scaler(facts["scaler"])
    return facts


def _check_scaler(state: Any) -> None:
    if not isinstance(state, dict):
        raise ValueError(f"facts.scaler={shortened(state)} is not a mapping")
    for name, above in _SCALER.items():
        finite_number(f"facts.scaler.{name}", state.get(name), above)
    whole_number("facts.scaler._growth_tracker", state.get("_growth_tracker"))


def without_moments(header: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names under `WITHOUT_MOMENTS`; None for a checkpoint of a version that did not write them. Raises ValueError for
    anything that is not a list of names."""
    names = header.get(WITHOUT_MOMENTS)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{WITHOUT_MOMENTS}={shortened(names)} is not a list of names")
    return tuple(names)


def shortened(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
