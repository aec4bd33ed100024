"""Symmetric splitting of the reverse SDE: the SSCS of Dockhorn, Vahdat, Kreis (2022, arXiv:2112.07068).

Let N(0, S) be the prior of a linear process and its stationary distribution, F S + S F^T + G G^T = 0. (If the prior is
N(m, S) and the drift vanishes at m, replace x by x - m.) The reverse-time SDE with tau = T - t is the sum of two
parts::

    dx = [-F x - G G^T S^-1 x] dtau + G dw      A: reversal of the stationary process, an Ornstein-Uhlenbeck process
       + G G^T [score + S^-1 x] dtau            B: difference between the score and the score of the prior

Part A has an exact solution. If a forward step is x_t = A x_s + N(0, C) and both ends are N(0, S), Bayes' rule gives a
Gaussian reversal::

    x_s | x_t ~ N(S A^T S^-1 x_t,  S - S A^T S^-1 A S)

For critically damped Langevin diffusion this is the forward kernel with the sign of the velocity changed, and B is the
term 2 Gamma beta (score_v + v / M) of the velocity.

A step is half of A, all of B by Euler's method, and half of A. The score is evaluated once, at the state in the middle
and, as in the authors' code, at the time t of the start. G G^T at the middle time approximates its mean. Because of
Euler's method the order is one. Part A has no error: as long as the marginal equals the prior, the steps keep it for
any number of steps, so the method stays accurate with few steps.
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
    """Symmetric splitting of the reverse SDE, for processes whose prior is their stationary distribution.

    A step is half of the analytic part, all of the score part, and half of the analytic part.

    Args:
        steps, grid, t_min, denoise: See :class:`Predictor`.

    References:
        Dockhorn, Vahdat, Kreis 2022, arXiv:2112.07068.
    """

    draws_per_step = 2  # one for each half; without an annotation, so that it is not a field

    def has_step(self, process: LinearSDE) -> bool:
        """False: the step is written with linear maps for every process."""
        return False

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError(f"{self!r} has no step with scalar coefficients: use map_step")

    def check(self, sde: LinearSDE) -> None:
        """Raise ValueError unless the prior is the stationary distribution of the process."""
        excess, motion = drift_of_covariance(sde), drift_of_mean(sde)
        if not (excess < 1e-4 and motion < 1e-4):
            raise ValueError(
                f"{sde!r} is not stationary in its prior N(m, S): F S + S F^T + G G^T is {excess:.2g} of G G^T and the "
                f"drift at m {motion:.2g} of G. SymmetricSplitting needs 0 for both, as for VP processes and Langevin "
                "diffusion: use ReverseDiffusion or EulerMaruyama"
            )

    def before_score(self, sde: LinearSDE, step: Step, x: Tensor, z: Tensor | None) -> Tensor:
        """The first analytic half."""
        assert z is not None
        first, _ = halves(sde, step, x)
        return first.mean(x) + first.scale(z[0])

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """The score part and the second analytic half, from the state in the middle and its score."""
        assert z is not None
        _, second = halves(sde, step, x)
        x = x + sde.apply_diffusion_matrix(score - prior_score(sde, x), 0.5 * (step.t + step.s)) * (step.t - step.s)
        mean = second.mean(x)
        return mean + second.scale(z[1]), mean


def halves(sde: LinearSDE, step: Step, x: Tensor) -> tuple[GaussianKernel, GaussianKernel]:
    """The stationary reversals from t to the middle and from the middle to s, computed in float64, in the dtype of x."""
    t, s = step.t.to(torch.float64), step.s.to(torch.float64)
    m, root, origin = 0.5 * (t + s), sde.prior_root(), sde.prior_mean()
    first, second = (reversal(kernel, root) for kernel in (sde.transition(m, t), sde.transition(s, m)))
    return ShiftedKernel(first, origin, origin).to(x), ShiftedKernel(second, origin, origin).to(x)


def prior_score(sde: LinearSDE, x: Tensor) -> Tensor:
    """-S^-1 (x - m)."""
    inverse = sde.prior_root().to(x).inverse()
    return -inverse.transpose()(inverse(x - expand(sde.prior_mean(), x).to(x)))


def reversal(kernel: GaussianKernel, root: LinearMap) -> MapKernel:
    """The kernel x_s | x_t for a forward kernel x_t | x_s without shift, if both ends are N(0, S) with S = root root^T."""
    forward, rest = kernel.signal_map(), root.compose(root.transpose())
    back = rest.compose(forward.transpose()).compose(rest.inverse())
    explained = back.compose(forward).compose(rest)
    covariance = rest.add(explained.add(explained.transpose()).times(torch.tensor(-0.5, dtype=torch.float64)))
    return MapKernel(back, covariance.root())


def drift_of_covariance(sde: LinearSDE) -> float:
    """The maximum over [0, T] of ||F S + S F^T + G G^T|| / ||G G^T||. It is 0 if N(0, S), the prior, is stationary."""
    t = torch.linspace(0.0, sde.T, 9, dtype=torch.float64)[
        1:-1
    ]  # tabulated processes may have rounding errors at the ends
    root = sde.prior_root()
    turned = sde.drift_map(t).compose(root.compose(root.transpose()))
    g = sde.diffusion_map(t)
    noise = g.compose(g.transpose())
    change = turned.add(turned.transpose()).add(noise)
    return float((change.mean_square() / noise.mean_square()).max().sqrt())


def drift_of_mean(sde: LinearSDE) -> float:
    """The maximum over [0, T] of |f(m, t)| / ||G||, root mean squares. It is 0 if the prior's mean m is stationary."""
    mean = sde.prior_mean()
    if mean.ndim == 1 and not bool(mean.any()):  # no shift: the drift vanishes at 0
        return 0.0
    t = torch.linspace(0.0, sde.T, 9, dtype=torch.float64)[1:-1]
    drift = sde.drift(mean.expand(len(t), *mean.shape[1:]), t)
    return float((drift.flatten(1).square().mean(1).sqrt() / sde.diffusion(t)).max())
