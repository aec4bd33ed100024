"""A sampler for one model and few evaluations, fitted to accurate paths of its flow.

A `FittedMultistep` of N steps is N times and about four numbers a step. They are fitted to one half of a pilot batch
(`fit_stages`). The other half chooses among the fits, and among the methods without a fit (`plain`). The best of each is then
measured on thousands of new starts (`Expectation`), and the better of the two is returned with what was measured.

A pilot of 128 starts cannot see paths of a probability of a few thousandths, and those often make most of the mean error. So a
pilot chooses, and only new starts are used for a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_kind, check_seed
from scoresde.noise import NoiseSource
from scoresde.samplers import grids
from scoresde.samplers.base import CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import linear
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import DataParameterization, Whitened
from scoresde.samplers.fitted.accurate import Pilot, distances
from scoresde.samplers.fitted.expectation import Expectation, farthest
from scoresde.samplers.fitted.sampler import FittedMultistep, FittedSampler, mark_of
from scoresde.samplers.fitted.stages import Search, first_times, made, stepwise, white_paths
from scoresde.sde import LinearSDE, Score
from scoresde.sde.scores import in_evaluation_mode

_S = TypeVar("_S", bound=Sampler)
_NOISE_IS_ALL = 6.0
"""Of the data's standard deviations: the e^u from which the second of the first stage's grids starts."""
_FIRST_NEW = 2**31
"""Index of the first of the new starts: no pilot and no sample of a user has it."""
_ELEMENTS = 2**18
"""Coordinates of a batch of new starts, at least as many as of the pilot's."""
_REFERENCES = (50, 100)
"""Evaluations of the accurate solutions that are tried before the pilot's own, see `_reference`."""


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
    reach: int | None = None,
    held_out: int = 2000,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FittedSampler:
    """Fit a sampler with ``steps`` evaluations to ``score``; return the better of it and the best method without a fit.

    Args:
        sde: Process of the score.
        score: (x, t) -> score.
        steps: Evaluations of a sample, at least 2. Above 20 the first stage alone is done unless ``search`` says so.
        pilot: A `Pilot`, or the shape (B, *event) of one that is made here with ``seed``, ``dtype`` and ``device``. Half of its
            starts are fitted to.
        search: Iterations of the second stage, 0 for none. One takes about ``2 * steps**2`` evaluations of the half pilot;
            there are two searches. None: 20 up to 10 steps, 8 up to 20, then none.
        reach: Slopes that a step uses. None: 3 up to 10 steps, then 4.
        held_out: New starts on which the error is measured, at least 16. Each costs 50 to 200 evaluations of one sample, and
            ``2 * steps``. The statement says less with fewer.
        seed: Key of the pilot made here, and of the new starts.
        dtype: Of the pilot made here. In half precision, also with a pilot given, the score gets x in it.
        device: Of the pilot made here.

    Returns:
        The sampler, with `Expectation` as ``expected``.

    Raises:
        TypeError: For a process that is not linear.
        ValueError: For what is not allowed, or a pilot of another process.
    """
    check_count("steps", steps, least=2)
    if search is None:
        search = 20 if steps <= 10 else 8 if steps <= 20 else 0
    if reach is None:
        reach = 3 if steps <= 10 else 4
    check_count("search", search, least=0)
    check_count("reach", reach)
    check_count("held_out", held_out, least=16)
    check_seed("seed", seed)
    check_kind(dtype, device)
    if not isinstance(pilot, Pilot):
        check_counts("pilot", pilot)
        if len(pilot) < 1 or pilot[0] < 16:
            raise ValueError(f"pilot={tuple(pilot)} is not allowed: give the shape (B, *event) of at least 16 starts")
        pilot = Pilot.of(sde, score, pilot, seed=seed, dtype=dtype, device=device)
    elif not pilot.process.same_as(linear(sde, "fit")):
        raise ValueError(f"sde={sde!r} is not the process of the pilot, {pilot.process!r}")
    counted = _CountedRows(score, len(pilot.starts), dtype)
    half = len(pilot.starts) // 2
    ours, others = pilot.part(slice(half)), pilot.part(slice(half, None))
    fitted = _best(counted, others, _fits(counted, pilot, ours, steps, search, reach))[1]
    name, against = _best(counted, others, plain(pilot, steps))
    errors, against_errors, statement = _measured(counted, pilot, others, (fitted, against), held_out, seed)
    plain_error = float(against_errors.mean())
    better = bool(errors.mean() < plain_error)
    expected = Expectation.of(
        errors if better else against_errors, plain_error=plain_error, plain=name,
        evaluations=pilot.evaluations + counted.calls, cost=pilot.evaluations * len(pilot.starts) + counted.rows,
        **statement,
    )  # fmt: skip
    mark = mark_of(pilot.process, pilot.mean.shape)
    return FittedSampler(fitted if better else against, expected, repr(pilot.process), mark)


