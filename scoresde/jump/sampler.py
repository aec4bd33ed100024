"""The interface of the samplers of jump processes.

They are called like all samplers::

    result = sampler(process, model, shape, seed=0)          # result.samples has the shape (B, *event)

The model is any callable (x, t) that returns logits of p(x_0 | x_t), ``(B, *event, tokens)``, with x ``(B, *event)``
int64 and t ``(B,)`` float64: a ``CategoricalModel``, a ``RatioModel``, or the exact model of an ``EnumeratedJoint``.
Sample i depends only on (seed, first + i), up to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import shown
from scoresde.conditions import given
from scoresde.jump import grids
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, check_model
from scoresde.jump.grids import check_grid
from scoresde.jump.known import KnownTokens, following
from scoresde.jump.states import whole_states
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import whole_shape
from scoresde.samplers.base import SampleResult
from scoresde.samplers.discretization import plain_steps
from scoresde.sde.scores import in_evaluation_mode

Callback = Callable[[int, Tensor, Tensor], None]
"""A function ``(k, t, state)`` that is called with the start (k = 0), then after every step k."""


class JumpSampler(ABC):
    """Base class of samplers of jump processes. A subclass implements ``run``."""

    @torch.no_grad()
    @in_evaluation_mode("model")
    def __call__(
        self,
        process: JumpProcess,
        model: Callable[..., Tensor],
        shape: Sequence[int],
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        first: int = 0,
        noise: NoiseSource | None = None,
        start: Tensor | None = None,
        known: KnownTokens | None = None,
        device: torch.device | str | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Draw samples.

        Args:
            process: The process of the model.
            model: A callable ``(x, t)`` that returns logits of p(x_0 | x_t). Its networks are in evaluation mode during
                the run.
            shape: ``(B, *event)``.
            condition: Conditions of the model by name. A tensor has one row for each sample, or no dimension.
            seed: Key of the draws, in [0, 2^64).
            first: Index of the first sample.
            noise: A source of noise that replaces ``(seed, first)``.
            start: States ``(B, *event)`` at ``start_time``, which is T unless the sampler has a grid that begins below
                T. By default they are drawn from the prior.
            known: Known tokens of the samples. Its docstring says which distribution the others have.
            device: Device of the samples. ``start`` replaces it.
            callback: A function ``(k, t, state)``, called with the start (k = 0) and after every step k.

        Returns:
            The samples, tokens int64, and statistics of the run: ``nfe`` calls of the model, each for the samples that need
            it, and the number of calls that each sample was part of, ``spent``.

        Raises:
            ValueError: If an argument is not allowed, the model returns a NaN, or the grid begins below T without a
                start.
            TypeError: If the sampler does not support the process.
        """
        if not isinstance(process, JumpProcess):
            raise TypeError(f"process={shown(process)} is not a jump process: give e.g. Absorbing(27)")
        shape = whole_shape(shape)
        check_model(process, model)
        model = given(model, condition, name="model")
        self.check_process(process)
        if start is not None:
            start = whole_states("start", start, process.states)
            if tuple(start.shape) != shape:
                raise ValueError(f"start has shape {tuple(start.shape)}: give shape={shape}")
            device = start.device
        else:
            self.check_start(process)
        at = self.start_time(process)
        noise = NoiseSource.for_batch(noise, shape[0], seed, first, device)
        x = process.prior_sample(shape, noise=noise) if start is None else start
        if known is not None:
            x = known.start(process, x, torch.tensor(at, dtype=torch.float64), noise)
        counted = CountedModel(model, process, len(x))
        report = callback or _ignored
        report(0, torch.tensor(at, dtype=torch.float64), x)
        x, times = self.run(process, counted, x, noise, report, known)
        failed = torch.zeros(len(x), dtype=torch.bool)
        return SampleResult(x, x, counted.calls, times, noise.seed, int(noise.indices[0]), failed, counted.spent)

    def check_process(self, process: JumpProcess) -> None:  # noqa: B027  (some samplers take any process)
        """Check that the sampler supports a process.

        Args:
            process: The process.

        Raises:
            TypeError: If it does not.
        """

    def start_time(self, process: JumpProcess) -> float:
        """The time of the start.

        Args:
            process: The process.

        Returns:
            T, unless a subclass starts at another time.
        """
        return process.T

    def check_start(self, process: JumpProcess) -> None:
        """Check that the sampler starts from the prior.

        Args:
            process: The process.

        Raises:
            ValueError: If its grid begins below T, so that it needs ``start``.
        """
        if (at := self.start_time(process)) < process.T * (1.0 - 1e-6):
            raise ValueError(
                f"steps begins at t={at:g}, and the prior is the distribution at T={process.T:g}: give start=..., or a grid "
                "that begins at T"
            )

    @abstractmethod
    def run(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        """Simulate the reverse process from a start.

        Args:
            process: The process.
            model: The model, which counts its calls.
            x: Start, ``(B, *event)``.
            noise: Source of the random numbers.
            callback: Must be called after every step.
            known: Known tokens, which are in x already. ``known.step`` must be called after every step, unless the step
                keeps all tokens that are not masked.

        Returns:
            The samples ``(B, *event)``, and the times of the grid (empty without one).
        """


def check_mask(sampler: JumpSampler, process: JumpProcess, other: str) -> None:
    """Raise TypeError unless the process is ``Absorbing``. ``other`` is the sampler that the message recommends."""
    if not process.carries_over:
        name = type(sampler).__name__
        raise TypeError(f"{name} does not support {process!r}: give an Absorbing process, or use {other}")


def _ignored(step: int, t: Tensor, x: Tensor) -> None:
    pass


class TimedJumpSampler(JumpSampler):
    """Base class of samplers with a grid of times. A subclass implements ``run``.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.
    """

    def __init__(
        self,
        steps: int | Sequence[float] | Tensor = 100,
        grid: Callable[[JumpProcess, int], Tensor] = grids.equal_times,
    ) -> None:
        plain = plain_steps(steps)
        assert isinstance(plain, int | tuple)  # the arguments are checked
        if isinstance(plain, tuple) and plain[-1] != 0.0:
            raise ValueError(f"steps holds times that end at {plain[-1]:g}: give descending times that end at 0")
        self.steps, self.grid = plain, grid

    def times(self, process: JumpProcess) -> Tensor:
        """The descending times.

        Args:
            process: The process.

        Returns:
            The times, ``(N + 1,)`` float64.
        """
        if isinstance(self.steps, tuple):
            return check_grid("steps", process, torch.tensor(self.steps, dtype=torch.float64))
        return check_grid("grid", process, self.grid(process, self.steps))

    def start_time(self, process: JumpProcess) -> float:
        return float(self.times(process)[0])


class GridJumpSampler(TimedJumpSampler):
    """Base class of samplers that take one step after the other. A subclass implements ``step``.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.
    """

    def run(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        times = self.times(process)
        for k in range(len(times) - 1):
            t, s = times[k], times[k + 1]
            new = self.step(process, model, x, t, s, noise, k)
            x = following(known, process, x, new, t, s, noise, k)
            callback(k + 1, s, x)
        return x, times

    @abstractmethod
    def step(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        """One step from t to s.

        Args:
            process: The process.
            model: The model.
            x: States at t, ``(B, *event)``.
            t: Time of the states, ``()``.
            s: Time of the next states, ``()``, < t.
            noise: Source of the random numbers.
            number: Number of the step, from 0.

        Returns:
            The states at s, ``(B, *event)``.
        """
