"""Which weights of a run are meant, and what results of them are called.

    ema                the first average: what samples are drawn with, and weighed, unless others are named
    ema1, ema2, ...    the others in a checkpoint: of ``training.ema_decays``, then of ``training.posthoc_widths``, in their order
    model              the weights as they train
    0.07               the power-function average of that relative width, made of the snapshots of ``training.posthoc_widths``

Results of ``ema`` are called as what they are results of: samples/heun.json, likelihood/test.json. Those of others have the
weights behind an @: samples/heun@ema1.json, likelihood/test@0.07.json, so that none takes another's place.
"""

from __future__ import annotations

import re

from scoresde.ema import power_exponent

DEFAULT = "ema"
_NAMED = re.compile(r"model|ema([1-9]\d*)?")


def average_name(number: int) -> str:
    """The name of an average in a checkpoint, by its number in the run."""
    return f"ema{number}" if number else DEFAULT


def weights_name(which: str | float) -> str:
    """The one name of weights: ``"0.07"`` for 0.07, ``"0.070"`` and itself. Raises ValueError for what names none."""
    if isinstance(which, str) and _NAMED.fullmatch(which):
        return which
    try:
        if isinstance(which, bool):
            raise TypeError
        std = float(which)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"weights={which!r} is not known: give 'model', 'ema', 'ema1', ... or the width of a post-hoc average, as 0.07"
        ) from None
    try:
        power_exponent(std)
    except ValueError as problem:
        raise ValueError(f"weights={which!r} is no width of an average: {problem}") from problem
    return repr(std)


def width(which: str) -> float | None:
    """The relative width that a name from `weights_name` stands for; None for weights that a checkpoint holds."""
    return None if _NAMED.fullmatch(which) else float(which)


def titled(name: str, which: str) -> str:
    """What a result is called. Raises ValueError for a name with an @, which could be that of other weights' results."""
    if "@" in name:
        raise ValueError(f"{name!r} is not allowed as a name of results: @ stands before the weights in it")
    return name if which == DEFAULT else f"{name}@{which}"
