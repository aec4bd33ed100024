"""A sampler for one model and few evaluations, fitted to accurate paths of its flow.

A `FittedMultistep` of N steps is N times and about four numbers a step. They are found in two stages on one half of a pilot
batch, and judged by the other half:

1. Step by step, the a_i and b_ij by linear least squares: from where the method so far has come to, to where the accurate path
   is at the next time; the last to E[x_0 | x] at its end. The times are the pilot grid's, from T or from where noise is all.
2. All times and numbers at once, by Gauss and Newton's method with a trust region (scipy) on the distances e_k of the end points
   of starts k, with the loss sum_k (|e_k|^2 + delta^2)^(1/2): in a sum of squares a few paths that pass between two modes would
   drown the others. The score is differenced, not differentiated, and a change of step i evaluates the steps after i alone.

Where the best of the methods without a fit (`plain`) does better on the half that was not fitted to, it is what is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares
from torch import Tensor

from scoresde._validation import check_count, check_counts
from scoresde.noise import NoiseSource
from scoresde.samplers import grids
from scoresde.samplers.base import CountedScore, Sampler
from scoresde.samplers.exponential import combine, linear
from scoresde.samplers.fitted import Expectation, FittedMultistep, FittedSampler, Place, mark_of, places
from scoresde.samplers.forms import Data, Whitened
from scoresde.samplers.multistep import ExponentialMultistep, UniPC
from scoresde.samplers.pilot import PilotGrid, pilot_grid
from scoresde.samplers.walk import ExactSteps
from scoresde.sde import LinearSDE, Score

_GAP = 1e-3
"""Least distance of two times in u."""
_KEPT = 50
"""States of an accurate path that are kept."""
_RESIDUALS = 2**18
"""Coordinates of end points that the second stage looks at: a fixed choice of them where there are more."""
_SOFT = 0.3
"""delta, in medians of the first stage's distances."""
_NOISE_IS_ALL = 6.0
"""Of the data's standard deviations: the e^u from which the second of the first stage's grids starts."""


