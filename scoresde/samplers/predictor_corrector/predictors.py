"""Predictors: a step of the reverse process from t to s < t.

A predictor is a sampler by itself, and a part of :class:`~scoresde.samplers.PredictorCorrector`. With the forward step
x_t = a x_s + std z and h = t - s, the steps are (Song et al. 2021, arXiv:2011.13456, appendices D to F; Ho et al.
2020)::

    EulerMaruyama      mean = x - (F x - g^2 score) h              x_s = mean + g sqrt(h) z
    ReverseDiffusion   mean = (2 - a) x + std^2 score              x_s = mean + std z
    Ancestral          mean = (x + std^2 score) / a                x_s = mean + std z, or less noise

With ``flow=True`` a predictor takes a step of the probability flow: half of the score's term, and no noise. With
``denoise`` the last step returns the mean, without the noise that the step would add (appendix G).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde._validation import check_choice
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.discretization import Grid, Step, Steps, Transitions
from scoresde.samplers.grid_sampler import GridSampler, Model
from scoresde.samplers.grids import uniform
from scoresde.samplers.instants import Instant, Interval
from scoresde.samplers.predictor_corrector.correctors import Corrector, step_normals
from scoresde.score.data_variance import MODEL, DataVariance, variance_method
from scoresde.score.origin import check_origin
from scoresde.sde import SDE, GaussianKernel, LinearSDE


class ReverseSteps(GridSampler):
    """The loop over the steps of a predictor and a corrector. Either of them may be None."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Predictor | None, Corrector | None]:
        """The predictor and the corrector."""

    def process(self, sde: SDE) -> LinearSDE:
        """Return ``sde``. Raise TypeError unless it is linear."""
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={sde!r} has no closed-form transition, which predictor-corrector sampling needs")
        return sde

    def check_score(self, sde: SDE, score: Callable[..., Tensor]) -> None:
        """Raise an error if the variance was measured with another score, or if the score must have one and does not."""
        super().check_score(sde, score)
        variance = getattr(self.parts[0], "variance", None)
        if variance == MODEL:
            variance_method(score)
        check_origin("variance", variance, sde, score)

    def denoised(self, model: Model, x: Tensor, mean: Tensor, at: Instant) -> Tensor:
        """The mean of the last step. It needs no further evaluation."""
        return mean

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        predictor, corrector = self.parts
        if predictor is not None:
            predictor.check(sde)
        plan = self.discretization.transitions(sde)
        draws, model = step_normals(predictor_draws(predictor), corrector, len(plan), x, noise), Model(score, None)
        predictor = None if predictor is None else predictor.prepare(sde, plan, x)
        mean, past = x, None
        for step, interval in zip(plan.steps(like=x), plan.corrector_intervals(like=x), strict=True):
            z = next(draws)
            for each in z[1]:
                assert corrector is not None
                x, mean, past = corrector.step(model, x, interval, each, past)
                x = score.hooked(step.index, step.t, x)
            if predictor is not None:
                x = predictor.before_score(sde, step, x, z[0])
                x, mean = predictor.map_step(sde, step, x, score(x, interval.at.time), z[0])
            x = score.hooked(step.index + 1, step.s, x)
            callback(step.index + 1, step.s, x)
        return (mean if self.denoise else x), plan.times


def predictor_draws(predictor: Predictor | None) -> int:
    """Number of standard normals that a step of the predictor uses."""
    return predictor.draws_per_step if predictor is not None and predictor.stochastic else 0


