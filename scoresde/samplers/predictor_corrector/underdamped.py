r"""Underdamped Langevin dynamics as a corrector, by the splitting BAOAB (Leimkuhler & Matthews 2013).

Langevin dynamics with a momentum v has the stationary distribution p_t(x) N(v; 0, I):

.. math::
    dx = v \, d\tau, \qquad dv = s(x) \, d\tau - \gamma v \, d\tau + \sqrt{2 \gamma} \, dw

A step of length h solves the three parts of the equation in turn, each exactly::

    B   v <- v + h/2 score(x)
    A   x <- x + h/2 v
    O   v <- c v + sqrt(1 - c^2) z,     c = exp(-gamma h)
    A   x <- x + h/2 v
    B   v <- v + h/2 score(x)

The momentum continues from step to step and from level to level. So the state moves on in the same direction for a time of
about 1 / gamma. The slowest direction of a distribution with condition number k needs about sqrt(k) steps instead of the k
steps of overdamped Langevin dynamics. For Gaussian p_t, the stationary distribution of x has no error for any stable h (h <
2 std in the narrowest direction), where Langevin steps have one of order h^2.

The unit of length is the noise level sigma(t) at every level, so that v is standard normal at every level. With the
contraction A of the forward step, h = 2 A snr sigma(t) and gamma = friction / (A sigma(t)), so that c depends only on snr and
friction. For large friction a step is x + e score(x) + sqrt(2 e) (z + z_before) / 2 with e = h^2 / 2, the step size of
:class:`AnnealedLangevin` with the same snr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import check_number
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.correctors import LangevinDynamics


@dataclass(frozen=True)
class UnderdampedLangevin(LangevinDynamics):
    """Langevin dynamics with a momentum, by the splitting BAOAB with exact friction.

    A step has the length h = 2 A snr sigma(t), where A is the contraction of the forward step, and keeps the part
    c = exp(-2 snr friction) of the momentum. A level needs ``steps + 1`` evaluations of the score. The first step draws the
    momentum, takes the second half A B of the splitting, and needs one evaluation.

    A step adds its noise to the momentum, not to the state. So ``PredictorCorrector(None, UnderdampedLangevin())`` returns the
    last state.

    Args:
        snr, steps: See :class:`LangevinDynamics`. The snr is comparable with that of ``AnnealedLangevin``.
        friction: Rate at which the momentum is forgotten, for the noise level as the unit of length. For Gaussian p_t with
            standard deviation k sigma(t) in its widest direction, 2 / k is the critical damping of this direction.

    References:
        Leimkuhler & Matthews 2013, "Rational construction of stochastic numerical methods for molecular sampling".
    """

    friction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("friction", self.friction, above=0.0, most=1e3)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """BAOAB; for the first step the second half, with the momentum z."""
        at, h = interval.at, 2.0 * self.snr * interval.a * interval.level
        if past is None:
            v = z
        else:
            c = math.exp(-2.0 * self.snr * self.friction)
            known = past.index == interval.index and past.x is x  # a hook may have changed x
            score = past.score if known else model.score(x, at)
            v = past.v + 0.5 * h * score
            x = x + 0.5 * h * v
            v = c * v + math.sqrt(1.0 - c**2) * z
        x = x + 0.5 * h * v
        score = model.score(x, at)
        return x, x, Momentum(interval.index, x, v + 0.5 * h * score, score)


@dataclass(frozen=True)
class Momentum:
    """The momentum, and the score at the state x, at the level ``index``."""

    index: int
    x: Tensor
    v: Tensor
    score: Tensor
