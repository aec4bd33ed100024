"""Predictors that put x_0 at its expectation and keep part of the noise that x_t holds: DDIM, consistent annealed sampling.

For x_t = alpha_t x_0 + sigma_t z a step keeps noise of the size ``kept`` and adds what the law of x_s given x_0 still needs:

    x_s = alpha_s E[x_0 | x_t] + kept E[z | x_t] + sqrt(sigma_s^2 - kept^2) z'

    DDIM(eta)                  kept = sqrt(sigma_s^2 - eta^2 sigma_(s|t)^2)     Song et al. 2020, arXiv:2010.02502
    ConsistentAnnealed(eta)    kept = (1 - eta) sigma_t alpha_s / alpha_t        Jolicoeur-Martineau et al. 2020, arXiv:2009.05475

with sigma_(s|t) the standard deviation of q(x_s | x_t, x_0). For any linear process, A the forward step's map and C its
covariance, S_t = L L^T that of x_t given x_0, S_s = A^-1 (S_t - C) A^-T, and P = kept / sigma_t a map:

    x_s = A_s E[x_0 | x_t] + P (x_t - A_t E[x_0 | x_t]) + (S_s - P S_t P^T)^(1/2) z
        = A^-1 x_t + (A^-1 - P) S_t score + ...

Any P is exact for data in one point. DDIM converges with the first order: to the flow for eta = 0, to the reverse SDE for
eta = 1, where it is `Ancestral("lower")`. Roots of blocks are Cholesky's: other paths than the flow's, with the same marginals.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.samplers.discretization import Grid, Step, Steps, Transitions  # noqa: F401  (Grid, Steps: of inherited fields)
from scoresde.samplers.exponential.coefficients import Factor, combine, factors
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.predictors import Predictor
from scoresde.sde import LinearMap, LinearSDE, ScalarSDE


@dataclass(frozen=True, repr=False, eq=False)
class Posterior(Predictor):
    """A step by how much of the noise it keeps, which a subclass gives."""

    @abstractmethod
    def kept(self, interval: Interval) -> float:
        """Standard deviation of the noise in x_t that stays in x_s."""

    @abstractmethod
    def kept_maps(self, walk: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        """P for all steps of any linear process; ``covariance`` S_t, ``before`` S_s."""

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = alpha_s x_0 + kept noise + sqrt(sigma_s^2 - kept^2) z."""
        at, to, kept = interval.at, interval.to, self.kept(interval)
        noise = model.noise(x, at)
        x_0 = (x - at.sigma * noise) / at.alpha
        mean = to.alpha * x_0 + kept * noise
        return (mean if z is None else mean + max(to.sigma**2 - kept**2, 0.0) ** 0.5 * z), mean, None

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps. Raises ValueError where they would keep more noise than x_s may hold."""
        bad = 0
        for interval in intervals:
            at, to, kept = interval.at, interval.to, self.kept(interval)
            before = (
                at.sigma**2 - interval.std**2
            )  # a^2 sigma_s^2; below 0 where a chain's last step added more than all noise
            bad += before < -1e-12 * at.sigma**2 or kept**2 > (1.0 + 1e-6) * to.sigma**2
        if bad:
            raise ValueError(self._too_much(bad, len(intervals)))
        return intervals

    def _too_much(self, bad: int, steps: int) -> str:
        return (
            f"{type(self).__name__} with eta={self.eta!r} would keep more noise than x_s may hold, at {bad} of {steps} "  # type: ignore[attr-defined]
            "steps: give more steps, or an eta nearer to 1"
        )

    def prepare(self, sde: LinearSDE, walk: Transitions, like: Tensor) -> Predictor:
        """The steps with their coefficients. Raises ValueError where they would keep more noise than x_s may hold."""
        n, minus = len(walk), torch.full((len(walk),), -1.0, dtype=torch.float64)
        back, step, noise = walk.kernels.signal_map().inverse(), walk.kernels.noise_map(), walk.marginals.noise_map()
        covariance = noise.compose(noise.transpose())
        if walk.before is None:
            before = back.compose(covariance.add(step.compose(step.transpose()).times(minus))).compose(back.transpose())
        else:
            before = walk.before.noise_map().compose(walk.before.noise_map().transpose())
        carried = self.kept_maps(walk, covariance, before)
        fresh = before.add(carried.compose(covariance).compose(carried.transpose()).times(minus))
        root = fresh.root()
        clamped = root.compose(root.transpose()).add(fresh.times(minus)).mean_square()
        if bool((clamped > 1e-12 * before.mean_square()).any()):
            raise ValueError(self._too_much(int((clamped > 0).sum()), n))
        on_score = back.add(carried.times(minus)).compose(covariance)
        return _Prepared(factors(on_score, like, n), factors(root, like, n) if self.stochastic else None)

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{self!r} has coefficients for a whole grid: step with what prepare(sde, plan, x) returns")


class _Prepared(Predictor):
    """The steps of one grid: factors on the score and, where there is noise, on the noise."""

    def __init__(self, on_score: list[Factor], on_noise: list[Factor] | None) -> None:
        super().__init__()
        object.__setattr__(self, "on_score", on_score)
        object.__setattr__(self, "on_noise", on_noise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError("the coefficients are those of maps")

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = combine(((1.0, step.kernel.solve(x)), (self.on_score[step.index], score)))  # type: ignore[attr-defined]
        if self.on_noise is None or z is None:  # type: ignore[attr-defined]
            return mean, mean
        return combine(((1.0, mean), (self.on_noise[step.index], z))), mean  # type: ignore[attr-defined]


@dataclass(frozen=True, repr=False, eq=False)
class DDIM(Posterior):
    """Denoising diffusion implicit models.

    Args:
        eta: 0 for no noise, 1 for DDPM's (that of q(x_s | x_t, x_0)), in [0, 1].
        steps: See `Predictor`, as ``grid``, ``t_min`` and ``denoise``.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, least=0.0, most=1.0)

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return self.eta > 0.0

    def kept(self, interval: Interval) -> float:
        """sqrt(sigma_s^2 - eta^2 sigma_(s|t)^2)."""
        variance = max(interval.to.sigma**2 - (self.eta * interval.posterior_std) ** 2, 0.0)
        root: float = variance**0.5
        return root

    def kept_maps(self, walk: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        posterior = walk.posteriors.noise_map()
        minus = torch.full((len(walk),), -(self.eta**2), dtype=torch.float64)
        kept = before.add(posterior.compose(posterior.transpose()).times(minus))
        return kept.root().compose(walk.marginals.noise_map().inverse())


@dataclass(frozen=True, repr=False, eq=False)
class ConsistentAnnealed(Posterior):
    """Consistent annealed sampling: Langevin steps whose noise level is that of x_s exactly, where x_0 is known.

    Args:
        eta: Share of x_t's noise that the score takes away; with gamma the ratio of two levels sigma / alpha it must lie in
            [1 - gamma, 1 + gamma]. It is a step size: the law keeps a bias of order eta however many the steps.
        steps: See `Predictor`, as ``grid``, ``t_min`` and ``denoise``.
    """

    eta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, above=0.0, most=2.0)

    def kept(self, interval: Interval) -> float:
        """(1 - eta) sigma_t alpha_s / alpha_t, of either sign."""
        return (1.0 - self.eta) * interval.at.sigma / interval.a

    def kept_maps(self, walk: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        return walk.kernels.signal_map().inverse().times(torch.full((len(walk),), 1.0 - self.eta, dtype=torch.float64))
