"""Sampling by the reverse-time SDE with torchsde's solvers.

    dx = [f - g^2 score] dt + g dw'        from T down to t_min

Euler's steps are Euler-Maruyama again. For a diffusion of t alone Milstein's are Euler's, of strong and weak order 1; SRK, Heun's
and the midpoint method take two evaluations a step for weak order 2, and SRK has strong order 1.5, the others 1
(`benchmarks/sampler_orders.py` measures them). A diffusion of the state takes Euler, strong order 1/2, Milstein, 1, or SRK, 1.5.
With ``adaptive`` each method chooses its steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.grids import check_t_min
from scoresde.sde import LinearSDE
from scoresde.solvers import TorchSDE


class ReverseSDESampler(Sampler):
    """The reverse SDE by torchsde. A callback sees every state at which the drift is asked for: of srk two for each step.

    solver: a `TorchSDE`.
    steps: number of equal steps; where the solver is adaptive, T / steps is its first.
    t_min: where it stops, in (0, T).
    denoise: return E[x_0 | x] at t_min, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        solver: TorchSDE = TorchSDE(),  # noqa: B008  (frozen)
        steps: int = 1000,
        t_min: float = 1e-3,
        *,
        denoise: bool = True,
    ) -> None:
        check_count("steps", steps)
        check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        self.solver, self.steps, self.t_min, self.denoise = solver, steps, t_min, denoise

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        self.solver.check(sde.additive)
        check_t_min(sde, self.t_min)
        end = torch.full((len(x),), self.t_min, dtype=x.dtype, device=x.device)
        if self.denoise:  # a process without a mean of x_0 says so now
            sde.data_from_score(x, end, torch.zeros_like(x))
        count = 0

        def times(x: Tensor, t: Tensor) -> Tensor:
            return t.to(x).clamp(0.0, sde.T).expand(len(x)).contiguous()

        def drift(x: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            if count > 0:  # the first state is the start
                callback(count, t, x)
            count += 1
            return sde.reverse_drift(x, times(x, t), score(x, times(x, t)))

        def diffusion(x: Tensor, t: Tensor) -> Tensor:
            if sde.additive:
                return sde.apply_diffusion(x, times(x, t))
            return sde.apply_diffusion(torch.ones_like(x), times(x, t), x)

        dt = (sde.T - self.t_min) / self.steps
        x = self.solver.solve(drift, diffusion, x, sde.T, self.t_min, dt, noise, additive=sde.additive)
        callback(count, end[0], x)
        if self.denoise:
            x = sde.data_from_score(x, end, score(x, end))
        return x, torch.empty(0)
