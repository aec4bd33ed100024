"""Fits a sampler with few steps to one model, and measures its error.

1. ``Pilot`` solves the probability flow accurately for a batch of starts.
2. ``stages.py`` fits the times and coefficients of a ``FittedMultistep`` to one half of these paths.
3. The other half selects the best of several fits, and the best of several methods without a fit.
4. Both are measured on thousands of new starts. The better one is returned, with its error as an ``Expectation``.

Step 4 is needed because a pilot of 128 starts contains no paths with a probability of a few thousandths, and these
often contribute most of the mean error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_kind, check_seed
from scoresde.conditions import rows_of
from scoresde.noise import NoiseSource
from scoresde.samplers import grids
from scoresde.samplers.base import CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import linear_process
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import DataParameterization, Whitened
from scoresde.samplers.fitted.expectation import Expectation, farthest
from scoresde.samplers.fitted.fingerprint import fingerprint
from scoresde.samplers.fitted.pilot import Pilot, distances
from scoresde.samplers.fitted.sampler import FittedMultistep, FittedSampler
from scoresde.samplers.fitted.stages import Search, initial_times, stepwise, to_sampler, whitened_paths
from scoresde.sde import LinearSDE, Score
from scoresde.sde.scores import in_evaluation_mode

_S = TypeVar("_S", bound=Sampler)
_NOISE_IS_ALL = 6.0
"""The second initial grid of the first stage starts where e^u is this many standard deviations of the data."""
_FIRST_NEW = 2**31
"""Index of the first new start. It is above the indices of all pilots and of the samples of users."""
_ELEMENTS = 2**18
"""Number of coordinates in a batch of new starts, if the pilot does not have more."""
_REFERENCES = (50, 100)
"""Numbers of evaluations that ``_reference`` tries for the accurate solutions, before that of the pilot."""


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def fit(
    sde: LinearSDE,
    score: Score,
    steps: int = 5,
    *,
    pilot: Pilot | Sequence[int],
    search: int | None = None,
    history: int | None = None,
    held_out: int = 2000,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FittedSampler:
    """Fit a sampler with ``steps`` evaluations to a score.

    The result is the fitted sampler, or the best method without a fit if that is better.

    Args:
        sde: Process of the score.
        score: (x, t) -> score.
        steps: Number of evaluations of the score per sample, at least 2.
        pilot: A :class:`Pilot`, or the shape (B, *event) of a new one, which uses ``seed``, ``dtype`` and ``device``.
            The fit uses half of its starts.
        search: Number of iterations of the second stage; 0 for none. An iteration takes about ``2 * steps**2``
            evaluations of half the pilot, and the second stage runs twice. None: 20 up to 10 steps, 8 up to 20 steps,
            and 0 above.
        history: Number of derivatives that a step uses. None: 3 up to 10 steps, and 4 above.
        held_out: Number of new starts on which the error is measured, at least 16. Each one costs 50 to 200 evaluations
            for a single sample, plus ``2 * steps``. With fewer starts the stated error is less certain.
        seed: Seed of a new pilot, and of the new starts.
        dtype: Dtype of a new pilot. In half precision it is the dtype of the score's x, also with a given pilot.
        device: Device of a new pilot.

    Returns:
        The sampler. Its attribute ``expected`` is the measured error, an :class:`Expectation`.

    Raises:
        TypeError: If the process is not linear.
        ValueError: If an argument is out of range, or the pilot is of another process.

    Example:
        >>> sampler = fit(sde, score, 5, pilot=(128, 2))  # doctest: +SKIP
        >>> samples = sampler(sde, score, (1000, 2), seed=0).samples  # doctest: +SKIP
    """
    check_count("steps", steps, least=2)
    if search is None:
        search = 20 if steps <= 10 else 8 if steps <= 20 else 0
    if history is None:
        history = 3 if steps <= 10 else 4
    check_count("search", search, least=0)
    check_count("history", history)
    check_count("held_out", held_out, least=16)
    check_seed("seed", seed)
    check_kind(dtype, device)
    if not isinstance(pilot, Pilot):
        check_counts("pilot", pilot)
        if len(pilot) < 1 or pilot[0] < 16:
            raise ValueError(f"pilot={tuple(pilot)} is not allowed: give the shape (B, *event), with B at least 16")
        pilot = Pilot.of(sde, score, pilot, seed=seed, dtype=dtype, device=device)
    elif not pilot.process.same_as(linear_process(sde, "fit")):
        raise ValueError(f"sde={sde!r} is not the process of the pilot, {pilot.process!r}")
    counted = _CountedRows(score, len(pilot.starts), dtype)
    half = len(pilot.starts) // 2
    ours, others = pilot.subset(slice(half)), pilot.subset(slice(half, None))
    index = torch.arange(len(pilot.starts))
    our_score, other_score = counted.select_rows(index[:half]), counted.select_rows(index[half:])
    fitted = _best(other_score, others, _fits(our_score, pilot, ours, steps, search, history))[1]
    name, against = _best(other_score, others, plain_samplers(pilot, steps))
    aim = min(others.error(_ends(other_score, others, sampler, others.starts)) for sampler in (fitted, against))
    errors, against_errors, statement = _measured(counted, pilot, aim, (fitted, against), held_out, seed)
    plain_error = float(against_errors.mean())
    better = bool(errors.mean() < plain_error)
    expected = Expectation.of(
        errors if better else against_errors, plain_error=plain_error, plain=name,
        evaluations=pilot.evaluations + counted.calls, cost=pilot.evaluations * len(pilot.starts) + counted.rows,
        **statement,
    )  # fmt: skip
    identity = fingerprint(pilot.process, pilot.mean.shape)
    return FittedSampler(fitted if better else against, expected, repr(pilot.process), identity)


class _CountedRows(CountedScore):
    """Also counts the evaluations for single samples."""

    rows = 0
    whole: _CountedRows | None = None
    """The score of the whole pilot, if this is the score of some of its rows."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.whole is not None:
            self.whole.calls += 1
        (self.whole or self).rows += len(x)
        return super().__call__(x, t)

    def select_rows(self, index: Tensor) -> _CountedRows:
        """The score for the starts ``index`` (n,) of the pilot. Its evaluations count for the whole."""
        part = copy.copy(self)
        part.score, part.whole = rows_of(self.score, index), self.whole or self
        if part.score is not self.score:  # otherwise an error says that the score is that of the whole pilot
            part.batch = len(index)
        return part


