"""Common interface of the methods that integrate log p along the probability flow."""

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
    """The probability flow of ``score`` under ``sde`` from t_min to T, and how to follow log p along it.

    Args:
        sde: The process.
        score: The score, (x, t) -> a tensor with the shape of x.
        t_min: Start of the flow.
        divergence: The method for the divergence.
        noise: Keys of the probes.
        differentiable: Keep a graph to x and to the parameters of score and process.
    """

    sde: SDE
    score: Score
    t_min: float
    divergence: Divergence
    noise: NoiseSource
    differentiable: bool = False


@dataclass(frozen=True)
class FlowSolution:
    """Results for a batch of states.

    Attributes:
        log_prob: log p of the state, (B,) nats, float64; NaN for a sample that failed.
        trace_error: Standard error due to the probes, (B,) nats; 0 for the exact divergence, NaN if unknown.
        solver_error: Estimate of the integration error, (B,) nats; NaN if there is none.
        latent: x_T, (B, *state).
        prior_log_prob: log p_T(x_T), (B,) nats.
        nfe: Evaluations of the score for the batch.
        vjps: Products with the Jacobian of the score, in addition to the evaluations.
        failed: Samples that failed, (B,) bool.
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
    """A method that integrates log p along the probability flow.

    ``log_likelihood`` accepts it as ``solver``.
    """

    @property
    def summary(self) -> str:
        """The settings in one line, without tables.

        Stored rows of likelihoods are found again by this text, so it must not change.
        """
        return repr(self)

    def check_process(self, sde: SDE) -> None:  # noqa: B027  (most engines take any process)
        """Check that the engine supports a process. It is called before the first evaluation of the score.

        Args:
            sde: The process.

        Raises:
            TypeError: If the engine needs something that the process does not have, such as a closed-form kernel.
        """

    @abstractmethod
    def solve(self, problem: FlowProblem, x: Tensor) -> FlowSolution:
        """Computes log p of a batch of states.

        Args:
            problem: The flow and its settings.
            x: The states at t_min, (B, *state).

        Returns:
            log p of each state with its error estimates.
        """


def check_t_min(sde: SDE, t_min: float) -> None:
    """Raise ValueError unless ``t_min``, the start of the flow, is in [0, T)."""
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
