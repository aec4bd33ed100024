"""The two stages of a fit: a `FittedMultistep`'s times and coefficients, from accurate paths.

1. Step by step, the a_i and b_ij by linear least squares: from where the method so far has come to, to where the accurate path
   is at the next time; the last to E[x_0 | x] at its end. The times are the pilot grid's, from T or from where noise is all.
2. All times and numbers at once, by Gauss and Newton's method with a trust region (scipy) on the distances e_k of the end points
   of starts k, with the loss sum_k (|e_k|^2 + delta^2)^(1/2): in a sum of squares a few paths that pass between two modes would
   drown the others. The score is differenced, not differentiated, and a change of step i evaluates the steps after i alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.samplers.exponential.coefficients import combine
from scoresde.samplers.fitted.accurate import Pilot
from scoresde.samplers.fitted.sampler import FittedMultistep, Place, places
from scoresde.sde import Score

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

_GAP = 1e-3
"""Least distance of two times in u."""
_RESIDUALS = 2**18
"""Coordinates of end points that the second stage looks at: a fixed choice of them where there are more."""
_SOFT = 0.3
"""delta, in medians of the first stage's distances."""


@dataclass(frozen=True)
class Numbers:
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

    def of(self, vector: np.ndarray, low: float, high: float) -> Numbers:
        """The same from a row; times that are out of order or range are moved."""
        n, row = len(self.u), torch.from_numpy(vector.copy())
        u, above = row[:n].tolist(), high + _GAP
        for i in range(n):
            above = u[i] = min(max(u[i], low + (n - 1 - i) * _GAP), above - _GAP)
        return Numbers(
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


def first_times(pilot: Pilot, steps: int, top: float) -> Tensor:
    """(steps,) falling u of the pilot grid, from T, or from where e^u is ``top`` standard deviations of the data; the last is
    one step above the end."""
    low, high = pilot.grid.u[0], pilot.grid.u[-1]
    first = min(high, float(np.log(top * pilot.data_std)))
    if first <= low + _GAP * steps:  # a process with little noise
        first = high
    share = np.linspace(np.interp(first, pilot.grid.u, pilot.grid.share), 0.0, steps + 1)[:-1]
    return torch.from_numpy(np.interp(share, pilot.grid.share, pilot.grid.u))


def stepwise(score: Score, pilot: Pilot, along: CubicSpline, u: Tensor, reach: int) -> Numbers:
    """The first stage. along: u -> w of the pilot's paths."""
    n = len(u)
    numbers = Numbers(u, torch.ones(n, dtype=torch.float64), torch.zeros(n, reach, dtype=torch.float64))
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


def white_paths(pilot: Pilot) -> CubicSpline:
    """u -> w of the pilot's paths."""
    from scipy.interpolate import CubicSpline

    times = pilot.process.time_of_log_spread(pilot.u)
    at = places(pilot.process, times, pilot.mean, pilot.data_std, pilot.starts)
    white = torch.stack([place.whiten(x) for place, x in zip(at, pilot.states, strict=True)]).double().cpu()
    return CubicSpline(pilot.u.flip(0).numpy(), white.flip(0).numpy())


class Walk:
    """A method's way from the pilot's starts: w and f at every step, to go on from."""

    def __init__(self, score: Score, pilot: Pilot, numbers: Numbers) -> None:
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


class Search:
    """The second stage: residuals of the end points, and their derivatives, as functions of all numbers in one row."""

    def __init__(self, score: Score, pilot: Pilot, first: Numbers) -> None:
        self.score, self.pilot, self.first = score, pilot, first
        self.low, self.high = pilot.grid.u[0], pilot.grid.u[-1]
        kind = torch.finfo(pilot.starts.dtype)
        self.h = float(kind.eps) ** (1.0 / 3.0)
        self.at, self.walk = first.vector(), Walk(score, pilot, first)
        self.delta = _SOFT * float(pilot.distances(self.walk.ends()).median()) + kind.eps
        size = pilot.ends.numel()
        chosen = torch.arange(size)
        if size > _RESIDUALS:
            chosen = NoiseSource.of(0, 1).integers(size, (_RESIDUALS,), step=0, purpose="residuals")[0]
        self.chosen = chosen.to(pilot.ends.device)

    def __call__(self, iterations: int) -> Numbers:
        """The numbers that are found."""
        from scipy.optimize import least_squares

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
            self.at, self.walk = vector.copy(), Walk(self.score, self.pilot, numbers)

    def _softened(self, ends: Tensor) -> np.ndarray:
        """The distances of each coordinate, those of a start times (|e|^2 + delta^2)^(-1/4)."""
        away = (ends - self.pilot.ends).double().flatten(1)
        softened = away * (away.square().mean(1, keepdim=True) + self.delta**2) ** -0.25
        return (softened.flatten()[self.chosen] * len(self.chosen) ** -0.5).cpu().numpy()  # type: ignore[no-any-return]


def made(pilot: Pilot, numbers: Numbers) -> FittedMultistep:
    """The method with these times and coefficients."""
    return FittedMultistep(_times(pilot, numbers.u), pilot.grid.t_min, numbers.a, numbers.b, pilot.mean, pilot.data_std)
