"""What solvers of ordinary differential equations take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class SolverError(RuntimeError):
    """A solver could not go on; the message names the time, and the samples where they are known."""


@dataclass(frozen=True)
class ODESolution:
    """y: the state at t_end, shape of the start. nfe: evaluations of f, of the whole batch each. accepted: steps taken.

    failed: (B,) samples that could not go on, where the solver goes on without them. evaluations: (B,) those that a sample needed
    for itself, where it has steps of its own.
    """

    y: Tensor
    nfe: int
    accepted: int
    failed: Tensor | None = None
    evaluations: Tensor | None = None


LEAST_RTOL = 1e-13
"""Smallest relative tolerance: about 450 times float64's resolution. Rounding alone exceeds a smaller one."""


class ODESolver(Protocol):
    """`ScipyODE`, `RungeKutta`, or anything that solves dy/dt = f(t, y); f gets t as a number or (B,)."""

    def solve(
        self,
        f: Callable[..., Tensor],
        y: Tensor,
        t_start: float,
        t_end: float,
        callback: Callable[[int, float, Tensor], None] | None = None,
    ) -> ODESolution:
        """Integrate from (t_start, y) to t_end; ``callback`` sees every step: its number from 1, the time and the state."""
