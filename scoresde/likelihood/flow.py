"""log p(x) by the probability flow (Song et al. 2021, section 4.3 and appendix D.2; Chen et al. 2018).

    dx/dt = v(x, t) = f - g^2 score / 2
    log p_(t_min)(x) = log p_T(x_T) + int_(t_min)^T div v(x_t, t) dt

The state and the integral go through the solver together, in float64. Where the state is more than the data, the rest
is drawn and its log-density q subtracted, log p(x, v) - log q(v): in the mean a lower bound of log p(x).

What the number is not: t_min > 0 makes it the density of data with noise sigma(t_min), evaluated at x; and p_T is taken to be the
prior. Both are recorded with the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_finite, check_number
from scoresde.likelihood.divergence import Divergence, Hutchinson
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, Score, check_same_process
from scoresde.solvers import ScipyODE


@dataclass(frozen=True)
class LikelihoodResult:
    """Log-likelihoods of a batch.

    log_prob: (B,) nats, float64; the mean over probes.
    standard_error: (B,) nats, of the trace estimate alone: 0 for the exact divergence, NaN for a single probe (unknown).
    latent: (B, *event), x_T.
    prior_log_prob: (B,) nats, log p_T(x_T).
    nfe: evaluations of the score for the whole batch. vjps: vector-Jacobian products on top of them.
    settings: how it was computed: solver, divergence, t_min, seed.
    """

    log_prob: Tensor
    standard_error: Tensor
    latent: Tensor
    prior_log_prob: Tensor
    nfe: int
    vjps: int
    settings: dict[str, str]

    def __repr__(self) -> str:
        mean = float(self.log_prob.mean())
        return f"LikelihoodResult(mean log_prob={mean:.4f} nats over {len(self.log_prob)}, nfe={self.nfe}, {self.settings})"


def log_likelihood(
    sde: SDE,
    score: Score,
    x: Tensor,
    *,
    solver: ScipyODE | None = None,
    divergence: Divergence | None = None,
    tolerance: float | None = None,
    t_min: float = 1e-5,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
) -> LikelihoodResult:
    """log p(x) in nats under the probability flow of ``score``.

    sde: the process of the score.
    score: (x, t) -> the shape of x.
    x: (B, *event) finite data.
    solver: a `ScipyODE`; RK45 at 1e-5 unless given. Its tolerance is held by the batch as a whole, see there.
    divergence: `Hutchinson()` (one Rademacher probe, the paper's) unless given; `Exact()` for small events.
    tolerance: sets rtol and atol of the default solver, in place of ``solver``.
    t_min: where the flow starts, in [0, T); the paper takes 1e-5.
    seed, first: key of the probes: sample i of the batch has the number first + i. ``noise`` replaces both.

    Raises ValueError for bad input, SolverError where the solver cannot go on.
    """
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    check_number("t_min", t_min, least=0.0)
    if t_min >= sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: give a number in [0, {sde.T})")
    if solver is not None and tolerance is not None:
        raise ValueError("give either solver or tolerance: a solver has its own rtol and atol")
    solver = solver or ScipyODE(rtol=tolerance or 1e-5, atol=tolerance or 1e-5)
    divergence = divergence or Hutchinson()
    noise = noise or NoiseSource.of(seed, len(x), first, x.device)
    x, drawn = sde.lift(x, noise)
    probes = divergence.probes(x, noise)
    d = x[0].numel()

    def slope(t: float, state: Tensor) -> Tensor:
        times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        here = state[:, :d].to(x).reshape(x.shape)
        velocity, div = divergence(lambda y: sde.flow_drift(y, times, score(y, times)), here, probes)
        return torch.cat((velocity.reshape(len(x), d).double(), div.mT.double()), dim=1)

    start = torch.cat((x.reshape(len(x), d).double().cpu(), torch.zeros(len(x), divergence.estimates)), dim=1)
    solution = solver.solve(slope, start, t_min, sde.T)
    latent = solution.y[:, :d].reshape(x.shape)
    prior = sde.prior_log_prob(latent)
    log_prob = prior[:, None] + solution.y[:, d:] - torch.as_tensor(drawn, dtype=torch.float64)[..., None]
    if divergence.estimates > 1:
        error = log_prob.std(1) / math.sqrt(divergence.estimates)
    else:
        error = torch.full_like(prior, 0.0 if divergence.exact else math.nan)
    settings = {"solver": repr(solver), "divergence": repr(divergence), "t_min": f"{t_min:g}", "seed": str(seed)}
    return LikelihoodResult(
        log_prob.mean(1), error, latent.to(x), prior, solution.nfe, solution.nfe * len(probes), settings
    )