@dataclass(frozen=True, repr=False, eq=False)
class Predictor(ReverseSteps):
    """Base class of predictors, which are samplers that repeat one reverse step.

    Args:
        steps: Number of steps N, each with one evaluation of the score; N + 1 descending times; or a
            ``ReferenceDiscretization``.
        grid: Function of ``scoresde.samplers.grids`` that makes the times.
        t_min: Last time. None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Return the mean of the last step instead of the state.
    """

    steps: Steps = 1000  # type: ignore[assignment]
    grid: Grid = field(default=uniform, kw_only=True)
    t_min: float | None = field(default=None, kw_only=True)
    denoise: bool = field(default=True, kw_only=True)

    purpose = "predictor"
    draws_per_step = 1
    """Number of standard normals that a step uses. More than one are stacked, of shape ``(draws, *x.shape)``."""

    def __post_init__(self) -> None:
        self.set_grid(self.steps, self.grid, self.t_min, denoise=self.denoise)

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return True

    @property
    def parts(self) -> tuple[Predictor, None]:
        """The predictor itself, and no corrector."""
        return self, None

    @property
    def has_default_grid(self) -> bool:
        """Whether steps, grid, t_min and denoise have their default values."""
        return all(getattr(self, name) == getattr(type(self), name) for name in ("steps", "grid", "t_min", "denoise"))

    def check(self, sde: LinearSDE) -> None:
        """Check the process before the first step.

        Args:
            sde: The process.

        Raises:
            ValueError: If the predictor does not support the process.
        """

    def prepare(self, sde: LinearSDE, transitions: Transitions, like: Tensor) -> Predictor:
        """Compute the coefficients of all steps, for the general case of linear maps.

        Args:
            sde: The process.
            transitions: The steps.
            like: A state ``(B, *state)``.

        Returns:
            The predictor whose :meth:`map_step` takes the steps. By default the predictor itself.
        """
        return self

    def before_score(self, sde: LinearSDE, step: Step, x: Tensor, z: Tensor | None) -> Tensor:
        """The part of a step before the score is evaluated, for the general case of linear maps.

        Args:
            sde: The process.
            step: The step.
            x: State at t, of shape ``(B, *state)``.
            z: Standard normals. None if the predictor is not :attr:`stochastic`.

        Returns:
            The state at which the score is evaluated. By default ``x``.
        """
        return x

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """:meth:`step` for any linear process.

        Args:
            sde: The process.
            step: The step.
            x: Result of :meth:`before_score`, of shape ``(B, *state)``.
            score: The score at ``x``.
            z: Standard normals. None if the predictor is not :attr:`stochastic`.

        Returns:
            The state at s, and its mean without the noise that the step added. Both have the shape of ``x``.

        Raises:
            TypeError: If the predictor supports only scalar coefficients.
        """
        raise TypeError(f"{self!r} does not fit {sde!r}: it supports only processes with scalar coefficients")

    def noise_kernel(self, step: Step) -> GaussianKernel:
        """The kernel whose noise L z is that of :meth:`map_step`.

        Args:
            step: The step.

        Returns:
            The kernel.

        Raises:
            TypeError: If the predictor does not have one.
        """
        raise TypeError(
            f"the noise of {self!r} is not that of an invertible kernel: give Ancestral() or ReverseDiffusion()"
        )


@dataclass(frozen=True, repr=False, eq=False)
class EulerMaruyama(Predictor):
    """The Euler-Maruyama method for the reverse SDE, or Euler's method for the probability flow.

    The step is x_s = x - (F x - g^2 score) h + g sqrt(h) z.

    Args:
        flow: Solve the probability flow: half of the score's term, and no noise.
        steps, grid, t_min, denoise: See :class:`Predictor`.
    """

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:
        return not self.flow

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = x - (F x - g^2 score) h + g sqrt(h) z."""
        at, h = interval.at, interval.h
        share = 0.5 if self.flow else 1.0
        mean = x - (at.F * x - share * at.g**2 * model.score(x, at)) * h
        return (mean if z is None else mean + at.g * h**0.5 * z), mean, None

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        t, h = step.t, step.width
        if z is None:
            mean = x - sde.flow_drift(x, t, score) * h
            return mean, mean
        mean = x - sde.reverse_drift(x, t, score) * h
        return mean + sde.apply_diffusion(z, t) * h.sqrt(), mean


@dataclass(frozen=True, repr=False, eq=False)
class ReverseDiffusion(Predictor):
    """The reversal of the discretized forward step, or its probability-flow form.

    The step is x_s = (2 - a) x + std^2 score + std z.

    Args:
        flow: Take a step of the probability flow: half of the score's term, and no noise.
        steps, grid, t_min, denoise: See :class:`Predictor`.
    """

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:
        return not self.flow

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = (2 - a) x + std^2 score + std z."""
        a, std = interval.a, interval.std
        share = 0.5 if self.flow else 1.0
        mean = (2.0 - a) * x + share * std**2 * model.score(x, interval.at)
        return (mean if z is None else mean + std * z), mean, None

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        kernel = step.kernel
        back = 2.0 * x - kernel.mean(x)
        if z is None:
            mean = back + 0.5 * kernel.covariance(score)
            return mean, mean
        mean = back + kernel.covariance(score)
        return mean + kernel.scale(z), mean

    def noise_kernel(self, step: Step) -> GaussianKernel:
        return step.kernel


