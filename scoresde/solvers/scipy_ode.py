"""SciPy's solvers of ordinary differential equations.

They solve dy/dt = f(t, y) from y(t_start) to t_end, in either direction. The whole batch is one system with one step
size, as in the reference implementation. The tolerance holds for the root mean square over the batch: the error of a
single sample may be larger, in the worst case by the square root of the number of samples.

The state is float64 on the CPU. The function f may return tensors of any dtype and on any device. Put integrals over
time, such as log-determinants, into the state: then they are float64 and part of the error control.
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
"""Names of classes of ``scipy.integrate``, which is imported when it is first needed."""


@dataclass(frozen=True)
class ScipyODE:
    """SciPy's solvers on tensors, step by step as in ``scipy.integrate.solve_ivp``.

    Args:
        method: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
        rtol: Relative tolerance of the local error per step, >= 1e-13. The paper uses 1e-5.
        atol: Absolute tolerance of the local error per step, > 0. The paper uses 1e-5.
        max_nfe: Largest number of evaluations of f.
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
        """Integrate from t_start to t_end.

        Args:
            f: Right-hand side ``f(t, y)``. It gets ``t`` as a number, and ``y`` as a float64 tensor on the CPU.
            y: State at ``t_start``, of shape ``(B, *shape)``.
            t_start: Start time.
            t_end: End time, before or after ``t_start``.
            callback: Called after each accepted step with its number (from 1), its time and the state.

        Returns:
            The state at ``t_end``, float64 on the CPU, and statistics.

        Raises:
            SolverError: If f returns a non-finite value, if the step size underflows, or after ``max_nfe`` evaluations.
        """
        from scipy import integrate

        shape, nfe = y.shape, 0

        def flat(t: float, state: np.ndarray) -> np.ndarray:
            nonlocal nfe
            nfe += 1
            if nfe > self.max_nfe:
                raise SolverError(f"{self.method} stopped at t={t:g} after max_nfe={self.max_nfe} evaluations")
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
