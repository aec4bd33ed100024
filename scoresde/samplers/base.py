"""The interface of all samplers: arguments, result, and the call around a sampler's own loop.

Call a sampler as::

    result = sampler(sde, score, shape, seed=0)          # result.samples has the shape (B, *event)

The score is any callable ``(x, t)`` that returns a tensor of the shape of ``x``, with ``t`` of shape ``(B,)``: a
``ScoreModel``, the exact score of a mixture, or a guided score. Sample i depends only on ``(seed, first + i)``, up to
rounding. It does not depend on the batch, or on how a set of samples is divided among processes.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoresde._arguments import check_constructors
from scoresde._validation import check_kind
from scoresde.conditions import given
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import check_options, check_prior, check_samples, check_start, whole_shape
from scoresde.samplers.hooks import Hook, Hooks, check_hooks
from scoresde.samplers.populations import Particles
from scoresde.sde import SDE, LinearSDE, Score, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.scores import HALF, CheckedScore, in_evaluation_mode, wide

__all__ = ["SampleResult", "Sampler", "Trajectory"]

Callback = Callable[[int, Tensor, Tensor], None]
"""A function ``(k, t, state)`` that the sampler calls with the start (k = 0), then after every step k. It must not
change the state.

The first t is T, or the first time of a grid that starts below T. The state is float32 if the samples have half
precision.
"""


@dataclass(frozen=True)
class Trajectory:
    """States of a sampling run, every ``keep_every`` steps, with the first and the last state.

    Attributes:
        times: Times of the states, of shape ``(K,)``.
        states: States, of shape ``(K, B, *state)``.
        data: Estimates E[x_0 | x], of shape ``(K, B, *event)``. The estimate of a state is from the first evaluation of
            the score that follows it. The last entry is the sample. None if the process does not define E[x_0 | x], or
            if each sample has its own times.
    """

    times: Tensor
    states: Tensor
    data: Tensor | None


@dataclass(frozen=True)
class SampleResult:
    """The result of a sampler.

    Attributes:
        samples: Samples of the data, of shape ``(B, *event)``.
        state: Final state, of shape ``(B, *state)``. It equals ``samples`` unless the process has auxiliary variables.
        nfe: Number of evaluations of the score, each for the whole batch.
        times: Descending times of the grid, of shape ``(N + 1,)``. Empty if a solver chose its steps.
        seed: Key of the draws.
        first: Index of the first sample. Sample i has the key ``(seed, first + i)``.
        failed: Samples that are not finite, bool of shape ``(B,)``.
        spent: Number of evaluations that each sample needed, of shape ``(B,)``. Equal to ``nfe`` unless samples have
            their own steps.
        interrupted: True if a keyboard interrupt ended the run. Then ``state`` is the state after the last step,
            ``times`` ends at its time, and ``samples`` are E[x_0 | x] from the last evaluation.
        trajectory: A ``Trajectory`` if ``keep_every`` was set, else None.
        acceptance: Probability with which a Metropolis corrector accepts each of its K proposals, of shape ``(K, B)``,
            from the first level to the last. None for other samplers.
        particles: The ``Particles`` of ``ParticleSampler``, with weights and log-evidence. None for other samplers.
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
    acceptance: Tensor | None = None
    particles: Particles | None = None

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.interrupted else ""
        lost = f", {int(self.failed.sum())} failed" if bool(self.failed.any()) else ""
        return f"SampleResult(samples of shape {tuple(self.samples.shape)}, nfe={self.nfe}, seed={self.seed}{lost}{stopped})"


@dataclass(frozen=True)
class Call:
    """One evaluation of a model at x (B, *state), t (B,). ``kind`` says what ``value`` is: "score", "noise" or "data"."""

    x: Tensor
    t: Tensor
    value: Tensor
    kind: str

    def data(self, sde: LinearSDE) -> Tensor:
        """E[x_0 | x_t], of shape ``(B, *state)``."""
        if self.kind == "data":
            return self.value
        if self.kind == "noise":
            return sde.kernel(self.t).data_from_noise(self.x, self.value)
        return sde.data_from_score(self.x, self.t, self.value)