@dataclass(frozen=True)
class Pilot:
    """Accurate paths of the flow from B starts: what samplers of any number of steps are fitted to, and judged by.

    process: the process. grid: its pilot grid. mean: (*event) and data_std: of the data.
    u: (K,) falling and states: (K, B, *state), the paths. ends: (B, *state), E[x_0 | x] at their ends.
    evaluations: of the score, each for a batch, that it took.
    """

    process: LinearSDE
    grid: PilotGrid
    mean: Tensor
    data_std: float
    u: Tensor
    states: Tensor
    ends: Tensor
    evaluations: int

    @classmethod
    def of(
        cls,
        sde: LinearSDE,
        score: Score,
        shape: Sequence[int],
        *,
        t_min: float = grids.T_MIN,
        fine: int = 200,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Pilot:
        """The paths of a batch of ``shape`` (B, *event), at twice ``fine`` evaluations and 21. B is 16 at least; 128 is enough
        for most fits to hold on other starts."""
        check_counts("shape", shape)
        check_count("shape[0]", shape[0] if shape else 0, least=16)
        process, counted = linear(sde, "fit"), CountedScore(score)

        def draw(sampler: Sampler, keep: int = 0):  # type: ignore[no-untyped-def]
            return sampler(process, counted, shape, seed=seed, dtype=dtype, device=device, keep_every=keep)

        rough = draw(UniPC(ExactSteps(20, partial(grids.log_noise, t_min=t_min)))).samples
        mean = rough.mean(0)
        data_std = float((rough - mean).double().square().mean().sqrt())
        grid = pilot_grid(
            process, counted, shape, t_min=t_min, fine=fine, data_std=data_std, seed=seed, dtype=dtype, device=device
        )
        path = draw(UniPC(ExactSteps(fine, grid)), max(1, fine // _KEPT))
        u = process.log_spread(path.times[:: max(1, fine // _KEPT)])
        return cls(process, grid, mean, data_std, u, path.trajectory.states[: len(u)], path.state, counted.calls)

    @property
    def starts(self) -> Tensor:
        """(B, *state) at T."""
        return self.states[0]

    def part(self, rows: slice) -> Pilot:
        """The paths from some of the starts."""
        return replace(self, states=self.states[:, rows], ends=self.ends[rows])

    def distances(self, ends: Tensor) -> Tensor:
        """(B,) the root mean square over coordinates of ``ends`` (B, *state) less the paths' ends; inf where it is not finite."""
        return (ends - self.ends).double().flatten(1).square().mean(1).sqrt().nan_to_num(nan=float("inf"))

    def error(self, ends: Tensor) -> float:
        """The mean of `distances`."""
        return float(self.distances(ends).mean())


@torch.no_grad()
def fit(
    sde: LinearSDE,
    score: Score,
    steps: int = 5,
    *,
    pilot: Pilot | Sequence[int],
    search: int | None = None,
    reach: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FittedSampler:
    """A sampler for ``score`` with ``steps`` evaluations, best of a fit and of the methods without one.

    steps: 2 and more; above 20 the first stage alone is done unless ``search`` says so.
    pilot: a `Pilot`, or the shape (B, *event) of one that is made here with ``seed``, ``dtype`` and ``device``. Half of its
        starts are fitted to.
    search: iterations of the second stage, 0 for none. One takes about 2 steps^2 evaluations of the half pilot; there are two
        searches. None: 20 up to 10 steps, 8 up to 20, then none.
    reach: slopes that a step takes in. None: 3 up to 10 steps, then 4.

    Raises TypeError for a process that is not linear, ValueError for what is not allowed or a pilot of another process.
    """
    check_count("steps", steps, least=2)
    if search is None:
        search = 20 if steps <= 10 else 8 if steps <= 20 else 0
    if reach is None:
        reach = 3 if steps <= 10 else 4
    check_count("search", search, least=0)
    check_count("reach", reach)
    if not isinstance(pilot, Pilot):
        pilot = Pilot.of(sde, score, pilot, seed=seed, dtype=dtype, device=device)
    elif not pilot.process.same_as(linear(sde, "fit")):
        raise ValueError(f"sde={sde!r} is not the process of the pilot, {pilot.process!r}")
    half, counted = len(pilot.starts) // 2, CountedScore(score)
    ours, unseen = pilot.part(slice(half)), pilot.part(slice(half, None))

    def distances(sampler: Sampler, part: Pilot) -> Tensor:
        shape = (len(part.starts), *part.mean.shape)
        return part.distances(sampler(pilot.process, counted, shape, start=part.starts, allow_failed=True).state)

    against = plain(pilot, steps)
    errors = {name: distances(sampler, unseen) for name, sampler in against.items()}
    best = min(errors, key=lambda name: float(errors[name].mean()))
    fits, along = [], _white_paths(ours)
    for top in (float("inf"), _NOISE_IS_ALL):
        first = _stepwise(counted, ours, along, _nodes(pilot, steps, top), reach)
        fits.append(_sampler(ours, _Search(counted, ours, first)(search) if search else first))
    fitted = min(fits, key=lambda sampler: float(distances(sampler, ours).mean()))
    reached = distances(fitted, unseen)
    better = bool(reached.mean() < errors[best].mean())
    kept = reached if better else errors[best]
    expected = Expectation(
        float(kept.mean()), float(kept.std()) * len(kept) ** -0.5, float(errors[best].mean()), best, len(kept),
        pilot.evaluations + counted.calls,
    )  # fmt: skip
    mark = mark_of(pilot.process, pilot.mean.shape)
    return FittedSampler(fitted if better else against[best], expected, repr(pilot.process), mark)


def plain(pilot: Pilot, steps: int) -> dict[str, ExponentialMultistep]:
    """The methods without a fit at ``steps`` evaluations, by name: each on four grids."""
    make: dict[str, Callable[[Tensor], ExponentialMultistep]] = {
        "2M": lambda times: ExponentialMultistep(times, 2, Data()),
        "UniPC-2": lambda times: ExponentialMultistep(times, 2, Data(), corrector=True),
        "UniPC-3": lambda times: ExponentialMultistep(times, 3, Data(), corrector=True, opening=1),
        "3M": lambda times: ExponentialMultistep(times, 3, Data(), opening=1),
        "Adams-2, corrected": lambda times: ExponentialMultistep(
            times, 2, Whitened(data_std=pilot.data_std), corrector=True
        ),
    }
    t_min = pilot.grid.t_min
    times = {
        "pilot grid": pilot.grid(pilot.process, steps - 1),
        **{
            f"{grid.__name__} grid": grid(pilot.process, steps - 1, t_min=t_min)  # type: ignore[attr-defined]
            for grid in (grids.log_noise, grids.karras, grids.uniform)
        },
    }
    return {f"{name}, {where}": method(grid) for name, method in make.items() for where, grid in times.items()}


@dataclass(frozen=True)
class _Numbers:
    """u: (N,) falling. a: (N,). b: (N, K)."""

    u: Tensor
    a: Tensor
    b: Tensor

    @property
    def used(self) -> Tensor:
        """(N, K) bool: the b_ij that have a slope."""
        return torch.ones_like(self.b, dtype=torch.bool).tril()

    def vector(self) -> np.ndarray:
        """All of them in one row."""
        return torch.cat((self.u, self.a, self.b[self.used])).numpy()

    def of(self, vector: np.ndarray, low: float, high: float) -> _Numbers:
        """The same from a row; times that are out of order or range are moved."""
        n, row = len(self.u), torch.from_numpy(vector.copy())
        u, above = row[:n].tolist(), high + _GAP
        for i in range(n):
            above = u[i] = min(max(u[i], low + (n - 1 - i) * _GAP), above - _GAP)
        return _Numbers(
            torch.tensor(u, dtype=torch.float64), row[n : 2 * n], self.b.masked_scatter(self.used, row[2 * n :])
        )

    def step(self, i: int, w: Tensor, f: Sequence[Tensor]) -> Tensor:
        """Step i from w, with the slopes f_0, ..., f_i."""
        return combine([(float(self.a[i]), w), *zip(self.b[i].tolist(), reversed(f), strict=False)])


def _way(pilot: Pilot, u: Tensor) -> list[Place]:
    """At T, at each of u and at the end."""
    ends = torch.tensor([pilot.process.T, pilot.grid.t_min], dtype=torch.float64)
    times = torch.cat((ends[:1], _times(pilot, u), ends[1:]))
    return places(pilot.process, times, pilot.mean, pilot.data_std, pilot.starts)


def _times(pilot: Pilot, u: Tensor) -> Tensor:
    """The times of u, none below t_min by a rounding."""
    return pilot.process.time_of_log_spread(u).clamp(min=pilot.grid.t_min)


def _nodes(pilot: Pilot, steps: int, top: float) -> Tensor:
    """(steps,) falling u of the pilot grid, from T, or from where e^u is ``top`` standard deviations of the data; the last is
    one step above the end."""
    low, high = pilot.grid.u[0], pilot.grid.u[-1]
    first = min(high, float(np.log(top * pilot.data_std)))
    if first <= low + _GAP * steps:  # a process with little noise
        first = high
    share = np.linspace(np.interp(first, pilot.grid.u, pilot.grid.share), 0.0, steps + 1)[:-1]
    return torch.from_numpy(np.interp(share, pilot.grid.share, pilot.grid.u))


def _stepwise(score: Score, pilot: Pilot, along: CubicSpline, u: Tensor, reach: int) -> _Numbers:
    """The first stage. along: u -> w of the pilot's paths."""
    n = len(u)
    numbers = _Numbers(u, torch.ones(n, dtype=torch.float64), torch.zeros(n, reach, dtype=torch.float64))
    start, *way = _way(pilot, u)
    wanted = [torch.from_numpy(along(float(v))).to(pilot.starts) for v in u[1:]] + [way[-1].whiten(pilot.ends)]
    w, f = start.whiten(pilot.starts), []
    for i in range(n):
        f.append(way[i].slope(score, w))
        columns = torch.stack([w, *f[: -reach - 1 : -1]]).flatten(1).double()
        gram, right = columns @ columns.mT, columns @ wanted[i].flatten().double()
        found = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right).cpu()
        numbers.a[i], numbers.b[i, : len(found) - 1] = found[0], found[1:]
        w = numbers.step(i, w, f)
    return numbers


def _white_paths(pilot: Pilot) -> CubicSpline:
    """u -> w of the pilot's paths."""
    times = pilot.process.time_of_log_spread(pilot.u)
    at = places(pilot.process, times, pilot.mean, pilot.data_std, pilot.starts)
    white = torch.stack([place.whiten(x) for place, x in zip(at, pilot.states, strict=True)]).double().cpu()
    return CubicSpline(pilot.u.flip(0).numpy(), white.flip(0).numpy())


class _Walk:
    """A method's way from the pilot's starts: w and f at every step, to go on from."""

    def __init__(self, score: Score, pilot: Pilot, numbers: _Numbers) -> None:
        self.score, self.numbers = score, numbers
        start, *self.way = _way(pilot, numbers.u)
        self.w, self.f = [start.whiten(pilot.starts)], []
        for i, place in enumerate(self.way[:-1]):
            self.f.append(place.slope(score, self.w[i]))
            self.w.append(numbers.step(i, self.w[i], self.f))

    def ends(self) -> Tensor:
        """(B, *state)."""
        return self.way[-1].state(self.w[-1])

    def onward(self, i: int, w: Tensor, place: Place | None = None) -> Tensor:
        """The end points from w at step i, which is evaluated at ``place`` where it is given."""
        f = self.f[:i]
        for k in range(i, len(self.way) - 1):
            f.append((place if place is not None and k == i else self.way[k]).slope(self.score, w))
            w = self.numbers.step(k, w, f)
        return self.way[-1].state(w)


class _Search:
    """The second stage: residuals of the end points, and their derivatives, as functions of all numbers in one row."""

    def __init__(self, score: Score, pilot: Pilot, first: _Numbers) -> None:
        self.score, self.pilot, self.first = score, pilot, first
        self.low, self.high = pilot.grid.u[0], pilot.grid.u[-1]
        kind = torch.finfo(pilot.starts.dtype)
        self.h = float(kind.eps) ** (1.0 / 3.0)
        self.at, self.walk = first.vector(), _Walk(score, pilot, first)
        self.delta = _SOFT * float(pilot.distances(self.walk.ends()).median()) + kind.eps
        size = pilot.ends.numel()
        chosen = torch.arange(size)
        if size > _RESIDUALS:
            chosen = NoiseSource.of(0, 1).integers(size, (_RESIDUALS,), step=0, purpose="residuals")[0]
        self.chosen = chosen.to(pilot.ends.device)

    def __call__(self, iterations: int) -> _Numbers:
        """The numbers that are found."""
        start, n = self.first.vector(), len(self.first.u)
        bounds = np.full((2, len(start)), np.inf) * np.array([[-1.0], [1.0]])
        bounds[:, :n] = [[self.low], [self.high]]
        inside = np.clip(start, bounds[0] + 1e-9, bounds[1] - 1e-9)
        found = least_squares(self.residuals, inside, self.jacobian, bounds=bounds, x_scale="jac", max_nfev=iterations)
        return self.first.of(found.x, self.low, self.high)

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """Whose sum of squares is the loss."""
        self._go(vector)
        return self._softened(self.walk.ends())

    def jacobian(self, vector: np.ndarray) -> np.ndarray:
        """(residuals, numbers), by differences."""
        self._go(vector)
        here, h = self.walk, self.h
        base, u = self._softened(here.ends()), here.numbers.u
        by = torch.where(u - h < self.low, h, -h)  # down, or up where down leaves the path
        moved = _way(self.pilot, u + by)[1:]
        nodes, scales, slopes = [], [], []
        for i in range(len(self.first.u)):
            nodes.append((self._softened(here.onward(i, here.w[i], moved[i])) - base) / float(by[i]))
            changes = [here.w[i], *(here.f[i - j] for j in range(min(i + 1, self.first.b.shape[1])))]
            moves = [(self._softened(here.onward(i + 1, here.w[i + 1] + h * change)) - base) / h for change in changes]
            scales.append(moves[0])
            slopes += moves[1:]
        return np.stack(nodes + scales + slopes, 1)

    def _go(self, vector: np.ndarray) -> None:
        """Be at ``vector``."""
        if not np.array_equal(vector, self.at):
            numbers = self.first.of(vector, self.low, self.high)
            self.at, self.walk = vector.copy(), _Walk(self.score, self.pilot, numbers)

    def _softened(self, ends: Tensor) -> np.ndarray:
        """The distances of each coordinate, those of a start times (|e|^2 + delta^2)^(-1/4)."""
        away = (ends - self.pilot.ends).double().flatten(1)
        softened = away * (away.square().mean(1, keepdim=True) + self.delta**2) ** -0.25
        return (softened.flatten()[self.chosen] * len(self.chosen) ** -0.5).cpu().numpy()  # type: ignore[no-any-return]


def _sampler(pilot: Pilot, numbers: _Numbers) -> FittedMultistep:
    return FittedMultistep(_times(pilot, numbers.u), pilot.grid.t_min, numbers.a, numbers.b, pilot.mean, pilot.data_std)
