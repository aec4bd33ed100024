"""DDIM and consistent annealed sampling.

These predictors replace x_0 by its expectation and retain a part of the noise in x_t. For x_t = alpha_t x_0 + sigma_t z
a step retains noise of standard deviation rho and adds the noise that q(x_s | x_0) needs in addition::

    x_s = alpha_s E[x_0 | x_t] + rho E[z | x_t] + sqrt(sigma_s^2 - rho^2) z'

    DDIM                       rho = sqrt(sigma_s^2 - eta^2 sigma_(s|t)^2)
    ConsistentAnnealed         rho = (1 - eta) sigma_t alpha_s / alpha_t

where sigma_(s|t) is the standard deviation of q(x_s | x_t, x_0) (Song et al. 2020, arXiv:2010.02502;
Jolicoeur-Martineau et al. 2020, arXiv:2009.05475).

With the variance V of x_0 given x_t a step adds c z'' V^(1/2) as well, c = alpha_s - rho alpha_t / sigma_t. For Gaussian data and
its own V the samples are then exact for any number of steps.

For any linear process, let A be the map of the forward step and C its covariance, S_t = L L^T the covariance of x_t
given x_0, S_s = A^-1 (S_t - C) A^-T, and P = rho / sigma_t a map. Then::

    x_s = A_s E[x_0 | x_t] + P (x_t - A_t E[x_0 | x_t]) + (S_s - P S_t P^T)^(1/2) z
        = A^-1 x_t + (A^-1 - P) S_t score + ...

Any P is exact for data at a single point. DDIM converges with order one: to the probability flow for eta = 0, and to
the reverse SDE for eta = 1, where it equals ``Ancestral(variance="lower")``. Roots of blocks are Cholesky factors. Their paths
differ from those of the flow, with the same marginals.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.samplers.discretization import Grid, Step, Steps, Transitions  # noqa: F401  (Grid, Steps: of inherited fields)
from scoresde.samplers.exponential.coefficients import Factor, combine, factors
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.predictors import Predictor, noise_std_of
from scoresde.score.data_variance import DataVariance, check_variance
from scoresde.sde import LinearMap, LinearSDE, ScalarSDE


@dataclass(frozen=True, repr=False, eq=False)
class MarginalPreserving(Predictor):
    """A step that keeps the marginal q(x_s | x_0). A subclass defines the part of the noise that the step retains.

    Args:
        variance: The variance V of x_0 given x_t, for processes with scalar coefficients: a function of sigma / alpha such as
            ``AnalyticVariance``, or "model" for that of each coordinate which the score itself has, as a
            ``LearnedVarianceModel``. The step then adds c^2 V to the variance of its noise, with c = alpha_s - rho alpha_t /
            sigma_t its coefficient of x_0 (Bao et al. 2022, arXiv:2201.06503). None for 0.
        steps, grid, t_min, denoise: See :class:`Predictor`.
    """

    variance: DataVariance | str | None = field(default=None, kw_only=True)

    @abstractmethod
    def retained_std(self, interval: Interval) -> float:
        """Standard deviation rho of the noise in x_t that stays in x_s.

        Args:
            interval: The step.

        Returns:
            rho. It may be negative.
        """

    @abstractmethod
    def retained_maps(self, transitions: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        """The maps P of all steps, for any linear process.

        Args:
            transitions: The steps.
            covariance: S_t for all steps.
            before: S_s for all steps.

        Returns:
            P for all steps.
        """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance is not None:
            check_variance("variance", self.variance)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = alpha_s x_0 + rho noise + sqrt(sigma_s^2 - rho^2) z."""
        at, to, rho = interval.at, interval.to, self.retained_std(interval)
        noise, noise_std = self._noise_and_std(model, x, interval, rho)
        x_0 = (x - at.sigma * noise) / at.alpha
        mean = to.alpha * x_0 + rho * noise
        return (mean if z is None else mean + noise_std * z), mean, None

    def _noise_and_std(self, model: Model, x: Tensor, interval: Interval, rho: float) -> tuple[Tensor, Tensor | float]:
        """E[z | x_t], and the standard deviation of the noise that the step adds."""
        at, to = interval.at, interval.to
        fresh = max(to.sigma**2 - rho**2, 0.0) ** 0.5
        if self.variance is None:
            return model.noise(x, at), fresh
        score, variance = model.score_and_variance(x, interval, self.variance)
        return -at.sigma * score, noise_std_of(fresh, to.alpha - rho * at.alpha / at.sigma, variance)

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """Return the steps. Raise ValueError if a step would retain more noise than x_s has."""
        bad = 0
        for interval in intervals:
            at, to, rho = interval.at, interval.to, self.retained_std(interval)
            # a^2 sigma_s^2, negative if the last step of a chain adds more than all noise
            before = at.sigma**2 - interval.std**2
            bad += before < -1e-12 * at.sigma**2 or rho**2 > (1.0 + 1e-6) * to.sigma**2
        if bad:
            raise ValueError(self._too_much(bad, len(intervals)))
        return intervals

    def check(self, sde: LinearSDE) -> None:
        """Raise TypeError if a variance is given, which needs scalar coefficients."""
        if self.variance is not None:
            raise TypeError(
                f"variance={self.variance!r} needs a process with scalar coefficients, which has one noise level: give None"
            )

    def _too_much(self, bad: int, steps: int) -> str:
        return (
            f"{type(self).__name__} with eta={self.eta!r} would retain more noise than x_s has, at {bad} of {steps} "  # type: ignore[attr-defined]
            "steps: give more steps, or an eta closer to 1"
        )

    def prepare(self, sde: LinearSDE, transitions: Transitions, like: Tensor) -> Predictor:
        """The coefficients of the steps. Raises ValueError if a step would retain more noise than x_s has."""
        n, minus = len(transitions), torch.full((len(transitions),), -1.0, dtype=torch.float64)
        back, step = transitions.kernels.signal_map().inverse(), transitions.kernels.noise_map()
        noise = transitions.marginals.noise_map()
        covariance = noise.compose(noise.transpose())
        if transitions.before is None:
            before = back.compose(covariance.add(step.compose(step.transpose()).times(minus))).compose(back.transpose())
        else:
            before = transitions.before.noise_map().compose(transitions.before.noise_map().transpose())
        carried = self.retained_maps(transitions, covariance, before)
        fresh = before.add(carried.compose(covariance).compose(carried.transpose()).times(minus))
        root = fresh.root()
        clamped = root.compose(root.transpose()).add(fresh.times(minus)).mean_square()
        if bool((clamped > 1e-12 * before.mean_square()).any()):
            raise ValueError(self._too_much(int((clamped > 0).sum()), n))
        on_score = back.add(carried.times(minus)).compose(covariance)
        return _Prepared(factors(on_score, like, n), factors(root, like, n) if self.stochastic else None)

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{self!r} needs the coefficients of the grid: call map_step of prepare(sde, transitions, x)")


