"""Time discretizations: a grid of times and the coefficients of each step, computed before the first step.

A step goes from t, where the score is evaluated, to s < t. It has a length and a forward kernel x_t | x_s ~ N(A x_s, L
L^T):

- :class:`ExactTransitions`: any grid of times, with the transitions of the process and lengths t - s.
- :class:`ReferenceDiscretization`: the discretization of the reference implementation. Its times are linspace(T, t_min,
  N), all lengths are T / N, and the kernels are those of the process's chain (the tables of DDPM and SMLD,
  Euler-Maruyama for any other process).

For processes with scalar coefficients the coefficients are Python floats
(:class:`~scoresde.samplers.instants.Interval`). For all other processes they are tensors and kernels (:class:`Step`).
They are computed in float64. The functions of ``scoresde.samplers.grids`` make the times.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._representation import text_of
from scoresde._validation import check_count, check_number
from scoresde.samplers.grids import FROM_T, check_t_min, end_time, uniform
from scoresde.samplers.instants import Instant, Interval, chain_intervals, exact_intervals
from scoresde.sde import GaussianKernel, LinearSDE, ScalarSDE

__all__ = ["Discretization", "ExactTransitions", "ReferenceDiscretization", "Step", "Transitions"]


@dataclass(frozen=True)
class Step:
    """One step of a grid, for any linear process. All tensors have the shape ``()``.

    Attributes:
        index: 0 for the first step.
        t: Time before the step.
        s: Time after the step.
        width: Length of the step: t - s, or what the discretization uses instead.
        sigma: Marginal standard deviation at t.
        kernel: Forward kernel x_t | x_s, which the step reverses.
        posterior: The map of ``kernel`` with the noise of q(x_s | x_t, x_0).
    """

    index: int
    t: Tensor
    s: Tensor
    width: Tensor
    sigma: Tensor
    kernel: GaussianKernel
    posterior: GaussianKernel


@dataclass(frozen=True)
class Transitions:
    """All N steps of a grid, for any linear process.

    Attributes:
        times: Descending times, of shape ``(N + 1,)``. The score is evaluated at all times but the last.
        widths: Lengths of the steps, of shape ``(N,)``.
        sigmas: Marginal standard deviations at the start of each step, of shape ``(N,)``.
        kernels: N forward kernels x_t | x_s.
        posteriors: The maps of ``kernels`` with the noise of q(x_s | x_t, x_0).
        marginals: N kernels x_t | x_0, at the start of each step.
        before: N kernels x_s | x_0, at the end of each step. None if they follow from the other kernels.
    """

    times: Tensor
    widths: Tensor
    sigmas: Tensor
    kernels: GaussianKernel
    posteriors: GaussianKernel
    marginals: GaussianKernel
    before: GaussianKernel | None = None

    def __len__(self) -> int:
        return len(self.widths)

    def steps(self, like: Tensor) -> list[Step]:
        """The steps, in the dtype and on the device of ``like``.

        Args:
            like: A state.

        Returns:
            N steps.
        """
        times, widths, sigmas = (v.to(like) for v in (self.times, self.widths, self.sigmas))
        kernels, posteriors = self.kernels.to(like), self.posteriors.to(like)
        return [
            Step(k, times[k], times[k + 1], widths[k], sigmas[k], kernels[k], posteriors[k]) for k in range(len(self))
        ]

    def corrector_intervals(self, like: Tensor) -> list[Interval]:
        """The steps as intervals, with the values that a corrector uses.

        Args:
            like: A state ``(B, *state)``.

        Returns:
            N intervals with the time of the score, the contraction ``a`` of the mean and the noise level. All other
            values are NaN.
        """
        moved, nan = self.times[:-1].to(like), math.nan
        rows = zip(moved.unbind(), moved[:, None].expand(-1, len(like)).unbind(), strict=True)
        at = [Instant(nan, nan, nan, nan, nan, nan, time, clock) for clock, time in rows]
        columns = torch.stack((self.widths, self.kernels.contraction().sqrt(), self.sigmas), 1).tolist()
        return [Interval(k, at[k], at[k], h, a, nan, level) for k, (h, a, level) in enumerate(columns)]


class Discretization(ABC):
    """A division of the time from T to t_min into steps."""

    steps: int

    @abstractmethod
    def times(self, sde: LinearSDE) -> Tensor:
        """The times of the grid.

        Args:
            sde: The process.

        Returns:
            Descending times in float64, of shape ``(N + 1,)``.
        """

    @abstractmethod
    def transitions(self, sde: LinearSDE) -> Transitions:
        """The steps for any linear process.

        Args:
            sde: The process.

        Returns:
            The times and the kernels of all steps.
        """

    @abstractmethod
    def intervals(self, sde: ScalarSDE, times: Tensor, like: Tensor) -> list[Interval]:
        """The steps for a process with scalar coefficients.

        Args:
            sde: The process.
            times: The result of :meth:`times`.
            like: A state ``(B, *state)``.

        Returns:
            N intervals.
        """

    def start_time(self, sde: LinearSDE) -> float:
        """The first time of the grid.

        Args:
            sde: The process.

        Returns:
            T, unless the grid starts below it.
        """
        return sde.T


Grid = Callable[[LinearSDE, int], Tensor]
"""A function ``(sde, N)`` that returns descending times ``(N + 1,)``. If it has a parameter ``t_min``, it ends at that time."""


@dataclass(frozen=True)
class ExactTransitions(Discretization):
    """The transitions of the process between the times of a grid.

    Args:
        steps: Number of steps N.
        grid: A function ``(sde, N)`` that returns descending times ``(N + 1,)`` in [0, T], or a function ``(sde, N,
            t_min)`` whose times end at ``t_min``. If the grid starts below T, the sampler needs a ``start``, a state at
            the first time.
        t_min: Last time, for a grid with a parameter ``t_min``. None takes the process's own ``t_min`` if it has one,
            else 1e-3.
    """

    steps: int = 1000
    grid: Grid = uniform
    t_min: float | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        if self.t_min is not None:
            check_number("t_min", self.t_min, least=0.0)
        if self.t_min is not None and not takes_t_min(self.grid):
            raise ValueError(
                f"t_min={self.t_min!r} is not allowed: {text_of(self.grid)} has no t_min to set, leave it out"
            )

    def times(self, sde: LinearSDE) -> Tensor:
        end = {}
        if takes_t_min(self.grid):
            end = {"t_min": end_time(sde, self.t_min)}
        times = _as_times("grid gave", self.grid(sde, self.steps, **end))
        if len(times) != self.steps + 1:
            raise ValueError(f"grid gave {len(times)} times: {self.steps + 1} descending times are needed")
        sde.check_time(times)
        return times

    def start_time(self, sde: LinearSDE) -> float:
        function = self.grid.func if isinstance(self.grid, partial) else self.grid
        known = any(function is one for one in FROM_T) or getattr(function, "begins_at_end", False)
        return sde.T if known else float(self.times(sde)[0])

    def transitions(self, sde: LinearSDE) -> Transitions:
        times = self.times(sde)
        t, s = times[:-1], times[1:]
        kernels, marginals, before = sde.transition(s, t), sde.kernel(t), sde.kernel(s)
        posteriors = kernels.with_posterior_noise(marginals, before)
        return Transitions(times, t - s, sde.noise_level(t), kernels, posteriors, marginals, before)

    def intervals(self, sde: ScalarSDE, times: Tensor, like: Tensor) -> list[Interval]:
        return exact_intervals(sde, times, like)


def takes_t_min(grid: Grid) -> bool:
    """Whether a grid function has a parameter ``t_min`` that is not yet set."""
    if isinstance(grid, partial) and "t_min" in grid.keywords:
        return False
    try:
        return "t_min" in inspect.signature(grid).parameters
    except (TypeError, ValueError):  # a builtin
        return False


@dataclass(frozen=True)
class GivenTimes:
    """A grid with given times, descending, of shape ``(N + 1,)``."""

    times: Tensor

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        return self.times


def plain_steps(steps: Steps) -> int | tuple[float, ...] | Discretization:
    """``steps`` in the form that a sampler stores, with times as a tuple of floats. Raises ValueError for other values."""
    if isinstance(steps, Tensor | np.ndarray | list | tuple):
        return tuple(_as_times("steps holds", steps).tolist())
    if isinstance(steps, Discretization):
        return steps
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(
            f"steps={steps!r} is not allowed: give a whole number >= 1, descending times, or ReferenceDiscretization(N)"
        )
    return int(steps)


def discretization(steps: int | tuple[float, ...] | Discretization, grid: Grid, t_min: float | None) -> Discretization:
    """The discretization that the arguments of a ``GridSampler`` define."""
    if isinstance(steps, int):
        return ExactTransitions(steps, grid, t_min)
    if t_min is not None:
        raise ValueError(
            f"t_min={t_min!r} is not allowed with steps={steps!r}, which has its own last time: leave it out"
        )
    if isinstance(steps, Discretization):
        return steps
    return ExactTransitions(len(steps) - 1, GivenTimes(torch.tensor(steps, dtype=torch.float64)))


def _as_times(name: str, value: object) -> Tensor:
    """Descending times (N + 1,), N >= 1, in float64 on the CPU. Raises ValueError for other values."""
    try:
        plain = value if isinstance(value, Tensor | np.ndarray) else np.asarray(value)  # torch makes lists float32
        times = torch.as_tensor(plain).detach().to("cpu")
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ValueError(f"{name} no times ({problem}): give descending numbers (N + 1,), N >= 1") from problem
    if times.ndim != 1 or len(times) < 2 or times.is_complex() or times.dtype == torch.bool:
        raise ValueError(
            f"{name} times of shape {tuple(times.shape)}, {times.dtype}: give descending numbers (N + 1,), N >= 1"
        )
    times = times.to(torch.float64)
    values = times.numpy()
    if not bool((np.diff(values) < 0).all()) or not bool(np.isfinite(values).all()):
        raise ValueError(f"{name} times that do not decrease, {_shortened(times)}: give descending times")
    return times


def _shortened(times: Tensor) -> str:
    ends = [f"{t:g}" for t in times.tolist()]
    return ", ".join(ends if len(ends) <= 6 else [*ends[:3], "...", *ends[-2:]])


@dataclass(frozen=True)
class ReferenceDiscretization(Discretization):
    """The discretization of the reference implementation, for results that must agree with it.

    Args:
        steps: Number of steps N, at least 2. The tables of the process's chain depend on it.
        t_min: Last time. The paper uses 1e-3 for VP and sub-VP, 1e-5 for VE.

    References:
        Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
    """

    steps: int = 1000
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=2)
        check_number("t_min", self.t_min, least=0.0)

    def times(self, sde: LinearSDE) -> Tensor:
        check_t_min(sde, self.t_min)
        times = torch.linspace(sde.T, self.t_min, self.steps, dtype=torch.float64)
        return torch.cat((times, (times[-1:] - sde.T / self.steps).clamp(min=0.0)))

    def transitions(self, sde: LinearSDE) -> Transitions:
        ends = self.times(sde)
        times, widths = ends[:-1], self._widths(sde)
        chain = sde.discretize(self.steps)
        kernels = chain.step(times)
        # on a chain, too, the reference's annealed Langevin corrector uses the sigma of the continuous process
        marginals, levels = chain.kernel(times), sde.continuous.noise_level(times)
        return Transitions(ends, widths, levels, kernels, kernels.with_posterior_noise(marginals), marginals)

    def intervals(self, sde: ScalarSDE, times: Tensor, like: Tensor) -> list[Interval]:
        return chain_intervals(sde, times, self._widths(sde), self.steps, like)

    def _widths(self, sde: LinearSDE) -> Tensor:
        return torch.full((self.steps,), sde.T / self.steps, dtype=torch.float64)


Times = int | Tensor | np.ndarray | Sequence[float] | ExactTransitions
"""A number of steps N, or N + 1 descending times as a tensor, an array or a list."""
Steps = Times | ReferenceDiscretization
"""As ``Times``, or the discretization of the reference implementation."""

check_constructors(globals(), records=(Step, Transitions))
