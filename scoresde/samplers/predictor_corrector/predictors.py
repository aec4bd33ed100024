"""Predictors: one step of the reverse process from t down to s. Each is a sampler by itself, and a part of `PredictorCorrector`.

With the forward step x_t = a x_s + std z, and h = t - s:

    EulerMaruyama      mean = x - (F x - g^2 score) h              x_s = mean + g sqrt(h) z         (Song et al. 2021, appendix D)
    ReverseDiffusion   mean = (2 - a) x + std^2 score              x_s = mean + std z               (appendix E)
    Ancestral          mean = (x + std^2 score) / a                x_s = mean + std z, or less      (appendix F; Ho et al. 2020)

and with ``flow=True`` the probability-flow form: half of the score's term, no noise. The last step of a sampler with ``denoise``
returns the mean, which leaves out the noise that the step would have added (appendix G).
"""

from __future__ import annotations

from abc import abstractmethod
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
from scoresde.samplers.predictor_corrector.correctors import Corrector, normals_of
from scoresde.sde import SDE, LinearSDE


class ReverseSteps(GridSampler):
    """The loop of a predictor and a corrector, either of which may be None."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Predictor | None, Corrector | None]:
        """The predictor and the corrector."""

    def process(self, sde: SDE) -> LinearSDE:
        """``sde``. Raises TypeError unless it is linear."""
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={sde!r} has no closed-form transition, which predictor-corrector sampling needs")
        return sde

    def denoised(self, model: Model, x: Tensor, mean: Tensor, at: Instant) -> Tensor:
        """The mean of the last step, at no further evaluation."""
        return mean

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        predictor, corrector = self.parts
        if predictor is not None:
            predictor.check(sde)
        plan = self.discretization.transitions(sde)
        draws, model = normals_of(draws_ahead(predictor), corrector, len(plan), x, noise), Model(score, None)
        predictor = None if predictor is None else predictor.prepare(sde, plan, x)
        mean = x
        for step, interval in zip(plan.steps(like=x), plan.levels(like=x), strict=True):
            z = next(draws)
            for each in z[1]:
                assert corrector is not None
                x, mean = corrector.step(model, x, interval, each)
            if predictor is not None:
                x = predictor.approach(sde, step, x, z[0])
                x, mean = predictor.map_step(sde, step, x, score(x, interval.at.time), z[0])
            callback(step.index + 1, step.s, x)
        return (mean if self.denoise else x), plan.times


def draws_ahead(predictor: Predictor | None) -> int:
    """Standard normals that a step of a predictor takes."""
    return predictor.draws_per_step if predictor is not None and predictor.stochastic else 0


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Predictor(ReverseSteps):
    """One reverse step, and the sampler that takes it again and again.

    Args:
        steps: Number of steps N, each of them one evaluation of the score; N + 1 descending times; or a
            `ReferenceDiscretization`.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return the mean of the last step in place of the state.
    """

    steps: Steps = 1000  # type: ignore[assignment]
    grid: Grid = uniform
    t_min: float | None = None
    denoise: bool = True

    purpose = "predictor"
    draws_per_step = 1
    """Standard normals that a step takes; more than one come stacked, (draws, *x.shape)."""

    def __post_init__(self) -> None:
        self.set_grid(self.steps, self.grid, self.t_min, denoise=self.denoise)

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return True

    @property
    def parts(self) -> tuple[Predictor, None]:
        """Itself, without a corrector."""
        return self, None

    @property
    def has_default_grid(self) -> bool:
        """Whether steps, grid, t_min and denoise are what they are unless given."""
        return all(getattr(self, name) == getattr(type(self), name) for name in ("steps", "grid", "t_min", "denoise"))

    def check(self, sde: LinearSDE) -> None:
        """Raise ValueError, before the first step, for a process that the predictor does not fit."""

    def prepare(self, sde: LinearSDE, plan: Transitions, like: Tensor) -> Predictor:
        """What takes the steps of ``plan`` for states like ``like``: itself, unless there is something to compute once."""
        return self

    def approach(self, sde: LinearSDE, step: Step, x: Tensor, z: Tensor | None) -> Tensor:
        """The state at which `map_step` wants the score: x, unless part of the step goes before it."""
        return x

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """`step` for any linear process: (state, mean), both the shape of x, from the state that `approach` gave and the score
        there.

        z: standard normal, None where not `stochastic`.
        """
        raise TypeError(f"{self!r} does not fit {sde!r}: it steps by scalar coefficients alone")


@dataclass(frozen=True, repr=False, eq=False)
class EulerMaruyama(Predictor):
    """Euler and Maruyama's method on the reverse SDE, or Euler's on the probability flow.

    Args:
        flow: Solve the probability flow.
        steps: See `Predictor`, as ``grid``, ``t_min`` and ``denoise``.
    """

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:
        return not self.flow

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = x - (F x - g^2 score) h + g sqrt(h) z, or half of the score's term without noise."""
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
    """The discretized forward step, reversed, or its probability-flow form.

    Args:
        flow: Take the probability-flow form.
        steps: See `Predictor`, as ``grid``, ``t_min`` and ``denoise``.
    """

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:
        return not self.flow

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = (2 - a) x + std^2 score + std z, or half of the score's term without noise."""
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


@dataclass(frozen=True, repr=False, eq=False)
class Ancestral(Predictor):
    """The mean of x_s given x_t, with x_0 at its expectation, plus noise.

    Args:
        variance: "upper", the step's own std^2 (DDPM's sigma_t^2 = beta_t; the reference's VP), exact for standard normal
            data; or "lower", that of x_s given x_t and x_0 (DDPM's second choice; the reference's VE), exact for data in one
            point.
        steps: See `Predictor`, as ``grid``, ``t_min`` and ``denoise``.
    """

    variance: str = "upper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variance", self.variance, ("upper", "lower"))

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = (x + std^2 score) / a + std z, or std sigma_s / sigma_t for the last std."""
        a, std = interval.a, interval.std
        mean = (x + std**2 * model.score(x, interval.at)) / a
        return mean + (std if self.variance == "upper" else interval.posterior_std) * z, mean, None

    def map_step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        assert z is not None
        kernel = step.kernel
        mean = kernel.solve(x + kernel.covariance(score))
        spread = kernel if self.variance == "upper" else step.posterior
        return mean + spread.scale(z), mean
