"""log p by a general solver of ordinary differential equations::

    d/dt (x, l) = (v, div v),  v = f - g^2 score / 2         log p_(t_min)(x) = log p_T(x_T) + l(T)

The solver integrates the state and one integral for each estimate of the divergence together, in float64. It needs a smooth
right-hand side, so the probes stay the same for the whole solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.likelihood.engine import Engine, FlowProblem, FlowSolution, warn_caller
from scoresde.solvers import ODESolver


@dataclass(frozen=True)
class Adaptive(Engine):
    """The probability flow integrated by an adaptive solver.

    The solver's tolerance controls the integration error. The engine returns no estimate of that error.

    Args:
        solver: An ODE solver, e.g. ``ScipyODE()`` or ``RungeKutta()``.
    """

    solver: ODESolver

    def __repr__(self) -> str:
        return repr(self.solver)

    def solve(self, problem: FlowProblem, x: Tensor) -> FlowSolution:
        if problem.differentiable:
            raise ValueError(f"solver={self.solver!r} does not support differentiable=True: give solver=Multistep()")
        sde, divergence, d = problem.sde, problem.divergence, x[0].numel()
        probes = divergence.stream(x, problem.noise)(0, divergence.products)

        def slope(t: float | Tensor, state: Tensor) -> Tensor:
            times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
            here = state[:, :d].to(x).reshape(x.shape)
            velocity, div = divergence(lambda y: sde.flow_drift(y, times, problem.score(y, times)), here, probes)
            return torch.cat((velocity.reshape(len(x), d).double(), div.mT.double()), dim=1)

        start = torch.cat(
            (x.reshape(len(x), d).double(), x.new_zeros(len(x), divergence.estimates, dtype=torch.float64)), dim=1
        )
        solution = self.solver.solve(slope, start, problem.t_min, sde.T)
        final = solution.y.to(x.device)
        latent = final[:, :d].reshape(x.shape)
        prior = sde.prior_log_prob(latent)
        integrals = final[:, d:].mT
        failed = solution.failed if solution.failed is not None else torch.zeros(len(x), dtype=torch.bool)
        if bool(failed.any()):
            where = failed.nonzero().flatten().tolist()[:8]
            message = f"{self.solver!r} failed for batch positions {where}: their log_prob is NaN"
            warn_caller(message)
        return FlowSolution(
            log_prob=prior + integrals.mean(0),
            trace_error=divergence.variance(integrals, d).sqrt(),
            solver_error=torch.full_like(prior, torch.nan),
            latent=latent.to(x),
            prior_log_prob=prior,
            nfe=solution.nfe,
            vjps=solution.nfe * len(probes),
            failed=failed.to(x.device),
        )
