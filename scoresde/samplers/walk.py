"""The way down: from T to t_min in steps, each with what a predictor needs to know of it, known before the first one.

A step goes from t (where the score is evaluated) to s < t. It carries its width and the forward kernel x_t | x_s ~
N(A x_s, L L^T). Two ways to come by them:

    ExactSteps   any grid of times; kernels are the process's own transitions, widths t - s
    PaperSteps   the reference implementation: N times linspace(T, t_min, N), every width T / N, kernels those of the
                 process's chain (DDPM's and SMLD's tables, Euler-Maruyama for any other)

A grid is a tensor; functions in `scoresde.samplers.grids` make them. Everything here is float64 until a sampler
rounds it to the dtype of its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.samplers.grids import FROM_T, check_t_min, uniform
from scoresde.sde import GaussianKernel, LinearSDE


@dataclass(frozen=True)
class Step:
    """One step down, all tensors ().

    index: 0 for the first. t, s: times before and after. width: t - s, as the discretisation has it. sigma: the marginal
    standard deviation at t. kernel: the forward kernel that the step undoes; bridged: the same with the bridge's noise.
    """

    index: int
    t: Tensor
    s: Tensor
    width: Tensor
    sigma: Tensor
    kernel: GaussianKernel
    bridged: GaussianKernel


@dataclass(frozen=True)
class Walk:
    """All N steps. times: (N + 1,) descending, scores are evaluated at all but the last; widths, sigmas: (N,); kernels,
    bridged, marginals x_t | x_0: N of each."""

    times: Tensor
    widths: Tensor
    sigmas: Tensor
    kernels: GaussianKernel
    bridged: GaussianKernel
    marginals: GaussianKernel

    def __len__(self) -> int:
        return len(self.widths)

    def steps(self, like: Tensor) -> list[Step]:
        """The steps in the dtype and on the device of ``like``."""
        times, widths, sigmas = (v.to(like) for v in (self.times, self.widths, self.sigmas))
        kernels, bridged = self.kernels.to(like), self.bridged.to(like)
        return [Step(k, times[k], times[k + 1], widths[k], sigmas[k], kernels[k], bridged[k]) for k in range(len(self))]


class Stepping(ABC):
    """A way to make a `Walk` for a process."""

    @abstractmethod
    def walk(self, sde: LinearSDE) -> Walk:
        """The walk from `start_time` down."""

    def start_time(self, sde: LinearSDE) -> float:
        """The first time: T."""
        return sde.T


@dataclass(frozen=True)
class ExactSteps(Stepping):
    """The process's own transitions between the times of a grid.

    steps: number of steps N.
    grid: (sde, N) -> descending times (N + 1,), from at most T to at least 0; `grids.uniform` unless given. A sampler whose
        grid begins below T needs a ``start``, a state at its first time.
    """

    steps: int = 1000
    grid: Callable[[LinearSDE, int], Tensor] = uniform

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def __repr__(self) -> str:
        function = self.grid
        given = ""
        if isinstance(function, partial):
            given = "".join(f", {k}={v!r}" for k, v in function.keywords.items())
            function = function.func
        return f"ExactSteps({self.steps}, {getattr(function, '__name__', repr(function))}{given})"

    def times(self, sde: LinearSDE) -> Tensor:
        """The grid, (steps + 1,) float64."""
        times = _as_times("grid gave", self.grid(sde, self.steps))
        if len(times) != self.steps + 1:
            raise ValueError(f"grid gave {len(times)} times: {self.steps + 1} descending times are needed")
        sde.check_time(times)
        return times

    def start_time(self, sde: LinearSDE) -> float:
        function = self.grid.func if isinstance(self.grid, partial) else self.grid
        known = any(function is one for one in FROM_T) or getattr(function, "begins_at_end", False)
        return sde.T if known else float(self.times(sde)[0])

    def walk(self, sde: LinearSDE) -> Walk:
        times = self.times(sde)
        t, s = times[:-1], times[1:]
        kernels, marginals = sde.transition(s, t), sde.kernel(t)
        return Walk(times, t - s, sde.noise_level(t), kernels, kernels.bridged(marginals, sde.kernel(s)), marginals)


@dataclass(frozen=True)
class GivenTimes:
    """A grid that is the times it was made from: descending, (N + 1,)."""

    times: Tensor

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        """The times."""
        return self.times


Steps = int | Tensor | np.ndarray | Sequence[float]
"""A number of steps, or N + 1 descending times as a tensor, an array or a list."""


def given_steps(steps: Steps, grid: Callable[[LinearSDE, int], Tensor] = uniform) -> ExactSteps:
    """A number of steps on ``grid``, or the descending times themselves."""
    if isinstance(steps, Tensor | np.ndarray | list | tuple):
        times = _as_times("steps holds", steps)
        return ExactSteps(len(times) - 1, GivenTimes(times))
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps={steps!r} is not allowed: give a whole number >= 1, descending times, or ExactSteps")
    return ExactSteps(int(steps), grid)


def _as_times(name: str, value: object) -> Tensor:
    """Descending times (N + 1,), N >= 1, in float64 on the CPU. Raises ValueError for what are none."""
    try:
        times = torch.as_tensor(value).detach().to("cpu")
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ValueError(f"{name} no times ({problem}): give descending numbers (N + 1,), N >= 1") from problem
    if times.ndim != 1 or len(times) < 2 or times.is_complex() or times.dtype == torch.bool:
        raise ValueError(
            f"{name} times of shape {tuple(times.shape)}, {times.dtype}: give descending numbers (N + 1,), N >= 1"
        )
    times = times.to(torch.float64)
    if not bool((times.diff() < 0).all()) or not bool(torch.isfinite(times).all()):
        raise ValueError(f"{name} times that do not fall, {_shortened(times)}: give descending times")
    return times


def _shortened(times: Tensor) -> str:
    ends = [f"{t:g}" for t in times.tolist()]
    return ", ".join(ends if len(ends) <= 6 else [*ends[:3], "...", *ends[-2:]])


def stepping(steps: Steps | ExactSteps, grid: Callable[[LinearSDE, int], Tensor]) -> ExactSteps:
    """What ``steps`` says: a number of steps on ``grid``, the descending times themselves, or both."""
    if isinstance(steps, Stepping) and not isinstance(steps, ExactSteps):
        raise TypeError(f"steps={steps!r} is a chain's: give a number, a tensor of times, or ExactSteps(N, grid)")
    return steps if isinstance(steps, ExactSteps) else given_steps(steps, grid)


@dataclass(frozen=True)
class PaperSteps(Stepping):
    """The discretisation of the reference implementation, for results that must agree with it.

    steps: N; its tables depend on it.
    t_min: the last time; the paper takes 1e-3 for VP and sub-VP, 1e-5 for VE.
    """

    steps: int = 1000
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        check_count("steps", self.steps, least=2)
        check_number("t_min", self.t_min, least=0.0)

    def walk(self, sde: LinearSDE) -> Walk:
        check_t_min(sde, self.t_min)
        times = torch.linspace(sde.T, self.t_min, self.steps, dtype=torch.float64)
        widths = torch.full_like(times, sde.T / self.steps)
        chain = sde.discretize(self.steps)
        kernels = chain.step(times)
        # the reference's annealed Langevin corrector takes the process's sigma on a chain too
        ends = torch.cat((times, (times[-1:] - widths[-1:]).clamp(min=0.0)))
        marginals = chain.kernel(times)
        return Walk(ends, widths, sde.continuous.noise_level(times), kernels, kernels.bridged(marginals), marginals)
