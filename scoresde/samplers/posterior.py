"""Predictors that put x_0 at its expectation and keep part of the noise that x_t holds: DDIM, consistent annealed sampling.

With A the forward step's map and C its covariance, S_t = L L^T that of x_t given x_0, and x_t = A_t x_0 + noise, a step carries
the noise by a map P and adds as much anew as the law of x_s given x_0 needs, S_s = A^-1 (S_t - C) A^-T:

    x_s = A_s E[x_0 | x_t] + P (x_t - A_t E[x_0 | x_t]) + (S_s - P S_t P^T)^(1/2) z
        = A^-1 x_t + (A^-1 - P) S_t score + ...

    DDIM(eta)                  P = (S_s - eta^2 Q)^(1/2) S_t^(-1/2), Q the bridge's covariance  Song et al. 2020, arXiv:2010.02502
    ConsistentAnnealed(eta)    P = (1 - eta) A^-1                   Jolicoeur-Martineau et al. 2020, arXiv:2009.05475

Any P is exact for data in one point. DDIM converges with the first order: to the flow for eta = 0, to the reverse SDE for
eta = 1, where it is `Ancestral("lower")`. Roots of blocks are Cholesky's: other paths than the flow's, with the same marginals.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.samplers.exponential import Factor, combine, factors
from scoresde.samplers.predictors import Predictor
from scoresde.samplers.walk import Step, Walk
from scoresde.sde import LinearMap, LinearSDE


class Posterior(Predictor):
    """A step by the map P that a subclass gives."""

    @abstractmethod
    def carried(self, walk: Walk, covariance: LinearMap, before: LinearMap) -> LinearMap:
        """P for all steps; ``covariance`` S_t, ``before`` S_s."""

    def prepare(self, sde: LinearSDE, walk: Walk, like: Tensor) -> Predictor:
        """The steps with their coefficients. Raises ValueError where they would carry more noise than x_s may have."""
        n, minus = len(walk), torch.full((len(walk),), -1.0, dtype=torch.float64)
        back, step, noise = walk.kernels.signal_map().inverse(), walk.kernels.noise_map(), walk.marginals.noise_map()
        covariance = noise.compose(noise.transpose())
        before = back.compose(covariance.add(step.compose(step.transpose()).times(minus))).compose(back.transpose())
        carried = self.carried(walk, covariance, before)
        fresh = before.add(carried.compose(covariance).compose(carried.transpose()).times(minus))
        root = fresh.root()
        clamped = root.compose(root.transpose()).add(fresh.times(minus)).mean_square()
        if bool((clamped > 1e-12 * before.mean_square()).any()):
            raise ValueError(
                f"{self!r} would carry more noise than x_s may hold, at {int((clamped > 0).sum())} of {n} steps: give more "
                "steps, or an eta nearer to 1"
            )
        on_score = back.add(carried.times(minus)).compose(covariance)
        return _Prepared(factors(on_score, like, n), factors(root, like, n) if self.stochastic else None)

    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{self!r} has coefficients for a whole walk: step with what prepare(sde, walk, x) returns")


@dataclass(frozen=True)
class _Prepared(Predictor):
    """The steps of one walk: factors on the score and, where there is noise, on the noise."""

    on_score: list[Factor]
    on_noise: list[Factor] | None

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.on_noise is not None

    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = combine(((1.0, step.kernel.solve(x)), (self.on_score[step.index], score)))
        if self.on_noise is None or z is None:
            return mean, mean
        return combine(((1.0, mean), (self.on_noise[step.index], z))), mean


@dataclass(frozen=True)
class DDIM(Posterior):
    """Denoising diffusion implicit models; eta: 0 for no noise, 1 for DDPM's (the bridge's), in [0, 1]."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta, least=0.0, most=1.0)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step adds noise."""
        return self.eta > 0.0

    def carried(self, walk: Walk, covariance: LinearMap, before: LinearMap) -> LinearMap:
        bridge = walk.bridged.noise_map()
        minus = torch.full((len(walk),), -(self.eta**2), dtype=torch.float64)
        kept = before.add(bridge.compose(bridge.transpose()).times(minus))
        return kept.root().compose(walk.marginals.noise_map().inverse())


@dataclass(frozen=True)
class ConsistentAnnealed(Posterior):
    """Consistent annealed sampling: Langevin steps whose noise level is that of x_s exactly, where x_0 is known.

    eta: share of x_t's noise that the score takes away; with gamma the ratio of two levels sigma / alpha it must lie in
        [1 - gamma, 1 + gamma]. It is a step size: the law keeps a bias of order eta however many the steps.
    """

    eta: float = 0.3

    def __post_init__(self) -> None:
        check_number("eta", self.eta, above=0.0, most=2.0)

    def carried(self, walk: Walk, covariance: LinearMap, before: LinearMap) -> LinearMap:
        return walk.kernels.signal_map().inverse().times(torch.full((len(walk),), 1.0 - self.eta, dtype=torch.float64))