class CountedScore(CheckedScore):
    """A ``CheckedScore`` that counts its calls and stores the first and the last call since ``mark``.

    Attributes:
        spent: Evaluations of each sample. Set by samplers whose samples have their own steps.
        acceptance: Probabilities, (B,), with which Metropolis steps accepted their proposals. Filled by these steps.
        particles: Set by ``ParticleSampler``.
        hooks: The hooks of the run, or None.
    """

    def __init__(
        self,
        score: Score,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        *,
        differentiable: bool = False,
    ) -> None:
        super().__init__(score, batch, dtype, every_call=differentiable)
        self.calls = 0
        self.spent: Tensor | None = None
        self.acceptance: list[Tensor] = []
        self.particles: Particles | None = None
        self.first: Call | None = None
        self.last: Call | None = None
        self.hooks: Hooks | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.evaluate(self.score, x, t, "score")

    def evaluate(self, function: Score, x: Tensor, t: Tensor, kind: str) -> Tensor:
        """``function(x, t)``, which is the model's score, noise or data, as ``kind`` says."""
        self.calls += 1
        # the dtype of the samples does not depend on the precision of the score
        value = (self._recomputed if self.every_call else self.checked)(function, x, t).to(x.dtype)
        self.last = Call(x, t, value, kind)
        if self.first is None:
            self.first = self.last
        return value

    def _recomputed(self, function: Score, x: Tensor, t: Tensor) -> Tensor:
        """The value with a graph whose inner part is computed again in the backward pass."""
        value: Tensor = checkpoint(self.checked, function, x, t, use_reentrant=False, preserve_rng_state=False)
        if x.requires_grad and not value.requires_grad:
            raise ValueError(
                "score has no graph to x (torch.no_grad, detach, NumPy, guidance by a measurement, a Metropolis step?): "
                "differentiable=True needs a score that autograd can differentiate"
            )
        return value

    def mark(self) -> None:
        """Make the next call the first one."""
        self.first = None

    def hooked(self, step: int, t: Tensor, x: Tensor) -> Tensor:
        """The state x (B, *state) after the hooks of the run, at the time t, () or (B,)."""
        if self.hooks is None:
            return x
        sde, call = self.hooks.sde, self.last
        known = call is not None and isinstance(sde, LinearSDE) and sde.gaussian and call.x.shape == x.shape
        return self.hooks(step, t, x, sde.extract_data(call.data(sde)) if known else None)  # type: ignore[union-attr,arg-type]


class Record:
    """The callback of a run: it records the trajectory, prints the progress and calls the user's callback."""

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
        """The trajectory after the run, or None if none was requested."""
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
        """E[x_0 | x] from a call of the score.

        The data of the last state if the process does not define E[x_0 | x], or if the call had only a part of the
        batch.
        """
        return self.sde.extract_data(call.data(self.sde) if self._whole(call) else self.x)  # type: ignore[arg-type]

    def _predict(self) -> None:
        """Store E[x_0 | x] for the last stored state, after the score was called there for the whole batch."""
        call = self.score.first
        if call is not None and len(self.data) < len(self.kept) and self._whole(call):
            self.data.append(self.prediction(call))

    def _whole(self, call: Call) -> bool:
        return isinstance(self.sde, LinearSDE) and self.sde.gaussian and call.x.shape == self.x.shape


