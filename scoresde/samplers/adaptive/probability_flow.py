"""Sampling by the probability-flow ODE (Song et al. 2021, section 4.3): deterministic given the start.

    dx/dt = f(x, t) - g(t)^2 score(x, t) / 2        from x ~ p_T at T down to t_min

Run upwards (`encode`) it maps data to its latent, the same start that would bring it back. At the end the reference
implementation makes one step of reverse diffusion without noise; `denoise` takes Tweedie's mean E[x_0 | x_(t_min)], the
same thing for any process, at the price of one evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_choice, check_finite, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.grids import check_t_min
from scoresde.sde import SDE, LinearSDE, Score, check_same_process
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import ODESolver, ScipyODE, SolverError


class ProbabilityFlowODE(Sampler):
    """The probability flow by a solver with adaptive steps, which the callback sees step by step.

    solver: a `ScipyODE`, the whole batch with one step size on the CPU; or a `RungeKutta`, where the tensors are, by default with
        a step size for each sample, which is then the same in any batch. The state is float64 in either.
    t_min: where it stops, in (0, T); the paper takes 1e-3 (VP, sub-VP) and 1e-5 (VE).
    denoise: return E[x_0 | x] at t_min in place of x.
    """

    def __init__(self, solver: ODESolver = ScipyODE(), t_min: float = 1e-3, *, denoise: bool = False) -> None:  # noqa: B008
        check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        self.solver, self.t_min, self.denoise = solver, t_min, denoise

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        check_t_min(sde, self.t_min)
        x = self._integrate(sde, score, x, sde.T, self.t_min, callback)
        if self.denoise:
            t = torch.full((len(x),), self.t_min, dtype=x.dtype, device=x.device)
            x = sde.data_from_score(x, t, score(x, t))
        return x, torch.empty(0)

    @torch.no_grad()
    @in_evaluation_mode("score")
    def encode(self, sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
        """The latent at T of a state x (B, *state) at t_min: what `start` must be for the sampler to return it.

        Raises SolverError where the solver cannot go on.
        """
        check_batch("x", x)
        check_finite("x", x)
        check_same_process(sde, score)
        check_t_min(sde, self.t_min)
        checked = CheckedScore(score, len(x), x.dtype)
        return self._integrate(sde, checked, wide(x), self.t_min, sde.T, None).to(x.dtype)

    def _integrate(
        self, sde: SDE, score: Score, x: Tensor, t_start: float, t_end: float, callback: Callback | None
    ) -> Tensor:
        def slope(t: float | Tensor, y: Tensor) -> Tensor:
            y = y.to(x)
            times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
            return sde.flow_drift(y, times, score(y, times))

        def accepted(step: int, t: float, y: Tensor) -> None:
            if callback is not None:  # `encode` has none
                callback(step, torch.tensor(t, dtype=x.dtype), y.to(x))

        solution = self.solver.solve(slope, x.double(), t_start, t_end, accepted)
        if solution.failed is not None and bool(solution.failed.any()):
            where = solution.failed.nonzero().flatten().tolist()[:8]
            raise SolverError(f"{self.solver!r} could not go on for batch positions {where}")
        return solution.y.to(x)
