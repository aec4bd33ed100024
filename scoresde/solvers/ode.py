"""The interface of solvers of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class SolverError(RuntimeError):
    """Raised if a solver cannot continue. The message has the time, and the samples if they are known."""


@dataclass(frozen=True)
class ODESolution:
    """The result of a solver.

    Attributes:
        y: State at ``t_end``, of the shape of the start.
        nfe: Number of evaluations of f, each for the whole batch.
        accepted: Number of accepted steps.
        failed: Samples that could not continue, bool of shape ``(B,)``. None if the solver raises an error instead.
        evaluations: Number of evaluations that each sample needed, of shape ``(B,)``. None if all samples have the same
            steps.
    """

    y: Tensor
    nfe: int
    accepted: int
    failed: Tensor | None = None
    evaluations: Tensor | None = None


LEAST_RTOL = 1e-13
"""Smallest relative tolerance, about 450 times float64's resolution. Rounding errors exceed smaller tolerances."""


class ODESolver(Protocol):
    """Protocol of solvers of dy/dt = f(t, y), such as :class:`ScipyODE` and :class:`RungeKutta`."""

    def solve(
        self,
        f: Callable[..., Tensor],
        y: Tensor,
        t_start: float,
        t_end: float,
        callback: Callable[[int, float, Tensor], None] | None = None,
    ) -> ODESolution:
        """Integrate from t_start to t_end.

        Args:
            f: Right-hand side ``f(t, y)``. It gets ``t`` as a number or as a tensor of shape ``(B,)``.
            y: State at ``t_start``, of shape ``(B, *shape)``.
            t_start: Start time.
            t_end: End time, before or after ``t_start``.
            callback: Called after every step with the number of the step (from 1), its time, and the state.

        Returns:
            The state at ``t_end`` and statistics.

        Raises:
            SolverError: If the solver cannot continue.
        """