class Sampler(ABC):
    """Base class of samplers, which simulate the reverse process.

    A subclass implements ``run``. It overrides ``start_time`` if it can start below T.

    Attributes:
        takes_hooks: Whether ``run`` calls ``score.hooked`` after every step.
        denoise: Whether ``run`` returns an estimate of x_0 instead of the state at the last time.
        differentiable: Whether the samples can have a graph to the start.
    """

    takes_hooks = False  # without an annotation, so that it is not a field
    denoise = False
    differentiable = False

    @torch.no_grad()
    @in_evaluation_mode("score")
    def __call__(
        self,
        sde: SDE,
        score: Callable[..., Tensor],
        shape: Sequence[int],
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        first: int = 0,
        noise: NoiseSource | None = None,
        start: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        hooks: Sequence[Hook] = (),
        callback: Callback | None = None,
        keep_every: int = 0,
        allow_failed: bool = False,
        progress: bool = False,
        differentiable: bool = False,
    ) -> SampleResult:
        """Draw samples.

        A keyboard interrupt ends the run, and the sampler returns a result with ``interrupted=True`` (see
        ``SampleResult``).

        Args:
            sde: The process of the score.
            score: A callable ``(x, t)`` that returns the score, of the shape of ``x``. Its networks are in evaluation
                mode during the run, see ``scoresde.sde.scores``.
            shape: ``(B, *event)``.
            condition: Conditions of the score by name, for example ``{"label": y}``. A tensor has one row for each sample,
                or no dimension.
            seed: Key of the draws, in [0, 2^64).
            first: Index of the first sample. The samples have the indices ``first``, ..., ``first + B - 1``.
            noise: A source of noise that replaces ``(seed, first)``.
            start: State ``(B, *state)`` at ``start_time``, which is T unless the sampler has a grid that starts below T.
                By default the start is drawn from the prior, the distribution at T. The dtype and device of ``start``
                replace ``dtype`` and ``device``.
            dtype: Dtype of the samples and of the ``x`` that the score gets. With float16 and bfloat16 the states,
                times and coefficients are float32.
            device: Device of the samples.
            hooks: Functions that change the state after every step, see :mod:`scoresde.samplers.hooks`. They are called in
                turn.
            callback: A function ``(k, t, state)``, called with the start (k = 0) and after every step k.
            keep_every: Store the state and E[x_0 | x] every ``keep_every`` steps in ``result.trajectory``. 0 stores
                nothing.
            allow_failed: Mark samples that are not finite in ``result.failed`` instead of raising an error.
            progress: Print the step and the time to stderr, five times per second.
            differentiable: Keep a graph from ``start`` and the parameters of the score to the samples. The score is evaluated
                again in the backward pass, so that the memory holds the states of the steps and one evaluation. Only
                samplers with a grid of times support it.

        Returns:
            The samples, the final state and statistics of the run.

        Raises:
            ValueError: If the shape or the device does not fit, if the sampler does not fit the process, or if the grid
                starts below T and ``start`` is not given.
            TypeError: If ``dtype`` is not a floating-point dtype, or if the sampler does not fit the process, or has no steps for
                ``hooks``.
            FloatingPointError: If a sample is not finite and ``allow_failed`` is False.
        """
        check_options(keep_every, callback, allow_failed=allow_failed, progress=progress, differentiable=differentiable)
        if differentiable and not self.differentiable:
            raise TypeError(
                f"differentiable=True is not allowed for {self!r}: use a sampler with a grid of times, such as UniPC()"
            )
        check_kind(dtype, device)
        if (hooks := check_hooks(hooks)) and not self.takes_hooks:
            raise TypeError(
                f"{self!r} does not take hooks: use a sampler with a grid of times, such as UniPC(), or AdaptiveSDE()"
            )
        shape = whole_shape(shape)
        if not isinstance(sde, SDE):
            raise TypeError(f"sde is a {type(sde).__name__}: give a process, e.g. VPSDE()")
        score = given(score, condition)
        check_same_process(sde, score)
        self.check_noise(sde)
        self.check_process(sde)
        self.check_score(sde, score)
        at = self.start_time(sde)
        if start is not None:
            check_start(sde, start, shape)
            dtype, device = start.dtype, start.device
        noise = NoiseSource.for_batch(noise, shape[0], seed, first, device)
        if start is None:
            check_prior(sde, at)
            kind = torch.float32 if dtype in HALF else dtype
            start = sde.prior_sample(shape, noise=noise, dtype=kind, device=device)
            check_start(sde, start, shape, "the start drawn by prior_sample")
        torch.set_grad_enabled(differentiable)  # until the end of this call, where no_grad restores the mode
        start, counted = wide(start), CountedScore(score, shape[0], dtype, differentiable=differentiable)
        counted.hooks = Hooks(hooks, sde, noise) if hooks else None
        record = Record(sde, counted, keep_every, progress, callback)
        interrupted = False
        try:
            clock = torch.tensor(at, dtype=start.dtype)
            start = counted.hooked(0, clock, start)
            record(0, clock, start)
            state, times = self.run(sde, counted, start, noise, record)  # type: ignore[arg-type]  # checked above
            if self.denoise:
                state = counted.hooked(record.step, torch.zeros_like(clock), state)
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
            torch.stack(counted.acceptance) if counted.acceptance else None,
            counted.particles,
        )

    def check_noise(self, sde: SDE) -> None:
        """Check that the sampler supports the noise of a process.

        Args:
            sde: The process.

        Raises:
            TypeError: If the noise is not Gaussian. A sampler whose steps add the noise of the process overrides this.
        """
        check_gaussian(sde, repr(self))

    def check_process(self, sde: SDE) -> None:  # noqa: B027  (some samplers take any process)
        """Check that the sampler supports a process. It is called before the first evaluation of the score.

        Args:
            sde: The process.

        Raises:
            TypeError: If the sampler needs something that the process does not have, such as a closed-form kernel.
            ValueError: If an argument of the sampler does not fit the process.
        """

    def check_score(self, sde: SDE, score: Callable[..., Tensor]) -> None:  # noqa: B027  (most samplers take any score)
        """Check that the sampler fits a score. It is called once for each call of the sampler, before the first evaluation.

        Args:
            sde: The process of the score.
            score: The score.

        Raises:
            TypeError: If the sampler needs something that the score does not have, such as a variance.
            ValueError: If something that the sampler uses was measured with another process or other weights.
        """

    def start_time(self, sde: SDE) -> float:
        """The time of the start.

        Args:
            sde: The process.

        Returns:
            T, unless a subclass starts at another time.
        """
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
        """Prepare the sampler for many batches of one model.

        A sampler that first computes something from the model, such as a fit, overrides this method.

        Args:
            sde: The process of the score.
            score: The score.
            event_shape: Shape of an event.
            dtype: Dtype of the samples.
            device: Device of the samples.

        Returns:
            The prepared sampler. By default the sampler itself.
        """
        return self

    @abstractmethod
    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        """Simulate the reverse process from a start.

        Args:
            sde: The process.
            score: The score, which counts its evaluations.
            x: Start, of shape ``(B, *state)``, at ``start_time``.
            noise: Source of the noise.
            callback: Must be called after every step.

        Returns:
            The final state, of shape ``(B, *state)``, and the times of the grid (empty without a grid).
        """


check_constructors(globals(), records=(SampleResult, Trajectory))
