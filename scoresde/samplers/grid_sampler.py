"""Samplers on a grid of times: the loop over the steps, and the model that a step evaluates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from scoresde._representation import prints_as_call
from scoresde._validation import check_number, shown, times_checked
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.discretization import Discretization, Grid, Steps, discretization, plain_steps
from scoresde.samplers.instants import Instant, Interval
from scoresde.score import ScoreModel
from scoresde.score.data_variance import DataVariance, variance_method, with_variance
from scoresde.score.energy import energy_and_gradient
from scoresde.score.origin import check_weights
from scoresde.sde import SDE, LinearSDE, ScalarSDE

__all__ = ["GridSampler", "Model"]


class Model:
    """A score that a step evaluates as score, noise or data, whichever the step's equation uses.

    A ``ScoreModel`` of the same process returns its noise and data directly. Any other score is converted::

        noise = -sigma score        data = (x + sigma^2 score) / alpha

    Args:
        counted: The score.
        process: Process of the instants. None if only the score is evaluated.
    """

    def __init__(self, counted: CountedScore, process: ScalarSDE | None) -> None:
        self.counted = counted
        native = as_model(counted.score, process)
        self._noise: Callable[[Tensor, Tensor], Tensor] | None = None if native is None else native.noise
        self._data: Callable[[Tensor, Tensor], Tensor] | None = None if native is None else native.denoised

    def score(self, x: Tensor, at: Instant) -> Tensor:
        """grad log p_t(x), the shape of x."""
        return self.counted(x, at.time)

    def energy_and_score(self, x: Tensor, at: Instant) -> tuple[Tensor, Tensor]:
        """-log p_t(x) up to a constant, (B,), and its negative gradient, the shape of x, by one evaluation.

        Raises:
            TypeError: If the score has no method ``energy(x, t)``.
        """
        energy = getattr(self.counted.score, "energy", None)
        if energy is None:
            raise TypeError(
                f"score={shown(self.counted.score)} has no energy(x, t), which gives -log p_t(x) up to a constant and which "
                "the Metropolis step needs: give an EnergyModel or mixture.score(sde), or use a corrector without it, "
                "Langevin() or UnderdampedLangevin()"
            )
        values: list[Tensor] = []

        def score(x: Tensor, t: Tensor) -> Tensor:
            value, slope = energy_and_gradient(energy, x, t)
            values.append(value)
            return -slope

        found = self.counted.evaluate(score, x, at.time, "score")
        return values[0], found

    def score_and_variance(
        self, x: Tensor, interval: Interval, variance: DataVariance | str
    ) -> tuple[Tensor, Tensor | float]:
        """The score at the start of a step, the shape of x, and the variance of x_0 given x, by one evaluation.

        Args:
            x: State at ``interval.at``, of shape ``(B, *state)``.
            interval: The step.
            variance: A function of sigma / alpha, or "model" for the variance that the score has.

        Raises:
            TypeError: If the variance is "model" and the score has none.
        """
        at = interval.at
        if not isinstance(variance, str):
            return self.counted(x, at.time), float(variance(torch.tensor(at.sigma / at.alpha, dtype=torch.float64)))
        delta = torch.tensor(interval.snr_gain, dtype=x.dtype, device=x.device)
        return with_variance(
            lambda score: self.counted.evaluate(score, x, at.time, "score"), variance_method(self.counted.score), delta
        )

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
    """``score`` if it is a ``ScoreModel`` of ``process`` whose noise and data agree with its score, else None.

    Subclasses that override ``forward``, models with hooks and compiled models are evaluated as a score.
    """
    if not isinstance(score, ScoreModel) or process is None or score.sde != process.whole:
        return None
    own = type(score).forward is ScoreModel.forward and "forward" not in vars(score)
    hooks = score._forward_hooks or score._forward_pre_hooks or score._compiled_call_impl
    return score if own and not hooks else None


@prints_as_call
class GridSampler(Sampler):
    """A sampler with a grid of times.

    For processes with scalar coefficients it runs :meth:`step`, an equation in Python floats. For all other processes
    it runs :meth:`run_maps`, with linear maps. The sampler itself does not change: a step passes values to the next
    step through ``past``.

    Attributes:
        steps: Number of steps N, N + 1 descending times, or a ``ReferenceDiscretization``.
        grid: Function of ``scoresde.samplers.grids`` that makes the times of N steps.
        t_min: Last time of the grid. None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Whether to return an estimate of x_0 instead of the state at the last time.
    """

    steps: int | tuple[float, ...] | Discretization
    grid: Grid
    t_min: float | None
    denoise: bool

    takes_hooks = True
    differentiable = True
    purpose = "step"
    """Key of the noise."""

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return False

    @property
    def discretization(self) -> Discretization:
        """The grid and its transitions."""
        return discretization(self.steps, self.grid, self.t_min)

    def set_grid(self, steps: Steps, grid: Grid, t_min: float | None, *, denoise: bool) -> None:
        """Check and store the arguments that all samplers on a grid share.

        Args:
            steps: Number of steps, times, or a discretization.
            grid: Function that makes the times.
            t_min: Last time, or None.
            denoise: Whether to return an estimate of x_0.

        Raises:
            ValueError: If the arguments do not define a grid.
        """
        values = {"steps": plain_steps(steps), "grid": grid, "t_min": t_min, "denoise": denoise}
        if t_min is not None:
            check_number("t_min", t_min, least=0.0)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # also for frozen dataclasses
        discretization(self.steps, grid, t_min)

    def check_process(self, sde: SDE) -> None:
        self.process(sde)

    def check_score(self, sde: SDE, score: Callable[..., Tensor]) -> None:
        """Raise ValueError if the grid was made for another score."""
        grid = getattr(self.discretization, "grid", None)
        check_weights("grid", grid, getattr(grid, "weights", ""), score, "make a grid for this score, by network_grid")

    def start_time(self, sde: SDE) -> float:
        """The first time of the grid.

        Args:
            sde: The process.

        Returns:
            T, unless the grid starts below it.
        """
        return self.discretization.start_time(self.process(sde))

    @abstractmethod
    def process(self, sde: SDE) -> LinearSDE:
        """The process whose reverse the sampler simulates.

        Args:
            sde: The process of the call.

        Returns:
            ``sde``, or a process that replaces it.

        Raises:
            TypeError: If the sampler does not support the process.
        """

    def has_step(self, process: LinearSDE) -> bool:
        """Whether the sampler has a :meth:`step` for the process.

        Args:
            process: The process.

        Returns:
            False if the sampler must use :meth:`run_maps`.
        """
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
            draws = self.draws(len(intervals), x, process.step_noise(noise, times), intervals)
            model, mean, past = Model(score, process), x, None
            for interval in intervals:
                x, mean, past = self.step(model, x, interval, next(draws), past)
                x = score.hooked(interval.index + 1, interval.to.clock, x)
                callback(interval.index + 1, interval.to.clock, x)
            return (self.denoised(model, x, mean, intervals[-1].to) if self.denoise else x), times

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """Check the steps, or add coefficients to them, before the first step.

        Args:
            sde: The process.
            intervals: The steps.

        Returns:
            The steps.

        Raises:
            ValueError: If the sampler cannot take these steps.
        """
        return intervals

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        """The argument ``z`` of each step.

        Args:
            steps: Number of steps.
            x: Start, of shape ``(B, *state)``.
            noise: Source of the noise.
            intervals: The steps.

        Returns:
            Standard normals of the shape of ``x``, or None, for each step.
        """
        if not self.stochastic:
            return iter([None] * steps)
        return noise.normals(x.shape[1:], steps=range(steps), purpose=self.purpose, dtype=x.dtype)

    @abstractmethod
    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """One step for a process with scalar coefficients.

        Args:
            model: Evaluates the score, noise or data at an instant.
            x: State at ``interval.at``, of shape ``(B, *state)``.
            interval: Coefficients of the step.
            z: Standard normals of the shape of ``x``. None if the sampler is not :attr:`stochastic`.
            past: The third value that the previous step returned. None for the first step.

        Returns:
            The state at ``interval.to``; the same without the noise that the step added; and a value for the next step.
        """

    def denoised(self, model: Model, x: Tensor, mean: Tensor, at: Instant) -> Tensor:
        """The estimate of x_0 after the last step: E[x_0 | x], with one more evaluation of the model.

        Args:
            model: Evaluates the data at an instant.
            x: The last state.
            mean: The last state without the noise that the last step added.
            at: The last time.

        Returns:
            The estimate, of the shape of ``x``.
        """
        return model.data(x, at)

    @abstractmethod
    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        """:meth:`run` for any linear process.

        Args:
            sde: The process.
            score: The score.
            x: Start, of shape ``(B, *state)``.
            noise: Source of the noise.
            callback: Called after every step.

        Returns:
            The final state, and the times of the grid.
        """
