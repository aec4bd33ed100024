"""Time labels: the input of the network's time embedding, as a function of the process and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_number
from scoresde.sde.base import SDE
from scoresde.sde.linear import LinearSDE

Label = Callable[[Any, Tensor], Tensor]
"""(process, t) -> the input of the time embedding, with the shape of t."""


@dataclass(frozen=True)
class LogNoiseLabel:
    """ln(sigma / alpha), which is minus half the log signal-to-noise ratio.

    It has the same scale for every linear process.
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The label of t."""
        return _linear(sde, self).log_noise(t)


@dataclass(frozen=True)
class LogTimeLabel:
    """ln t, for processes without a closed-form kernel.

    Under Brownian motion it is twice ln(sigma / alpha) up to a constant.
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The label of t."""
        return t.log()


@dataclass(frozen=True)
class TimeLabel:
    """``scale`` t, or ``scale`` (T - t) with ``descending``.

    The paper uses 999 t for VP and sub-VP. On a chain of N steps it uses (N - 1) t for DDPM and round((N - 1) (1 - t)) for
    SMLD.

    Args:
        scale: The factor, > 0.
        descending: Use T - t in place of t.
        whole: Round the label to a whole number.
    """

    scale: float = 999.0
    descending: bool = field(default=False, kw_only=True)
    whole: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0.0)

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The label of t."""
        label = self.scale * (sde.T - t if self.descending else t)
        return label.round() if self.whole else label


@dataclass(frozen=True)
class SigmaLabel:
    """sigma(t), the paper's label for VE."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The label of t."""
        return _linear(sde, self).noise_level(t)


def _linear(sde: SDE, label: object) -> LinearSDE:
    """``sde``, if it is linear and so has a noise level."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no closed-form kernel, which {label!r} needs")
    return sde


check_constructors(globals())
