"""Predictors: one step of the reverse process from t down to s, given the score at (x, t).

Every `step` returns (mean, noise scale applied to z): the state is mean + scattered, and the last step of a sampler
returns the mean alone, which removes the noise that it would have added (Song et al. 2021, appendix G).

With the forward kernel of the step, x_t | x_s ~ N(A x_s, C), C = L L^T:

    EulerMaruyama      mean = x - [f - g^2 score] h            scatter = g sqrt(h) z           (appendix D)
    ReverseDiffusion   mean = x - (A - I) x + C score          scatter = L z                   (appendix E)
    Ancestral          mean = A^-1 (x + C score)               scatter = L z  or the bridge's  (appendix F; Ho et al. 2020)

and with ``flow=True`` the probability-flow form: half of the score's term, no scatter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from scoresde._validation import check_choice
from scoresde.samplers.walk import Step, Walk
from scoresde.sde import LinearSDE


class Predictor(ABC):
    """One reverse step."""

    stochastic: bool = True
    draws: int = 1
    """Standard normals that a step takes; more than one come stacked, (draws, *x.shape)."""

    def check(self, sde: LinearSDE) -> None:  # noqa: B027  (most fit any process)
        """Raise ValueError, before the first step, for a process that the predictor does not fit."""

    def prepare(self, sde: LinearSDE, walk: Walk, like: Tensor) -> Predictor:
        """What steps along ``walk`` for states like ``like``: itself, unless there is something to compute once for all steps."""
        return self

    def approach(self, sde: LinearSDE, step: Step, x: Tensor, z: Tensor | None) -> Tensor:
        """The state at which `step` wants the score: x, unless part of the step goes before it."""
        return x

    @abstractmethod
    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        """(state, mean) after the step, both the shape of x, from the state that `approach` gave and the score there.

        z: standard normal, None where not `stochastic`.
        """


@dataclass(frozen=True)
class EulerMaruyama(Predictor):
    """Euler and Maruyama's method on the reverse SDE, or Euler's on the probability flow where ``flow``."""

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step adds noise."""
        return not self.flow

    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        t, h = step.t, step.width
        if self.flow:
            mean = x - sde.flow_drift(x, t, score) * h
            return mean, mean
        assert z is not None
        mean = x - sde.reverse_drift(x, t, score) * h
        return mean + sde.diffuse(z, t) * h.sqrt(), mean


@dataclass(frozen=True)
class ReverseDiffusion(Predictor):
    """The discretised forward step, reversed; its probability-flow form where ``flow``."""

    flow: bool = field(default=False, kw_only=True)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step adds noise."""
        return not self.flow

    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        kernel = step.kernel
        back = 2.0 * x - kernel.mean(x)
        if self.flow:
            mean = back + 0.5 * kernel.covariance(score)
            return mean, mean
        assert z is not None
        mean = back + kernel.covariance(score)
        return mean + kernel.scale(z), mean


@dataclass(frozen=True)
class Ancestral(Predictor):
    """The mean of x_s given x_t, with x_0 at its expectation, plus noise.

    variance: "upper", the step's own L L^T (DDPM's sigma_t^2 = beta_t; the reference's VP), exact for standard normal data; or
        "lower", the bridge's sigma_s^2 C / sigma_t^2 (DDPM's second choice; the reference's VE), exact for data in one point.
    """

    variance: str = "upper"

    def __post_init__(self) -> None:
        check_choice("variance", self.variance, ("upper", "lower"))

    def step(self, sde: LinearSDE, step: Step, x: Tensor, score: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
        assert z is not None
        kernel = step.kernel
        mean = kernel.solve(x + kernel.covariance(score))
        spread = kernel if self.variance == "upper" else step.bridged
        return mean + spread.scale(z), mean