@dataclass(frozen=True, repr=False, eq=False)
class Ancestral(Predictor):
    """Ancestral sampling: the mean of x_s given x_t with x_0 replaced by its expectation, plus noise.

    The step is x_s = (x + std^2 score) / a + noise.

    Args:
        variance: Variance of the noise. "upper" is the variance std^2 of the forward step (DDPM's sigma_t^2 = beta_t;
            the reference's choice for VP), which is exact for standard normal data. "lower" is the variance of q(x_s |
            x_t, x_0) (DDPM's second choice; the reference's choice for VE), which is exact for data at a single point. Or the
            variance V of x_0 given x_t, for processes with scalar coefficients: a function of sigma / alpha such as
            ``AnalyticVariance``, or "model" for that of each coordinate which the score itself has, as a
            ``LearnedVarianceModel`` and the score of a ``GaussianMixture``. The noise then has the variance of q(x_s | x_t, x_0)
            plus c^2 V, with c its coefficient of x_0 (Bao et al. 2022, arXiv:2201.06503; Nichol & Dhariwal 2021,
            arXiv:2102.09672).
        steps, grid, t_min, denoise: See :class:`Predictor`.
    """

    variance: str | DataVariance = field(default="upper", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.variance):
            check_choice("variance", self.variance, ("upper", "lower", MODEL))

    def check_noise(self, sde: SDE) -> None:
        """Raise TypeError if the noise is not Gaussian and the variance is that of a Gaussian posterior."""
        if self.variance not in ("upper", "lower"):
            super().check_noise(sde)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = (x + std^2 score) / a + noise."""
        a, std = interval.a, interval.std
        score, noise_std = self._score_and_noise(model, x, interval)
        mean = (x + std**2 * score) / a
        return mean + noise_std * z, mean, None

    def _score_and_noise(self, model: Model, x: Tensor, interval: Interval) -> tuple[Tensor, Tensor | float]:
        """The score, and the standard deviation of the noise of the step."""
        if self.variance in ("upper", "lower"):
            noise_std = interval.std if self.variance == "upper" else interval.posterior_std
            return model.score(x, interval.at), noise_std
        score, variance = model.score_and_variance(x, interval, self.variance)
        on_data = interval.to.alpha * (interval.std / interval.at.sigma) ** 2
        return score, noise_std_of(interval.posterior_std, on_data, variance)

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        assert z is not None
        mean = step.kernel.solve(x + step.kernel.covariance(score))
        return mean + self.noise_kernel(step).scale(z), mean

    def noise_kernel(self, step: Step) -> GaussianKernel:
        return step.kernel if self.variance == "upper" else step.posterior

    def check(self, sde: LinearSDE) -> None:
        """Raise TypeError if the variance needs scalar coefficients."""
        if self.variance not in ("upper", "lower"):
            raise TypeError(
                f"variance={self.variance!r} needs a process with scalar coefficients, which has one noise level: give 'upper' "
                "or 'lower'"
            )


def noise_std_of(posterior_std: float, on_data: float, variance: Tensor | float) -> Tensor | float:
    """Standard deviation of the noise of a reverse step: the root of its part without x_0's variance squared, plus c^2 V.

    Args:
        posterior_std: Standard deviation of x_s given x_t and x_0.
        on_data: The coefficient c of x_0 in the mean of x_s.
        variance: The variance V of x_0 given x_t, a number or (B, *event). 0 replaces a negative sum.
    """
    if isinstance(variance, Tensor):
        return (posterior_std**2 + on_data**2 * variance).clamp(min=0.0).sqrt()
    return math.sqrt(posterior_std**2 + on_data**2 * variance)