def _fits(
    score: CountedScore, pilot: Pilot, ours: Pilot, steps: int, search: int, history: int
) -> dict[str, FittedMultistep]:
    """Fits to the paths of ``ours``, from two initial grids."""
    fits, paths = {}, whitened_paths(ours)
    for where, top in (("T", float("inf")), ("noise", _NOISE_IS_ALL)):
        first = stepwise(score, ours, paths, initial_times(pilot, steps, top), history)
        fits[f"from {where}"] = to_sampler(ours, Search(score, ours, first)(search) if search else first)
    return fits


def _best(score: CountedScore, part: Pilot, samplers: Mapping[str, _S]) -> tuple[str, _S]:
    """The sampler with the smallest mean error on the paths of ``part``, and its name."""
    errors = {name: part.error(_ends(score, part, sampler, part.starts)) for name, sampler in samplers.items()}
    name = min(errors, key=lambda key: errors[key])
    return name, samplers[name]


def _ends(score: CountedScore, pilot: Pilot, sampler: Sampler, starts: Tensor) -> Tensor:
    """End points (B, *state) of a sampler from ``starts``."""
    shape = (len(starts), *pilot.mean.shape)
    return sampler(pilot.process, score, shape, start=starts, allow_failed=True).state


def _measured(
    score: _CountedRows, pilot: Pilot, aim: float, samplers: Sequence[Sampler], count: int, seed: int
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Errors (count,) of two samplers on new starts, and the arguments of ``Expectation`` for the accurate end points.

    Conditions of the new starts are those of the pilot, in turn.
    """
    reference, reference_error = _reference(score, pilot, aim)
    like, event = pilot.starts, tuple(pilot.mean.shape)
    size = max(len(like), _ELEMENTS // pilot.mean.numel())
    found: list[list[Tensor]] = [[] for _ in samplers]
    reached = [pilot.ends.cpu()]
    for first in range(0, count, size):
        rows = min(size, count - first)
        noise = NoiseSource.of(seed, rows, _FIRST_NEW + first, like.device)
        starts = pilot.process.prior_sample((rows, *event), noise=noise, dtype=like.dtype, device=like.device)
        own = score.select_rows(torch.arange(first, first + rows) % len(like))
        wanted = _ends(own, pilot, reference, starts)
        reached.append(wanted.cpu())
        for errors, sampler in zip(found, samplers, strict=True):
            errors.append(distances(_ends(own, pilot, sampler, starts), wanted).cpu())
    one, two = (torch.cat(errors) for errors in found)
    return one, two, {"unseen": farthest(torch.cat(reached)), "reference_error": reference_error}


def _reference(score: CountedScore, pilot: Pilot, aim: float) -> tuple[Sampler, float]:
    """A solver for the new starts, ten times more accurate than ``aim``, and its mean error on the paths of the pilot.

    If 100 evaluations are not enough it uses 200. A method of second order has a quarter of the error with twice the
    steps, so a quarter bounds the error here: the order of the solver is higher.
    """
    for evaluations in _REFERENCES:
        sampler = pilot.reference(evaluations)
        error = pilot.error(_ends(score, pilot, sampler, pilot.starts))
        if error <= 0.1 * aim:
            return sampler, error
    return pilot.reference(2 * evaluations), 0.25 * error


def plain_samplers(pilot: Pilot, steps: int) -> dict[str, ExponentialMultistep]:
    """The methods without a fit at ``steps`` evaluations, by name. Each method has six grids."""
    make: dict[str, Callable[[Tensor], ExponentialMultistep]] = {
        "2M": lambda times: ExponentialMultistep(times, 2, DataParameterization()),
        "UniPC-2": lambda times: ExponentialMultistep(times, 2, DataParameterization(), corrector=True),
        "UniPC-3": lambda times: ExponentialMultistep(times, 3, DataParameterization(), corrector=True, start_order=1),
        "3M": lambda times: ExponentialMultistep(times, 3, DataParameterization(), start_order=1),
        "Adams-2, corrected": lambda times: ExponentialMultistep(
            times, 2, Whitened(data_std=pilot.data_std), corrector=True
        ),
    }
    t_min = pilot.grid.t_min
    times = {
        "adaptive grid": pilot.grid(pilot.process, steps - 1),
        **{
            f"{grid.__name__} grid": grid(pilot.process, steps - 1, t_min=t_min)
            for grid in (grids.focused, grids.log_noise, grids.karras, grids.quadratic, grids.uniform)
        },
    }
    return {f"{name}, {where}": method(grid) for name, method in make.items() for where, grid in times.items()}
