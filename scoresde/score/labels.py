"""Time labels: the input of the network's time embedding, as a function of the process and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_number
from scoresde.sde.linear import LinearSDE

Label = Callable[[LinearSDE, Tensor], Tensor]
"""(process, t) -> the input of the time embedding, with the shape of t."""


@dataclass(frozen=True)
class LogNoiseLabel:
    """ln(sigma / alpha), which is minus half the log signal-to-noise ratio.

    It has the same scale for every linear process.
    """

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        return sde.log_noise(t)


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

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        label = self.scale * (sde.T - t if self.descending else t)
        return label.round() if self.whole else label


@dataclass(frozen=True)
class SigmaLabel:
    """sigma(t), the paper's label for VE."""

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        return sde.noise_level(t)


check_constructors(globals())
