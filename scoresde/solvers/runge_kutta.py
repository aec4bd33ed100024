"""The adaptive Runge-Kutta method of Dormand and Prince, orders 5 and 4, on the device of the tensors.

It solves dy/dt = f(t, y) from y(t_start) to t_end, in either direction. A step of size h is accepted if::

    err = rms(|y_5 - y_4| / (atol + rtol max(|y|, |y'|))) <= 1

where y' is the new state. The next size is h min(5, max(0.2, 0.9 err^(-1/5))). By default every sample has its own
time, step size and error. Then a sample does not depend on its batch, and the other samples continue if one sample
fails.

Reference: Dormand & Prince 1980, J. Comp. Appl. Math. 6, 19-26.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.solvers.ode import LEAST_RTOL, ODESolution, SolverError

_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Difference of the fifth-order and the fourth-order weights."""


@dataclass(frozen=True)
class RungeKutta:
    """Adaptive Runge-Kutta method of order 5, on the device and in the dtype of the state.

    Use float64 states.

    Args:
        rtol: Relative tolerance of the local error per step, >= 1e-13.
        atol: Absolute tolerance of the local error per step, > 0.
        per_sample: Use a step size for each sample. Otherwise the batch has one step size, and its error is the largest
            error of any sample. Then a sample whose trial step is not finite fails at once, while with its own step
            size it tries a smaller step.
        max_steps: Largest number of trial steps. A sample that needs more fails.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    per_sample: bool = field(default=True, kw_only=True)
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        check_number("rtol", self.rtol, least=LEAST_RTOL)
        check_number("atol", self.atol, above=0.0)
        check_count("max_steps", self.max_steps)

    def solve(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        y: Tensor,
        t_start: float,
        t_end: float,
        callback: Callable[[int, float, Tensor], None] | None = None,
    ) -> ODESolution:
        """Integrate from t_start to t_end.

        A sample fails if its slope is not finite, its step is too small, or it needs too many steps. Its state becomes
        NaN, and it is marked in ``failed`` of the result.

        Args:
            f: Right-hand side ``f(t, y)``, with ``t`` of shape ``(B,)`` and ``y`` of shape ``(B, *shape)``. It may
                return another dtype.
            y: State at ``t_start``, of shape ``(B, *shape)``.
            t_start: Start time.
            t_end: End time, before or after ``t_start``.
            callback: Called after each step that any sample accepts, with its number (from 1), the time that all
                samples which did not fail have reached, and the state.

        Returns:
            The state at ``t_end`` and statistics.

        Raises:
            SolverError: If every sample fails.
        """
        count, sign = len(y), 1.0 if t_end >= t_start else -1.0
        t = torch.full((count,), t_start, dtype=y.dtype, device=y.device)
        end = torch.full_like(t, t_end)
        live = torch.ones(count, dtype=torch.bool, device=y.device)
        failed = torch.zeros_like(live)
        slope, nfe, accepted = f(t, y).to(y), 1, 0
        failed, live, slope = self._drop(slope, failed, live)
        h = self._first_step(f, t, y, slope, sign, abs(t_end - t_start))
        if not self.per_sample:
            h = torch.where(live, h, torch.inf).min().expand(count)
        nfe += 1
        evaluations = torch.full((count,), 2, dtype=torch.long, device=y.device)
        for _ in range(self.max_steps):
            if not bool(live.any()):
                break
            h = torch.where(live, torch.minimum(h, (end - t).abs()), 0.0)
            stages = [slope]
            for row, c in zip(_A, _C, strict=True):
                inner = y + expand(sign * h, y) * sum(a * k for a, k in zip(row, stages, strict=True) if a)
                stages.append(f(t + sign * c * h, inner).to(y))
            nfe, evaluations = nfe + 6, evaluations + 6 * live
            error = expand(h, y) * sum(e * k for e, k in zip(_ERROR, stages, strict=True) if e)
            scale = self.atol + self.rtol * torch.maximum(y.abs(), inner.abs())
            size = (error / scale).square().reshape(count, -1).mean(1).sqrt()
            size = torch.where(torch.isfinite(size) & self._finite(stages[-1]), size, torch.inf)
            if not self.per_sample:
                # a sample that is not finite fails at once, so that it does not stop the others
                lost = live & ~torch.isfinite(size)
                failed, live = failed | lost, live & ~lost
                size = torch.where(live, size, 0.0).max().expand(count)
            good = live & (size <= 1.0)
            t = torch.where(good, torch.where(h >= (end - t).abs(), end, t + sign * h), t)
            y, slope = (torch.where(expand(good, y), new, old) for new, old in ((inner, y), (stages[-1], slope)))
            h = h * (0.9 * size.clamp(min=1e-12) ** -0.2).clamp(0.2, 5.0)
            live = live & (t != end)
            stuck = live & (t + sign * h == t)
            failed, live = failed | stuck, live & ~stuck
            if bool(good.any()):
                accepted += 1
                if callback is not None:
                    reached = torch.where(failed, end, t)
                    callback(accepted, float(reached.min() if sign > 0 else reached.max()), y)
        failed = failed | live
        if bool(failed.all()):
            raise SolverError(
                f"the solver stopped at t={t.tolist()[:8]} of {t_end:g}: the right-hand side is not finite, or too stiff for "
                f"max_steps={self.max_steps}"
            )
        return ODESolution(torch.where(expand(failed, y), torch.nan, y), nfe, accepted, failed, evaluations)

    def _first_step(
        self, f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, slope: Tensor, sign: float, span: float
    ) -> Tensor:
        """The first step size for order 5 of Hairer, Norsett & Wanner (Solving Ordinary Differential Equations I, II.4)."""

        def size(v: Tensor) -> Tensor:
            return (v / (self.atol + self.rtol * y.abs())).square().reshape(len(y), -1).mean(1).sqrt()

        d0, d1 = size(y), size(slope)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=span)
        d2 = size(f(t + sign * h0, y + expand(sign * h0, y) * slope) - slope) / h0
        largest = torch.maximum(d1, d2).nan_to_num(nan=torch.inf)
        h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / largest) ** 0.2)
        return torch.minimum(100 * h0, h1).clamp(min=1e-12 * span, max=span)

    @staticmethod
    def _finite(v: Tensor) -> Tensor:
        return torch.isfinite(v).reshape(len(v), -1).all(1)

    def _drop(self, slope: Tensor, failed: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mark the samples whose first slope is not finite."""
        bad = ~self._finite(slope)
        return failed | bad, live & ~bad, torch.where(expand(bad, slope), 0.0, slope)
