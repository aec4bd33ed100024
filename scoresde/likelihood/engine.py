"""What every way to integrate the probability flow is given, and what it gives back."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import FrameType

from torch import Tensor

from scoresde._validation import check_number
from scoresde.likelihood.divergence import Divergence
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, Score


@dataclass(frozen=True)
class FlowProblem:
    """The probability flow of ``score`` under ``sde`` from t_min to T, with what is needed to follow log p along it.

    noise: keys of the probes. differentiable: whether results keep a graph to x and to the parameters of score and process.
    """

    sde: SDE
    score: Score
    t_min: float
    divergence: Divergence
    noise: NoiseSource
    differentiable: bool = False


@dataclass(frozen=True)
class FlowAnswer:
    """For a batch of states.

    log_prob: (B,) nats, float64, of the state; NaN for a sample that failed.
    trace_error: (B,) nats, standard error by the probes: 0 for the exact divergence, NaN where it cannot be known.
    solver_error: (B,) nats, estimate of the integration error; NaN where there is none.
    latent: (B, *state), x_T. prior_log_prob: (B,) nats, log p_T(x_T).
    nfe: evaluations of the score, for the batch. vjps: products with its Jacobian on top of them.
    failed: (B,) bool.
    """

    log_prob: Tensor
    trace_error: Tensor
    solver_error: Tensor
    latent: Tensor
    prior_log_prob: Tensor
    nfe: int
    vjps: int
    failed: Tensor


class Engine(ABC):
    """A way to integrate log p along the flow."""

    @property
    def summary(self) -> str:
        """The settings in one line, without tables. Rows of likelihoods are stored under it: it must not change."""
        return repr(self)

    @abstractmethod
    def solve(self, problem: FlowProblem, x: Tensor) -> FlowAnswer:
        """log p of the states x (B, *state)."""


def check_t_min(sde: SDE, t_min: float) -> None:
    """Raise ValueError unless ``t_min``, where the flow starts, is in [0, T)."""
    check_number("t_min", t_min, least=0.0)
    if t_min >= sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: give a number in [0, {sde.T})")


def warn_caller(message: str) -> None:
    """Issue a RuntimeWarning that points at the first caller outside this package."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "scoresde":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
