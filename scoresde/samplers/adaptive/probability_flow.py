r"""Sampling with the probability-flow ODE (Song et al. 2021, section 4.3).

.. math::

    dx/dt = f(x, t) - \tfrac{1}{2} g(t)^2 \nabla \log p_t(x), \qquad x_T \sim p_T

The ODE is solved from T down to ``t_min``. The result is a deterministic function of the start. Solved in the other
direction (:meth:`ProbabilityFlowODE.encode`), the ODE maps data to its latent, which is the start that leads back to
the data.

At the end the reference implementation makes one step of reverse diffusion without noise. With ``denoise=True`` this
sampler returns Tweedie's mean E[x_0 | x] at ``t_min``, which is the same step for any process. It costs one evaluation
of the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_finite
from scoresde.noise import NoiseSource
from scoresde.samplers.adaptive.base import SolverSampler
from scoresde.samplers.base import Callback, CountedScore
from scoresde.sde import SDE, Score, check_same_process
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import ODESolver, ScipyODE, SolverError


class ProbabilityFlowODE(SolverSampler):
    """The probability-flow ODE, solved with adaptive steps.

    The solver computes in float64. The callback is called after every step of the solver.

    Args:
        solver: A :class:`~scoresde.solvers.ScipyODE`, which solves the whole batch on the CPU with one step size; or a
            :class:`~scoresde.solvers.RungeKutta`, which runs on the device of the state. By default ``RungeKutta`` has
            a step size for each sample, so a sample does not depend on the other samples of its batch.
        t_min: Last time, in (0, T). None takes the process's own ``t_min`` if it has one, else 1e-3. The paper uses
            1e-3 (VP, sub-VP) and 1e-5 (VE).
        denoise: Return E[x_0 | x] at ``t_min`` instead of the state, with one more evaluation of the score. Pass False
            for the end point of the flow itself, for example to encode it again.
    """

    def __init__(
        self,
        solver: ODESolver = ScipyODE(),  # noqa: B008  (frozen)
        *,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        self.solver = solver
        self.set_end(t_min, denoise=denoise)

    def run(
        self, sde: SDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        t_min = self.last_time(sde)
        x = self._integrate(sde, score, x, sde.T, t_min, callback)
        return self.denoised(sde, score, x, t_min), torch.empty(0)

    @torch.no_grad()
    @in_evaluation_mode("score")
    def encode(self, sde: SDE, score: Score, x: Tensor) -> Tensor:
        """Map a state at ``t_min`` to its latent at T.

        With the latent as ``start``, a sampler with ``denoise=False`` returns ``x``.

        Args:
            sde: The process.
            score: The score, ``(x, t)`` -> the shape of ``x``.
            x: State at ``t_min``, of shape ``(B, *state)``.

        Returns:
            The latent, of shape ``(B, *state)``.

        Raises:
            SolverError: If the solver cannot continue.
        """
        check_batch("x", x)
        check_finite("x", x)
        check_same_process(sde, score)
        t_min = self.last_time(sde)
        checked = CheckedScore(score, len(x), x.dtype)
        return self._integrate(sde, checked, wide(x), t_min, sde.T, None).to(x.dtype)

    def _integrate(
        self, sde: SDE, score: Score, x: Tensor, t_start: float, t_end: float, callback: Callback | None
    ) -> Tensor:
        def slope(t: float | Tensor, y: Tensor) -> Tensor:
            y = y.to(x)
            times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
            return sde.flow_drift(y, times, score(y, times))

        def accepted(step: int, t: float, y: Tensor) -> None:
            if callback is not None:  # ``encode`` has none
                callback(step, torch.tensor(t, dtype=x.dtype), y.to(x))

        solution = self.solver.solve(slope, x.double(), t_start, t_end, accepted)
        if solution.failed is not None and bool(solution.failed.any()):
            where = solution.failed.nonzero().flatten().tolist()[:8]
            raise SolverError(f"{self.solver!r} could not continue for batch positions {where}")
        return solution.y.to(x)
