"""Ordinary differential equations by SciPy: the trusted one.

    dy/dt = f(t, y),  y(t_start) given,  from t_start to t_end in either direction.

The whole batch is one system with one step size, as in the reference implementation; the state is float64 on the CPU,
f sees and returns tensors in whatever dtype and on whatever device it likes. Sums over time (log-determinants) are
best put into the state: they are float64 too and take part in the error control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde._validation import check_choice, check_number

METHODS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


class SolverError(RuntimeError):
    """A solver could not go on; the message names the time, and the samples where they are known."""


@dataclass(frozen=True)
class ODESolution:
    """y: the state at t_end, float64 on the CPU, shape of the start. nfe: evaluations of f. accepted: steps taken."""

    y: Tensor
    nfe: int
    accepted: int


@dataclass(frozen=True)
class ScipyODE:
    """`scipy.integrate.solve_ivp` on tensors.

    method: one of RK45, RK23, DOP853, Radau, BDF, LSODA.
    rtol, atol: tolerances of the local error per step, > 0; the paper uses 1e-5 for both.
    max_nfe: evaluations after which it gives up with a SolverError.
    """

    method: str = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 100_000

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_number("rtol", self.rtol, above=0.0)
        check_number("atol", self.atol, above=0.0)

    def solve(self, f: Callable[[float, Tensor], Tensor], y: Tensor, t_start: float, t_end: float) -> ODESolution:
        """Integrate from (t_start, y) to t_end. f(t, y) gets y as float64 (CPU) in the shape of ``y``.

        Raises SolverError where f returns a non-finite value, or the step size underflows.
        """
        shape, nfe = y.shape, 0

        def flat(t: float, state: np.ndarray) -> np.ndarray:
            nonlocal nfe
            nfe += 1
            if nfe > self.max_nfe:
                raise SolverError(f"{self.method} gave up at t={t:g} after max_nfe={self.max_nfe} evaluations")
            slope = f(t, torch.from_numpy(state).reshape(shape)).detach().to("cpu", torch.float64)
            if not bool(torch.isfinite(slope).all()):
                bad = torch.nonzero(~torch.isfinite(slope).reshape(shape[0], -1).all(1)).flatten().tolist()
                raise SolverError(f"the right-hand side is not finite at t={t:g} for batch positions {bad[:8]}")
            return slope.reshape(-1).numpy()

        start = y.detach().to("cpu", torch.float64).reshape(-1).numpy()
        found = solve_ivp(flat, (t_start, t_end), start, method=self.method, rtol=self.rtol, atol=self.atol)
        if not found.success:
            raise SolverError(f"{self.method} stopped at t={found.t[-1]:g} of {t_end:g}: {found.message}")
        return ODESolution(torch.from_numpy(found.y[:, -1].copy()).reshape(shape), nfe, len(found.t) - 1)
