"""Ordinary differential equations by SciPy: the trusted one.

    dy/dt = f(t, y),  y(t_start) given,  from t_start to t_end in either direction.

The whole batch is one system with one step size, as in the reference implementation, and the tolerance holds for the root mean
square over all of it: one sample among many may exceed it, in the worst case by the square root of their number. The state is
float64 on the CPU, f sees and returns tensors in whatever dtype and on whatever device it likes. Sums over time
(log-determinants) are best put into the state: they are float64 too and take part in the error control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number
from scoresde.solvers.ode import LEAST_RTOL, ODESolution, SolverError

METHODS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
"""Names of classes of `scipy.integrate`, which is imported when it is first needed."""


@dataclass(frozen=True)
class ScipyODE:
    """SciPy's solvers, step by step, on tensors: what `scipy.integrate.solve_ivp` does.

    method: one of RK45, RK23, DOP853, Radau, BDF, LSODA.
    rtol, atol: tolerances of the local error per step, rtol >= 1e-13, atol > 0; the paper uses 1e-5 for both.
    max_nfe: evaluations after which it gives up with a SolverError.
    """

    method: str = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_nfe: int = 100_000

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_number("rtol", self.rtol, least=LEAST_RTOL)
        check_number("atol", self.atol, above=0.0)
        check_count("max_nfe", self.max_nfe)

    def solve(
        self,
        f: Callable[[float, Tensor], Tensor],
        y: Tensor,
        t_start: float,
        t_end: float,
        callback: Callable[[int, float, Tensor], None] | None = None,
    ) -> ODESolution:
        """Integrate from (t_start, y) to t_end. f(t, y) gets y as float64 (CPU) in the shape of ``y``.

        callback: called after each accepted step with its number (from 1), its time and the state.

        Raises SolverError where f returns a non-finite value, or the step size underflows.
        """
        from scipy import integrate

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
        solver = getattr(integrate, self.method)(flat, t_start, start, t_end, rtol=self.rtol, atol=self.atol)
        accepted = 0
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed":
                raise SolverError(f"{self.method} stopped at t={solver.t:g} of {t_end:g}: {message}")
            accepted += 1
            if callback is not None:
                callback(accepted, float(solver.t), torch.from_numpy(solver.y.copy()).reshape(shape))
        return ODESolution(torch.from_numpy(solver.y.copy()).reshape(shape), nfe, accepted)
