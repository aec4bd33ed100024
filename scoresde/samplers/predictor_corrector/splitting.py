"""Symmetric splitting of the reverse SDE: the SSCS of Dockhorn, Vahdat, Kreis (2022, arXiv:2112.07068).

For a linear process that is at rest in its prior N(0, S), F S + S F^T + G G^T = 0, the reverse-time SDE, tau = T - t, is (with
x - m for x where the prior is N(m, S) and the drift vanishes at m)

    dx = [-F x - G G^T S^-1 x] dtau + G dw      A: the reversal of the process at rest, an Ornstein-Uhlenbeck process
       + G G^T [score + S^-1 x] dtau            B: by how much the score differs from the prior's

A is exact: where a forward step is x_t = A x_s + N(0, C) and both ends are N(0, S), its reversal is Gaussian too (Bayes),

    x_s | x_t ~ N(S A^T S^-1 x_t,  S - S A^T S^-1 A S)

For critically damped Langevin diffusion that is the forward kernel with the velocity's sign turned, and B is the kick
2 Gamma beta (score_v + v / M) of the velocity. A step is half of A, all of B by Euler's method, half of A; the score is taken
once, at the state in the middle and, as in the authors' code, the time t at the start; G G^T at the middle stands for its mean.
Euler's method leaves it of first order, but A has no error: while the marginal is still the prior its law is kept for any number
of steps, and few steps are not thrown off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.samplers.discretization import Grid, Step, Steps  # noqa: F401  (Grid, Steps: of inherited fields)
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.predictors import Predictor
from scoresde.sde import GaussianKernel, LinearMap, LinearSDE, MapKernel, ShiftedKernel


@dataclass(frozen=True, repr=False, eq=False)
class SymmetricSplitting(Predictor):
    """Half of the analytic part, all of the score part, half of the analytic part; for processes at rest in their prior."""

    draws_per_step = 2  # one for each half; no annotation: not an argument

    def has_step(self, process: LinearSDE) -> bool:
        """No: every process takes the maps."""
        return False

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError(f"{self!r} steps by maps alone")

    def check(self, sde: LinearSDE) -> None:
        """Raise ValueError where the prior is not the process's law of rest."""
        excess, motion = drift_of_covariance(sde), drift_of_mean(sde)
        if not (excess < 1e-4 and motion < 1e-4):
            raise ValueError(
                f"{sde!r} does not rest in its prior N(m, S): F S + S F^T + G G^T is {excess:.2g} of G G^T and the drift at m "
                f"{motion:.2g} of G, and the splitting needs 0 of both, as VP processes and Langevin diffusion have it; use "
                "ReverseDiffusion or EulerMaruyama"
            )

    def approach(self, sde: LinearSDE, step: Step, x: Tensor, z: Tensor | None) -> Tensor:
        """The first analytic half."""
        assert z is not None
        first, _ = halves(sde, step, x)
        return first.mean(x) + first.scale(z[0])

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """The score part and the second analytic half, from the state in the middle and the score there."""
        assert z is not None
        _, second = halves(sde, step, x)
        x = x + sde.apply_diffusion_matrix(score - prior_score(sde, x), 0.5 * (step.t + step.s)) * (step.t - step.s)
        mean = second.mean(x)
        return mean + second.scale(z[1]), mean


def halves(sde: LinearSDE, step: Step, x: Tensor) -> tuple[GaussianKernel, GaussianKernel]:
    """The reversal at rest from t to the middle and from there to s; made in float64, in the dtype of x."""
    t, s = step.t.to(torch.float64), step.s.to(torch.float64)
    m, root, origin = 0.5 * (t + s), sde.prior_root(), sde.prior_mean()
    first, second = (reversal(kernel, root) for kernel in (sde.transition(m, t), sde.transition(s, m)))
    return ShiftedKernel(first, origin, origin).to(x), ShiftedKernel(second, origin, origin).to(x)


def prior_score(sde: LinearSDE, x: Tensor) -> Tensor:
    """-S^-1 (x - m)."""
    inverse = sde.prior_root().to(x).inverse()
    return -inverse.transpose()(inverse(x - expand(sde.prior_mean(), x).to(x)))


def reversal(kernel: GaussianKernel, root: LinearMap) -> MapKernel:
    """The kernel x_s | x_t of a forward kernel x_t | x_s, both without shift, whose two ends are N(0, S), S = root root^T."""
    forward, rest = kernel.signal_map(), root.compose(root.transpose())
    back = rest.compose(forward.transpose()).compose(rest.inverse())
    explained = back.compose(forward).compose(rest)
    covariance = rest.add(explained.add(explained.transpose()).times(torch.tensor(-0.5, dtype=torch.float64)))
    return MapKernel(back, covariance.root())


def drift_of_covariance(sde: LinearSDE) -> float:
    """||F S + S F^T + G G^T|| / ||G G^T||, the largest over [0, T]: 0 where N(0, S), the prior, is the process's law of rest."""
    t = torch.linspace(0.0, sde.T, 9, dtype=torch.float64)[1:-1]  # tables may be rounded at the ends
    root = sde.prior_root()
    turned = sde.drift_map(t).compose(root.compose(root.transpose()))
    g = sde.diffusion_map(t)
    noise = g.compose(g.transpose())
    change = turned.add(turned.transpose()).add(noise)
    return float((change.mean_square() / noise.mean_square()).max().sqrt())


def drift_of_mean(sde: LinearSDE) -> float:
    """|f(m, t)| / ||G||, root mean squares over coordinates, the largest over [0, T]: 0 where the prior's mean m is at rest."""
    mean = sde.prior_mean()
    if mean.ndim == 1 and not bool(mean.any()):  # no shift: the drift vanishes at 0
        return 0.0
    t = torch.linspace(0.0, sde.T, 9, dtype=torch.float64)[1:-1]
    drift = sde.drift(mean.expand(len(t), *mean.shape[1:]), t)
    return float((drift.flatten(1).square().mean(1).sqrt() / sde.diffusion(t)).max())
