"""Names of the weights of a run, and of the results computed with them.

    ema                the first average, which is used unless another one is named
    ema1, ema2, ...    the other averages of a checkpoint: of ``training.ema_decays``, then of ``training.posthoc_widths``
    model              the weights without averaging
    0.07               the power-function average of that relative width, from the snapshots of ``training.posthoc_widths``

Results of ``ema`` have the plain name: samples/heun.json, likelihood/test.json. Results of other weights have the
weights after an @: samples/heun@ema1.json, likelihood/test@0.07.json. No result replaces that of other weights.
"""

from __future__ import annotations

import re

from scoresde.ema import power_exponent

DEFAULT = "ema"
_NAMED = re.compile(r"model|ema([1-9]\d*)?")


def average_name(number: int) -> str:
    """The name of an average in a checkpoint, from its number in the run."""
    return f"ema{number}" if number else DEFAULT


def times_name(objective: str) -> str:
    """The prefix in a checkpoint of what the distribution of t of an objective has learned."""
    return f"times.{objective}"


def weights_name(which: str | float) -> str:
    """The canonical name of weights, such as ``"0.07"`` for 0.07 and ``"0.070"``.

    Raises ValueError for any other name.
    """
    if isinstance(which, str) and _NAMED.fullmatch(which):
        return which
    try:
        if isinstance(which, bool):
            raise TypeError
        std = float(which)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"weights={which!r} is not known: give 'model', 'ema', 'ema1', ... or the width of a post-hoc average such as 0.07"
        ) from None
    try:
        power_exponent(std)
    except ValueError as problem:
        raise ValueError(f"weights={which!r} is not the width of an average: {problem}") from problem
    return repr(std)


def width(which: str) -> float | None:
    """The relative width that a name from `weights_name` stands for.

    None for weights that are stored in a checkpoint.
    """
    return None if _NAMED.fullmatch(which) else float(which)


def titled(name: str, which: str) -> str:
    """The name of a result. Raises ValueError if the name contains an @, which separates the weights."""
    if "@" in name:
        raise ValueError(f"{name!r} is not allowed as a name of results: @ separates the name from the weights")
    return name if which == DEFAULT else f"{name}@{which}"
