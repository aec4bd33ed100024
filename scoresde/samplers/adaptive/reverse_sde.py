r"""Sampling with the reverse-time SDE, solved by torchsde.

.. math::

    dx = [f(x, t) - g(t)^2 \nabla \log p_t(x)] dt + g(t) d\bar w

from T down to ``t_min``. Properties of the methods:

- Euler's steps are those of :class:`~scoresde.samplers.EulerMaruyama`.
- If the diffusion depends only on t, Milstein's steps equal Euler's, of strong and weak order 1. SRK, Heun's method and
  the midpoint method use two evaluations per step for weak order 2. SRK has strong order 1.5, the other methods 1.
  ``benchmarks/sampler_orders.py`` measures these orders.
- If the diffusion depends on the state, use Euler (strong order 1/2), Milstein (1) or SRK (1.5).
- With ``adaptive=True`` each method chooses its steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.noise import NoiseSource
from scoresde.samplers.adaptive.base import SolverSampler
from scoresde.samplers.base import Callback, CountedScore
from scoresde.sde import SDE
from scoresde.solvers import TorchSDE


class ReverseSDESampler(SolverSampler):
    """The reverse-time SDE, solved by torchsde.

    The callback gets every state at which the solver evaluates the drift. With "srk" these are two states per step.

    Args:
        solver: A :class:`~scoresde.solvers.TorchSDE`.
        steps: Number of equal steps. If the solver is adaptive, its first step is (T - t_min) / steps.
        t_min: Last time, in (0, T). None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Return E[x_0 | x] at ``t_min`` instead of the state, with one more evaluation of the score.
    """

    def __init__(
        self,
        solver: TorchSDE = TorchSDE(),  # noqa: B008  (frozen)
        steps: int = 1000,
        *,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        check_count("steps", steps)
        self.solver, self.steps = solver, steps
        self.set_end(t_min, denoise=denoise)

    def check_process(self, sde: SDE) -> None:
        self.solver.check(sde.additive)
        super().check_process(sde)

    def run(
        self, sde: SDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        t_min = self.last_time(sde)
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

        dt = (sde.T - t_min) / self.steps
        x = self.solver.solve(drift, diffusion, x, sde.T, t_min, dt, noise, additive=sde.additive)
        callback(count, torch.tensor(t_min, dtype=x.dtype, device=x.device), x)
        return self.denoised(sde, score, x, t_min), torch.empty(0)
