r"""The two stages of a fit: times and coefficients of a ``FittedMultistep`` from accurate paths.

1. The coefficients a_i and b_ij follow step by step, by linear least squares. Step i starts where the steps before it
   end, and its target is the accurate path at the next time. The target of the last step is E[x_0 | x] at the end of
   the path. The times are those of the adaptive grid, from T or from the time at which x is almost pure noise.
2. All times and coefficients are then fitted together, by the Gauss-Newton method with a trust region (scipy). With the
   errors e_k of the end points from start k, the loss is

   .. math:: \sum_k (|e_k|^2 + \delta^2)^{1/2}

   In a sum of squares a few paths that pass between two modes would dominate. The derivatives are finite differences of
   the score. A change of step i only needs new evaluations of the steps after i.
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
from scoresde.samplers.fitted.pilot import Pilot
from scoresde.samplers.fitted.sampler import FittedMultistep, WhiteCoordinates, white_coordinates
from scoresde.sde import Score

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

_GAP = 1e-3
"""Smallest distance between two times, in u."""
_RESIDUALS = 2**18
"""Largest number of coordinates of end points in the second stage. If there are more, it uses a fixed random subset."""
_SOFT = 0.3
"""delta, in units of the median distance after the first stage."""


@dataclass(frozen=True)
class Parameters:
    """Times and coefficients of a method with N steps.

    Attributes:
        u: (N,), descending log spreads of the times.
        a: (N,).
        b: (N, K).
    """

    u: Tensor
    a: Tensor
    b: Tensor

    @property
    def used(self) -> Tensor:
        """(N, K) bool: the entries of b that are used. The first steps have fewer derivatives."""
        return torch.ones_like(self.b, dtype=torch.bool).tril()

    def vector(self) -> np.ndarray:
        """All parameters as one vector."""
        return torch.cat((self.u, self.a, self.b[self.used])).numpy()

    def from_vector(self, vector: np.ndarray, low: float, high: float) -> Parameters:
        """The parameters of a vector. Times that are out of order or out of range are moved."""
        n, row = len(self.u), torch.from_numpy(vector.copy())
        u, above = row[:n].tolist(), high + _GAP
        for i in range(n):
            above = u[i] = min(max(u[i], low + (n - 1 - i) * _GAP), above - _GAP)
        return Parameters(
            torch.tensor(u, dtype=torch.float64), row[n : 2 * n], self.b.masked_scatter(self.used, row[2 * n :])
        )

    def step(self, i: int, w: Tensor, f: Sequence[Tensor]) -> Tensor:
        """Step i from w, with the derivatives f_0, ..., f_i."""
        return combine([(float(self.a[i]), w), *zip(self.b[i].tolist(), reversed(f), strict=False)])


def _coordinates(pilot: Pilot, u: Tensor) -> list[WhiteCoordinates]:
    """The coordinates at T, at each of u and at t_min."""
    ends = torch.tensor([pilot.process.T, pilot.grid.t_min], dtype=torch.float64)
    times = torch.cat((ends[:1], _times(pilot, u), ends[1:]))
    return white_coordinates(pilot.process, times, pilot.mean, pilot.data_std, pilot.starts)


def _times(pilot: Pilot, u: Tensor) -> Tensor:
    """The times of u. Rounding does not take them below t_min."""
    return pilot.process.time_of_log_spread(u).clamp(min=pilot.grid.t_min)


def initial_times(pilot: Pilot, steps: int, top: float) -> Tensor:
    """(steps,) descending u of the adaptive grid, for the first stage.

    The first is at T, or where e^u is ``top`` standard deviations of the data. The last is one step above the end.
    """
    low, high = pilot.grid.u[0], pilot.grid.u[-1]
    first = min(high, float(np.log(top * pilot.data_std)))
    if first <= low + _GAP * steps:  # a process with little noise
        first = high
    share = np.linspace(np.interp(first, pilot.grid.u, pilot.grid.share), 0.0, steps + 1)[:-1]
    return torch.from_numpy(np.interp(share, pilot.grid.share, pilot.grid.u))


def stepwise(score: Score, pilot: Pilot, paths: CubicSpline, u: Tensor, history: int) -> Parameters:
    """The first stage: coefficients for the times of u, with ``paths`` the function u -> w of the accurate paths."""
    n = len(u)
    parameters = Parameters(u, torch.ones(n, dtype=torch.float64), torch.zeros(n, history, dtype=torch.float64))
    start, *points = _coordinates(pilot, u)
    wanted = [torch.from_numpy(paths(float(v))).to(pilot.starts) for v in u[1:]] + [points[-1].whiten(pilot.ends)]
    w, f = start.whiten(pilot.starts), []
    for i in range(n):
        f.append(points[i].slope(score, w))
        columns = torch.stack([w, *f[: -history - 1 : -1]]).flatten(1).double()
        gram, right = columns @ columns.mT, columns @ wanted[i].flatten().double()
        found = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right).cpu()
        parameters.a[i], parameters.b[i, : len(found) - 1] = found[0], found[1:]
        w = parameters.step(i, w, f)
    return parameters


def whitened_paths(pilot: Pilot) -> CubicSpline:
    """The accurate paths as a function u -> w."""
    from scipy.interpolate import CubicSpline

    times = pilot.process.time_of_log_spread(pilot.u)
    at = white_coordinates(pilot.process, times, pilot.mean, pilot.data_std, pilot.starts)
    white = torch.stack([place.whiten(x) for place, x in zip(at, pilot.states, strict=True)]).double().cpu()
    return CubicSpline(pilot.u.flip(0).numpy(), white.flip(0).numpy())


class Rollout:
    """A run of the method from the starts of the pilot. It stores w and f at every step."""

    def __init__(self, score: Score, pilot: Pilot, parameters: Parameters) -> None:
        self.score, self.parameters = score, parameters
        start, *self.points = _coordinates(pilot, parameters.u)
        self.w, self.f = [start.whiten(pilot.starts)], []
        for i, place in enumerate(self.points[:-1]):
            self.f.append(place.slope(score, self.w[i]))
            self.w.append(parameters.step(i, self.w[i], self.f))

    def ends(self) -> Tensor:
        """The end points (B, *state)."""
        return self.points[-1].state(self.w[-1])

    def ends_from(self, i: int, w: Tensor, place: WhiteCoordinates | None = None) -> Tensor:
        """The end points of a run that has w at step i. If ``place`` is given, it replaces the coordinates of step i."""
        f = self.f[:i]
        for k in range(i, len(self.points) - 1):
            f.append((place if place is not None and k == i else self.points[k]).slope(self.score, w))
            w = self.parameters.step(k, w, f)
        return self.points[-1].state(w)


class Search:
    """The second stage: residuals of the end points and their derivatives, as functions of the vector of all parameters."""

    def __init__(self, score: Score, pilot: Pilot, first: Parameters) -> None:
        self.score, self.pilot, self.first = score, pilot, first
        self.low, self.high = pilot.grid.u[0], pilot.grid.u[-1]
        kind = torch.finfo(pilot.starts.dtype)
        self.h = float(kind.eps) ** (1.0 / 3.0)
        self.at, self.rollout = first.vector(), Rollout(score, pilot, first)
        self.delta = _SOFT * float(pilot.distances(self.rollout.ends()).median()) + kind.eps
        size = pilot.ends.numel()
        chosen = torch.arange(size)
        if size > _RESIDUALS:
            chosen = NoiseSource.of(0, 1).integers(size, (_RESIDUALS,), step=0, purpose="residuals")[0]
        self.chosen = chosen.to(pilot.ends.device)

    def __call__(self, iterations: int) -> Parameters:
        """The parameters after at most so many iterations."""
        from scipy.optimize import least_squares

        start, n = self.first.vector(), len(self.first.u)
        bounds = np.full((2, len(start)), np.inf) * np.array([[-1.0], [1.0]])
        bounds[:, :n] = [[self.low], [self.high]]
        inside = np.clip(start, bounds[0] + 1e-9, bounds[1] - 1e-9)
        found = least_squares(self.residuals, inside, self.jacobian, bounds=bounds, x_scale="jac", max_nfev=iterations)
        return self.first.from_vector(found.x, self.low, self.high)

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """The residuals, whose sum of squares is the loss."""
        self._move_to(vector)
        return self._softened(self.rollout.ends())

    def jacobian(self, vector: np.ndarray) -> np.ndarray:
        """Derivatives (residuals, parameters) by finite differences."""
        self._move_to(vector)
        here, h = self.rollout, self.h
        base, u = self._softened(here.ends()), here.parameters.u
        by = torch.where(u - h < self.low, h, -h)  # downwards, or upwards at the lower end of the path
        moved = _coordinates(self.pilot, u + by)[1:]
        nodes, scales, slopes = [], [], []
        for i in range(len(self.first.u)):
            nodes.append((self._softened(here.ends_from(i, here.w[i], moved[i])) - base) / float(by[i]))
            changes = [here.w[i], *(here.f[i - j] for j in range(min(i + 1, self.first.b.shape[1])))]
            moves = [
                (self._softened(here.ends_from(i + 1, here.w[i + 1] + h * change)) - base) / h for change in changes
            ]
            scales.append(moves[0])
            slopes += moves[1:]
        return np.stack(nodes + scales + slopes, 1)

    def _move_to(self, vector: np.ndarray) -> None:
        """Run the method with the parameters of ``vector``, unless it is the current one."""
        if not np.array_equal(vector, self.at):
            parameters = self.first.from_vector(vector, self.low, self.high)
            self.at, self.rollout = vector.copy(), Rollout(self.score, self.pilot, parameters)

    def _softened(self, ends: Tensor) -> np.ndarray:
        """The error of each coordinate, those of a start multiplied by (|e|^2 + delta^2)^(-1/4)."""
        away = (ends - self.pilot.ends).double().flatten(1)
        softened = away * (away.square().mean(1, keepdim=True) + self.delta**2) ** -0.25
        return (softened.flatten()[self.chosen] * len(self.chosen) ** -0.5).cpu().numpy()  # type: ignore[no-any-return]


def to_sampler(pilot: Pilot, parameters: Parameters) -> FittedMultistep:
    """The sampler with these parameters."""
    return FittedMultistep(
        _times(pilot, parameters.u), pilot.grid.t_min, parameters.a, parameters.b, pilot.mean, pilot.data_std
    )
