"""What the objectives share: whose process, which times, keys of the draws, and a score that is held to its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_output, check_seed
from scoresde.losses.times import ChainTimes, TimeDistribution, UniformTime
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, Chain, check_same_process

Process = TypeVar("Process", bound=SDE)


class Objective(Generic[Process]):
    """A loss by draws of times and noisy data.

    times: the distribution of t; ``UniformTime()`` for a process, ``ChainTimes()`` for a chain, unless given.
    seed: of the draws. Call k without a step uses step k, so that a loop draws afresh each time.
    """

    def __init__(self, sde: Process, times: TimeDistribution | None, seed: int) -> None:
        if not (times is None or isinstance(times, TimeDistribution)):
            raise TypeError(
                f"times={times!r} is not a TimeDistribution: give UniformTime(), UniformLogNoise(low, high), ..."
            )
        check_seed("seed", seed)
        self.sde, self.seed = sde, seed
        self.times = times or (ChainTimes() if isinstance(sde, Chain) else UniformTime())
        self._calls = 0

    def _keyed(self, x0: Tensor, t: Tensor | None, step: int | None, indices: Tensor | None) -> tuple[NoiseSource, int]:
        """The source of the draws for a batch and their step; times that were given are checked."""
        check_batch("x0", x0)
        if step is None:
            step, self._calls = self._calls, self._calls + 1
        if indices is None:
            source = NoiseSource.of(self.seed, len(x0), device=x0.device)
        else:
            source = NoiseSource(self.seed, indices)
        if t is not None:
            self.sde.check_time(t, len(x0))
        return source, step

    def _times(self, x0: Tensor, source: NoiseSource, step: int) -> Tensor:
        """Times (B,) by the distribution."""
        return self.times.times(self.sde, source.uniform((), step=step, purpose="time", dtype=self._time_dtype(x0)))

    @staticmethod
    def _time_dtype(x0: Tensor) -> torch.dtype:
        """That of the data, float32 at least: half precision does not hold the coefficients."""
        return torch.promote_types(x0.dtype, torch.float32)

    def _score(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The model's score; ValueError where it is of another process or shape, lest it broadcasts."""
        check_same_process(self.sde, model)
        score = model(x, t, **condition)
        check_output("model", score, x)
        return score