class _CountedRows(CountedScore):
    """Counts evaluations of single samples too."""

    rows = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        return super().__call__(x, t)


def _fits(
    score: CountedScore, pilot: Pilot, ours: Pilot, steps: int, search: int, reach: int
) -> dict[str, FittedMultistep]:
    """Fits to the paths of ``ours`` from two first grids, with and without the second stage."""
    fits, along = {}, white_paths(ours)
    for where, top in (("T", float("inf")), ("noise", _NOISE_IS_ALL)):
        first = stepwise(score, ours, along, first_times(pilot, steps, top), reach)
        fits[f"from {where}"] = made(ours, Search(score, ours, first)(search) if search else first)
    return fits


def _best(score: CountedScore, part: Pilot, samplers: Mapping[str, _S]) -> tuple[str, _S]:
    """The sampler of the least mean error on the paths of ``part``."""
    errors = {name: part.error(_ends(score, part, sampler, part.starts)) for name, sampler in samplers.items()}
    name = min(errors, key=lambda key: errors[key])
    return name, samplers[name]


def _ends(score: CountedScore, pilot: Pilot, sampler: Sampler, starts: Tensor) -> Tensor:
    """(B, *state), where a sampler comes to from ``starts``."""
    shape = (len(starts), *pilot.mean.shape)
    return sampler(pilot.process, score, shape, start=starts, allow_failed=True).state


def _measured(
    score: CountedScore, pilot: Pilot, part: Pilot, samplers: Sequence[Sampler], count: int, seed: int
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Errors (count,) of two samplers on new starts, and what is to be said of the accurate end points."""
    aim = min(part.error(_ends(score, part, sampler, part.starts)) for sampler in samplers)
    reference, reference_error = _reference(score, pilot, aim)
    like, event = pilot.starts, tuple(pilot.mean.shape)
    size = max(len(like), _ELEMENTS // pilot.mean.numel())
    found: list[list[Tensor]] = [[] for _ in samplers]
    reached = [pilot.ends.cpu()]
    for first in range(0, count, size):
        rows = min(size, count - first)
        noise = NoiseSource.of(seed, rows, _FIRST_NEW + first, like.device)
        starts = pilot.process.prior_sample((rows, *event), noise=noise, dtype=like.dtype, device=like.device)
        wanted = _ends(score, pilot, reference, starts)
        reached.append(wanted.cpu())
        for errors, sampler in zip(found, samplers, strict=True):
            errors.append(distances(_ends(score, pilot, sampler, starts), wanted).cpu())
    one, two = (torch.cat(errors) for errors in found)
    return one, two, {"unseen": farthest(torch.cat(reached)), "reference_error": reference_error}


def _reference(score: CountedScore, pilot: Pilot, aim: float) -> tuple[Sampler, float]:
    """A solver for the new starts that is ten times more accurate than ``aim``, and its mean error by the pilot's paths.

    Where 100 evaluations are not enough the pilot's own 200 are taken; a method of second order makes a quarter of the error
    with twice the steps, and these have a higher one.
    """
    for evaluations in _REFERENCES:
        sampler = pilot.reference(evaluations)
        error = pilot.error(_ends(score, pilot, sampler, pilot.starts))
        if error <= 0.1 * aim:
            return sampler, error
    return pilot.reference(2 * evaluations), 0.25 * error


def plain(pilot: Pilot, steps: int) -> dict[str, ExponentialMultistep]:
    """The methods without a fit at ``steps`` evaluations, by name: each on six grids."""
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
        "pilot grid": pilot.grid(pilot.process, steps - 1),
        **{
            f"{grid.__name__} grid": grid(pilot.process, steps - 1, t_min=t_min)
            for grid in (grids.focused, grids.log_noise, grids.karras, grids.quadratic, grids.uniform)
        },
    }
    return {f"{name}, {where}": method(grid) for name, method in make.items() for where, grid in times.items()}
