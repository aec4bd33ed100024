"""What every sampler takes and gives.

    result = sampler(sde, score, shape, seed=0)          result.samples (B, *event)

`score` is any callable (x, t) -> the shape of x with t of shape (B,): a `ScoreModel`, a mixture's exact score, a guided
one. Sample i depends on (seed, first + i) alone, to rounding: not on the batch, nor on how a set is cut over processes.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_kind
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import check_options, check_prior, check_samples, check_start, whole_shape
from scoresde.sde import SDE, LinearSDE, Score, check_same_process
from scoresde.sde.scores import HALF, CheckedScore, in_evaluation_mode, wide

__all__ = ["SampleResult", "Sampler", "Trajectory"]

Callback = Callable[[int, Tensor, Tensor], None]
"""(number k of the step, t, state at t): called with (0, T, start), then after every step; must not change the state.

The first t is that of the start, T unless the grid begins below it. The state is float32 where samples have half precision.
"""


@dataclass(frozen=True)
class Trajectory:
    """What a sampler went through, every so many steps, start and end included.

    times: (K,). states: (K, B, *state). data: (K, B, *event), E[x_0 | x] by the first evaluation made from there on; the last
    is the sample. None for a process without it, and where samples go through times of their own.
    """

    times: Tensor
    states: Tensor
    data: Tensor | None


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returns.

    samples: (B, *event), data.
    state: (B, *state), what they were read off; the same where the process has no more than the data.
    nfe: evaluations of the score, each for the whole batch.
    times: (N + 1,) the grid, descending; empty where a solver chose its steps.
    seed, first: the key of the draws: sample i is (seed, first + i).
    failed: (B,) bool, samples that are not finite.
    spent: (B,) evaluations that each sample needed; nfe for all where they go in step.
    interrupted: whether the run was ended from the keyboard; then ``state`` is that after the last step, ``times`` ends where
        it stands, and samples are E[x_0 | x] of the last evaluation.
    trajectory: a `Trajectory` where one was asked for.
    """

    samples: Tensor
    state: Tensor
    nfe: int
    times: Tensor
    seed: int
    first: int
    failed: Tensor
    spent: Tensor
    interrupted: bool = False
    trajectory: Trajectory | None = None

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        lost = f", {int(self.failed.sum())} failed" if bool(self.failed.any()) else ""
        return f"SampleResult(samples of shape {tuple(self.samples.shape)}, nfe={self.nfe}, seed={self.seed}{lost}{stopped})"


@dataclass(frozen=True)
class Call:
    """One evaluation of a model: ``value`` is its score, noise or data at x (B, *state), t (B,), as ``kind`` says."""

    x: Tensor
    t: Tensor
    value: Tensor
    kind: str

    def data(self, sde: LinearSDE) -> Tensor:
        """E[x_0 | x_t]."""
        if self.kind == "data":
            return self.value
        if self.kind == "noise":
            return sde.kernel(self.t).data_from_noise(self.x, self.value)
        return sde.data_from_score(self.x, self.t, self.value)


