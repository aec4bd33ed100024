"""Samplers on a grid of times: the loop over its steps, and the model that a step calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from scoresde._representation import prints_as_call
from scoresde._validation import check_number, times_checked
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.discretization import Discretization, Grid, Steps, discretization, plain_steps
from scoresde.samplers.instants import Instant, Interval
from scoresde.score import ScoreModel
from scoresde.sde import SDE, LinearSDE, ScalarSDE


class Model:
    """A score evaluated at instants, as whichever of score, noise and data a step is written in.

    A `ScoreModel` of the same process gives its noise and data itself; any other score is converted:

        noise = -sigma score        data = (x + sigma^2 score) / alpha

    Args:
        counted: The score.
        process: Process of the instants; None where only scores are asked for.
    """

    def __init__(self, counted: CountedScore, process: ScalarSDE | None) -> None:
        self.counted = counted
        native = as_model(counted.score, process)
        self._noise: Callable[[Tensor, Tensor], Tensor] | None = None if native is None else native.noise
        self._data: Callable[[Tensor, Tensor], Tensor] | None = None if native is None else native.denoised

    def score(self, x: Tensor, at: Instant) -> Tensor:
        """grad log p_t(x), the shape of x."""
        return self.counted(x, at.time)

    def noise(self, x: Tensor, at: Instant) -> Tensor:
        """E[z | x_t], the shape of x."""
        if self._noise is not None:
            return self.counted.evaluate(self._noise, x, at.time, "noise")
        return self.counted(x, at.time) * -at.sigma

    def data(self, x: Tensor, at: Instant) -> Tensor:
        """E[x_0 | x_t], the shape of x."""
        if self._data is not None:
            return self.counted.evaluate(self._data, x, at.time, "data")
        return torch.add(x, self.counted(x, at.time), alpha=at.sigma**2).div_(at.alpha)


def as_model(score: object, process: ScalarSDE | None) -> ScoreModel | None:
    """``score`` where it is a `ScoreModel` of ``process`` whose noise and data stand for its score; None otherwise.

    A subclass with a ``forward`` of its own, a model with hooks and a compiled one are called for the score.
    """
    if not isinstance(score, ScoreModel) or score.sde != process:
        return None
    own = type(score).forward is ScoreModel.forward and "forward" not in vars(score)
    hooks = score._forward_hooks or score._forward_pre_hooks or score._compiled_call_impl
    return score if own and not hooks else None


@prints_as_call
class GridSampler(Sampler):
    """A sampler with a grid of times.

    For processes with scalar coefficients it runs `step`, an equation in numbers; for all others `run_maps`, with linear maps.
    Nothing is kept on the sampler: what a step hands to the next one goes through ``past``.

    Attributes:
        steps: Number of steps N, N + 1 descending times, or a `ReferenceDiscretization`.
        grid: Function of `scoresde.samplers.grids` that makes the times of N steps.
        t_min: Last time of the grid; None for the process's own where it has one, else 1e-3.
        denoise: Return an estimate of x_0 in place of the state at the last time.
    """

    steps: int | tuple[float, ...] | Discretization
    grid: Grid
    t_min: float | None
    denoise: bool

    purpose = "step"
    """Key of the noise."""

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return False

    @property
    def discretization(self) -> Discretization:
        """The grid with its transitions."""
        return discretization(self.steps, self.grid, self.t_min)

    def set_grid(self, steps: Steps, grid: Grid, t_min: float | None, *, denoise: bool) -> None:
        """Keep the arguments that all samplers on a grid share. Raises ValueError for a grid that does not exist."""
        values = {"steps": plain_steps(steps), "grid": grid, "t_min": t_min, "denoise": denoise}
        if t_min is not None:
            check_number("t_min", t_min, least=0.0)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # also for frozen dataclasses
        discretization(self.steps, grid, t_min)

    def start_time(self, sde: SDE) -> float:
        """The first time of the grid."""
        return self.discretization.start_time(self.process(sde))

    @abstractmethod
    def process(self, sde: SDE) -> LinearSDE:
        """The process that is sampled. Raises TypeError for one that the sampler does not fit."""

    def has_step(self, process: LinearSDE) -> bool:
        """Whether `step` serves the process and the sampler's settings."""
        return isinstance(process, ScalarSDE)

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        process = self.process(sde)
        if not (isinstance(process, ScalarSDE) and self.has_step(process)):
            return self.run_maps(process, score, x, noise, callback)
        plan = self.discretization
        times = plan.times(process)  # of [0, T]
        with times_checked():
            intervals = self.prepared_intervals(process, plan.intervals(process, times, x))
            draws = self.draws(len(intervals), x, noise, intervals)
            model, mean, past = Model(score, process), x, None
            for interval in intervals:
                x, mean, past = self.step(model, x, interval, next(draws), past)
                callback(interval.index + 1, interval.to.clock, x)
            return (self.denoised(model, x, mean, intervals[-1].to) if self.denoise else x), times

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps, before the first one. Raises ValueError where the sampler cannot take them."""
        return intervals

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        """What each step gets as ``z``: standard normals like x, or None."""
        if not self.stochastic:
            return iter([None] * steps)
        return noise.normals(x.shape[1:], steps=range(steps), purpose=self.purpose, dtype=x.dtype)

    @abstractmethod
    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """One step for a process with scalar coefficients.

        Args:
            model: The score, noise or data at an instant.
            x: (B, *state), the state at ``interval.at``.
            interval: The step.
            z: Standard normals like x; None for a sampler that is not `stochastic`.
            past: What the step before returned as its third value; None at first.

        Returns:
            The state at ``interval.to``; the same without the noise that the step added; and whatever the next step needs.
        """

    def denoised(self, model: Model, x: Tensor, mean: Tensor, at: Instant) -> Tensor:
        """The estimate of x_0 at the end, from the last state and its mean: E[x_0 | x], at the price of one evaluation."""
        return model.data(x, at)

    @abstractmethod
    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        """`run` for any linear process."""