class _Prepared(Predictor):
    """The steps of one grid, with the factors of the score and of the noise."""

    def __init__(self, on_score: list[Factor], on_noise: list[Factor] | None) -> None:
        super().__init__()
        object.__setattr__(self, "on_score", on_score)
        object.__setattr__(self, "on_noise", on_noise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError("the coefficients are linear maps: use map_step")

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = combine(((1.0, step.kernel.solve(x)), (self.on_score[step.index], score)))  # type: ignore[attr-defined]
        if self.on_noise is None or z is None:  # type: ignore[attr-defined]
            return mean, mean
        return combine(((1.0, mean), (self.on_noise[step.index], z))), mean  # type: ignore[attr-defined]


@dataclass(frozen=True, repr=False, eq=False)
class DDIM(MarginalPreserving):
    """The sampler of denoising diffusion implicit models (DDIM).

    The step is x_s = alpha_s E[x_0 | x_t] + rho E[z | x_t] + eta sigma_(s|t) z' with rho^2 = sigma_s^2 - eta^2
    sigma_(s|t)^2, where sigma_(s|t) is the standard deviation of q(x_s | x_t, x_0).

    Args:
        eta: Scale of the noise, in [0, 1]: 0 for none, 1 for the noise of DDPM's posterior q(x_s | x_t, x_0).
        variance: The variance of x_0 given x_t, see :class:`MarginalPreserving`. With it a step adds noise for eta = 0 too.
        steps, grid, t_min, denoise: See :class:`Predictor`.

    References:
        Song et al. 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502.
    """

    eta: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, least=0.0, most=1.0)

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return self.eta > 0.0 or self.variance is not None

    def retained_std(self, interval: Interval) -> float:
        """sqrt(sigma_s^2 - eta^2 sigma_(s|t)^2)."""
        variance = max(interval.to.sigma**2 - (self.eta * interval.posterior_std) ** 2, 0.0)
        root: float = variance**0.5
        return root

    def retained_maps(self, transitions: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        posterior = transitions.posteriors.noise_map()
        minus = torch.full((len(transitions),), -(self.eta**2), dtype=torch.float64)
        retained = before.add(posterior.compose(posterior.transpose()).times(minus))
        return retained.root().compose(transitions.marginals.noise_map().inverse())


@dataclass(frozen=True, repr=False, eq=False)
class ConsistentAnnealed(MarginalPreserving):
    """Consistent annealed sampling: Langevin steps whose noise level is exactly that of x_s if x_0 is known.

    The step is x_s = alpha_s E[x_0 | x_t] + rho E[z | x_t] + sqrt(sigma_s^2 - rho^2) z' with
    rho = (1 - eta) sigma_t alpha_s / alpha_t.

    Args:
        eta: Part of the noise in x_t that the score removes. It must be in [1 - gamma, 1 + gamma], where gamma is the
            ratio of two successive values of sigma / alpha. It is a step size: the distribution has a bias of order eta
            for any number of steps.
        variance: The variance of x_0 given x_t, see :class:`MarginalPreserving`.
        steps, grid, t_min, denoise: See :class:`Predictor`.

    References:
        Jolicoeur-Martineau et al. 2020, "Adversarial score matching and improved sampling for image generation",
        arXiv:2009.05475.
    """

    eta: float = field(default=0.3, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, above=0.0, most=2.0)

    def retained_std(self, interval: Interval) -> float:
        """(1 - eta) sigma_t alpha_s / alpha_t, of either sign."""
        return (1.0 - self.eta) * interval.at.sigma / interval.a

    def retained_maps(self, transitions: Transitions, covariance: LinearMap, before: LinearMap) -> LinearMap:
        return (
            transitions.kernels.signal_map()
            .inverse()
            .times(torch.full((len(transitions),), 1.0 - self.eta, dtype=torch.float64))
        )
