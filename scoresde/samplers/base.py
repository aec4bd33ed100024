"""What every sampler takes and gives.

    result = sampler(sde, score, shape, seed=0)          result.samples (B, *event)

`score` is any callable (x, t) -> the shape of x with t of shape (B,): a `ScoreModel`, a mixture's exact score, a guided
one. Sample i depends on (seed, first + i) alone, to rounding: not on the batch, nor on how a set is cut over processes.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.sde import SDE, LinearSDE, Score, check_same_process

Callback = Callable[[int, Tensor, Tensor], None]
"""(number k of the step, t, state at t): called with (0, T, start), then after every step; must not change the state."""


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returns.

    samples: (B, *event), data.
    state: (B, *state), what they were read off; the same where the process has no more than the data.
    nfe: evaluations of the score, each for the whole batch.
    times: (N + 1,) the grid, descending; empty where a solver chose its steps.
    seed, first: the key of the draws: sample i is (seed, first + i).
    """

    samples: Tensor
    state: Tensor
    nfe: int
    times: Tensor
    seed: int
    first: int

    def __repr__(self) -> str:
        return f"SampleResult(samples of shape {tuple(self.samples.shape)}, nfe={self.nfe}, seed={self.seed})"


class CountedScore:
    """A score that counts its calls and refuses to pass on a wrong shape."""

    def __init__(self, score: Score) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        value = self.score(x, t)
        if value.shape != x.shape:
            raise ValueError(f"score returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}")
        return value


class Sampler(ABC):
    """Runs a process backwards. Subclasses give `run`."""

    @torch.no_grad()
    def __call__(
        self,
        sde: LinearSDE,
        score: Score,
        shape: Sequence[int],
        *,
        seed: int = 0,
        first: int = 0,
        noise: NoiseSource | None = None,
        start: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Draw samples.

        sde: the process of the score.
        shape: (B, *event).
        seed, first: key of the draws; the samples have the numbers first, ..., first + B - 1.
        noise: replaces (seed, first) by a source of one's own.
        start: (B, *state) at T; a draw from the prior unless given.
        callback: called with (0, T, start), then after every step with its number, the time reached and the state there.

        Raises ValueError for a shape that does not fit, a sampler that does not fit the process, or a non-finite state.
        """
        shape = _whole_shape(shape)
        if not isinstance(sde, SDE):
            raise TypeError(f"sde is a {type(sde).__name__}: give a process, e.g. VPSDE()")
        check_same_process(sde, score)
        noise = noise or NoiseSource.of(seed, shape[0], first, device)
        if start is None:
            start = sde.prior_sample(shape, noise=noise, dtype=dtype, device=device)
        else:
            wanted = (shape[0], *sde.state_shape(shape[1:]))
            if tuple(start.shape) != wanted:
                raise ValueError(f"start has shape {tuple(start.shape)}: shape={shape} needs a state of {wanted}")
        counted = CountedScore(score)
        if callback is not None:
            callback(0, torch.tensor(sde.T, dtype=start.dtype), start)
        state, times = self.run(sde, counted, start, noise, callback)
        check_samples(state, noise)
        samples = sde.project(state)
        return SampleResult(samples, state, counted.calls, times, noise.seed, int(noise.indices[0]))

    @abstractmethod
    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback | None
    ) -> tuple[Tensor, Tensor]:
        """(samples, times) from the state x at T."""


def _whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        whole = tuple(operator.index(n) for n in shape)
    except TypeError:
        whole = ()
    if not whole or min(whole) < 1:
        raise ValueError(f"shape={shape!r} is not allowed: give (B, *event), positive whole numbers")
    return whole


def check_samples(samples: Tensor, noise: NoiseSource) -> None:
    """Raise FloatingPointError naming the samples that are not finite."""
    finite = torch.isfinite(samples).reshape(len(samples), -1).all(1)
    if not bool(finite.all()):
        bad = noise.indices[~finite].tolist()
        raise FloatingPointError(
            f"{len(bad)} of {len(samples)} samples are not finite, with indices {bad[:8]}: the score returned a "
            "non-finite value, or the steps are too large (more steps, a smaller snr)"
        )
