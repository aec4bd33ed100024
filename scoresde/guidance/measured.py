"""What all guidance by a measurement y of A(x_0) has in common: checks of A and y, and the rows of y."""

from __future__ import annotations

from torch import Tensor

from scoresde._validation import shown
from scoresde.conditions import select
from scoresde.operators import LinearOperator, Operator


def check_operator(operator: object, *, linear: bool) -> None:
    """Raise unless an operator can be called without draws. With ``linear``, raise for operators that are not linear."""
    if not callable(operator):
        kind = "a LinearOperator, or a linear function of x" if linear else "an operator, or a function of x"
        raise TypeError(f"operator={shown(operator)} cannot be called: give {kind}")
    if linear and isinstance(operator, Operator) and not isinstance(operator, LinearOperator):
        raise TypeError(f"operator={operator!r} is not linear: give a LinearOperator, or TaskGuidance for a likelihood")
    if isinstance(operator, Operator) and operator.random:
        raise ValueError(
            f"operator={operator!r} is random: give one mask, e.g. Mask(operator.mask(sides, NoiseSource.of(seed, 1))[0])"
        )


def check_seen(seen: object, measurement: Tensor, count: int) -> None:
    """Raise ValueError unless an operator returned ``count`` rows of the shape of a row of the measurement."""
    if not isinstance(seen, Tensor) or seen.shape != (count, *measurement.shape[1:]):
        raise ValueError(
            f"operator returned shape {tuple(getattr(seen, 'shape', ()))} for {count} events, and measurement has shape "
            f"{tuple(measurement.shape)}: give a measurement with rows of the shape that the operator returns"
        )


def check_fits(seen: Tensor, measurement: Tensor, x: Tensor) -> None:
    """`check_seen` for the samples x. Raise ValueError too unless the measurement has one row for each, or one for all."""
    check_seen(seen, measurement, len(x))
    if len(measurement) not in (1, len(x)):
        raise ValueError(
            f"operator returned shape {tuple(seen.shape)} for {len(x)} events, and measurement has shape "
            f"{tuple(measurement.shape)} for x of shape {tuple(x.shape)}: give one row for each sample, or one for all"
        )


def rows_of_measurement(measurement: Tensor, index: Tensor) -> Tensor:
    """The rows of the samples ``index`` (n,). A single row is for all."""
    rows: Tensor = measurement if len(measurement) == 1 else select({"y": measurement}, index)["y"]
    return rows