class CountedScore(CheckedScore):
    """A `CheckedScore` that counts its calls, and keeps its first and last call since `mark`.

    spent: evaluations of each sample, set by a sampler whose samples do not go in step.
    """

    def __init__(self, score: Score, batch: int | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(score, batch, dtype)
        self.calls = 0
        self.spent: Tensor | None = None
        self.first: Call | None = None
        self.last: Call | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.evaluate(self.score, x, t, "score")

    def evaluate(self, function: Score, x: Tensor, t: Tensor, kind: str) -> Tensor:
        """``function(x, t)``, the model's score, noise or data, as ``kind`` says."""
        self.calls += 1
        value = self.checked(function, x, t).to(
            x.dtype
        )  # a score that computes in more must not decide what the samples are
        self.last = Call(x, t, value, kind)
        if self.first is None:
            self.first = self.last
        return value

    def mark(self) -> None:
        """The next call is the first."""
        self.first = None


class Record:
    """The callback that a sampler is run with: it keeps what the result is made of, and passes on to the user's."""

    def __init__(self, sde: SDE, score: CountedScore, every: int, progress: bool, callback: Callback | None) -> None:
        self.sde, self.score, self.every, self.callback = sde, score, every, callback
        self.step, self.t, self.x = 0, torch.empty(0), torch.empty(0)
        self.times: list[float] = []
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.data: list[Tensor] = []
        self.printed = time.monotonic() if progress else math.inf

    def __call__(self, step: int, t: Tensor, x: Tensor) -> None:
        self.step, self.t, self.x = step, t, x
        if self.every:
            self._predict()
            if step % self.every == 0:
                self.kept.append((t, x))
            self.score.mark()
        if self.printed < math.inf and time.monotonic() > self.printed + 0.2:
            self.printed = time.monotonic()
            print(f"\rstep {step}, t = {float(t):.4g} ", end="", file=sys.stderr, flush=True)
        if self.callback is not None:
            self.callback(step, t, x)

    def end(self, state: Tensor, samples: Tensor) -> Trajectory | None:
        """The trajectory, once the run is over."""
        if self.printed < math.inf:
            print(file=sys.stderr)
        if not self.every:
            return None
        if self.step % self.every:
            self.kept.append((self.t, self.x))
        self.data.append(samples)
        times, states = zip(*self.kept, strict=True)
        whole = len(self.data) == len(states)
        return Trajectory(torch.stack(times), torch.stack(states), torch.stack(self.data) if whole else None)

    def prediction(self, call: Call) -> Tensor:
        """The data's mean by a call of the score; the data of the last state where the process knows no mean, or the call was of
        a part of the batch."""
        return self.sde.extract_data(call.data(self.sde) if self._whole(call) else self.x)  # type: ignore[arg-type]

    def _predict(self) -> None:
        """E[x_0 | x] for the state that was kept last, once the score was called there for the whole batch."""
        call = self.score.first
        if call is not None and len(self.data) < len(self.kept) and self._whole(call):
            self.data.append(self.prediction(call))

    def _whole(self, call: Call) -> bool:
        return isinstance(self.sde, LinearSDE) and call.x.shape == self.x.shape


class Sampler(ABC):
    """Runs a process backwards. Subclasses give `run`, and `start_time` where they may begin below T."""

    @torch.no_grad()
    @in_evaluation_mode("score")
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
        keep_every: int = 0,
        allow_failed: bool = False,
        progress: bool = False,
    ) -> SampleResult:
        """Draw samples.

        sde: the process of the score.
        score: (x, t) -> the shape of x. Networks behind it are put into evaluation mode for the run, see
            `scoresde.sde.scores`.
        shape: (B, *event).
        seed, first: key of the draws; the samples have the numbers first, ..., first + B - 1.
        noise: replaces (seed, first) by a source of one's own.
        start: (B, *state) at `start_time`, which is T unless the sampler has a grid that begins below it; a draw from the
            prior, which is the law at T, unless given. Its dtype and device replace ``dtype`` and ``device``.
        dtype: of the samples and of the x that the score gets. In float16 and bfloat16 states, times and
            coefficients are float32.
        callback: called with (0, T, start), then after every step with its number, the time reached and the state there.
        keep_every: keep the state and E[x_0 | x] every so many steps in ``result.trajectory``; 0 keeps nothing.
        allow_failed: mark samples that are not finite in ``result.failed`` in place of an exception.
        progress: print the step and the time to stderr, five times a second.

        An interrupt from the keyboard ends the run and returns what there is, see `SampleResult`. Raises ValueError for a shape
        or device that does not fit, a sampler that does not fit the process, and a grid that begins below T without a start,
        TypeError for a dtype that is not of floating-point numbers, FloatingPointError for a non-finite sample.
        """
        check_options(keep_every, callback, allow_failed=allow_failed, progress=progress)
        check_kind(dtype, device)
        shape = whole_shape(shape)
        if not isinstance(sde, SDE):
            raise TypeError(f"sde is a {type(sde).__name__}: give a process, e.g. VPSDE()")
        check_same_process(sde, score)
        at = self.start_time(sde)
        if start is not None:
            check_start(sde, start, shape)
            dtype, device = start.dtype, start.device
        noise = NoiseSource.for_batch(noise, shape[0], seed, first, device)
        if start is None:
            check_prior(sde, at)
            kind = torch.float32 if dtype in HALF else dtype
            start = sde.prior_sample(shape, noise=noise, dtype=kind, device=device)
            check_start(sde, start, shape, f"the start drawn by prior_sample of {sde!r}")
        start, counted = wide(start), CountedScore(score, shape[0], dtype)
        record = Record(sde, counted, keep_every, progress, callback)
        interrupted = False
        try:
            record(0, torch.tensor(at, dtype=start.dtype), start)
            state, times = self.run(sde, counted, start, noise, record)
            samples = sde.extract_data(state)
        except KeyboardInterrupt:
            if counted.last is None:
                raise
            interrupted, state, samples = True, record.x, record.prediction(counted.last)
            times = torch.tensor([at, float(record.t)], dtype=torch.float64)
        trajectory = record.end(state, samples)
        if counted.dtype is not None:
            samples, state = samples.to(dtype), state.to(dtype)
        finite = torch.isfinite(state).reshape(len(state), -1).all(1)
        if not allow_failed:
            check_samples(finite, noise)
        spent = torch.full((len(state),), counted.calls) if counted.spent is None else counted.spent
        return SampleResult(
            samples,
            state,
            counted.calls,
            times,
            noise.seed,
            int(noise.indices[0]),
            ~finite,
            spent,
            interrupted,
            trajectory,
        )

    def start_time(self, sde: SDE) -> float:
        """The time of the start, and where `run` begins: T."""
        return sde.T

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Sampler:
        """The sampler to keep for many batches of one model: itself, unless it first finds out something about the model."""
        return self

    @abstractmethod
    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        """(samples, times) from the state x at T; the callback is to be called after every step."""


check_constructors(globals(), records=(SampleResult, Trajectory))
