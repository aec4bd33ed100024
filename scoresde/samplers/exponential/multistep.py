r"""Exponential multistep methods: one evaluation of the score per step.

A step interpolates the prediction N of the parameterization by the polynomial through its last ``order`` values:

.. math:: y_{i+1} = P y_i + \sum_{k < order} w_k N_{i-k} + z, \qquad N_i = N(y_i, t_i)

with the weights w_k of ``coefficients.py``. Known methods are special cases:

=======================  =====  =========================  ==================
method                   order  parameterization           settings
=======================  =====  =========================  ==================
DDIM, Euler method       1      any
DPM-Solver++(2M), (3M)   2, 3   ``DataParameterization``
SDE-DPM-Solver++(2M)     2      ``DataParameterization``   ``eta=1``
UniPC                    2, 3   ``DataParameterization``   ``corrector=True``
DEIS                     2, 3   ``NoiseParameterization``
Adams-Bashforth          any    ``Whitened``
=======================  =====  =========================  ==================

The corrector computes y_i again when N_i is known, by the polynomial that also goes through N_i. It needs no further
evaluation, and the order rises by one. The order is that of the probability flow. With noise the weak order is at most
2.

The first step has a single prediction. Its local error is of second order, and limits the order of the result to two. A
method of higher order therefore begins with a Runge-Kutta step, which takes more evaluations (``start_order``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.coefficients import (
    Intervals,
    Nodes,
    Rule,
    combine,
    evaluations,
    finish,
    linear_process,
)
from scoresde.samplers.exponential.history import History
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    Parameterization,
    check_parameterization,
    log_noise_to_signal,
)
from scoresde.samplers.exponential.runge_kutta import TABLEAUS, Stages
from scoresde.samplers.grid_sampler import GridSampler, Model
from scoresde.samplers.grids import focused
from scoresde.samplers.instants import Interval, with_noise
from scoresde.sde import SDE, LinearSDE, ScalarSDE


class ExponentialMultistep(GridSampler):
    """Exponential multistep method, for any linear process and any grid.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes one evaluation of the score.
        order: Number of predictions in a polynomial, 1 to 4.
        parameterization: :class:`DataParameterization`, :class:`NoiseParameterization` or :class:`Whitened`.
        eta: Amount of noise. 0 is the probability flow, 1 is the reverse SDE. Other values need a process whose maps
            commute.
        corrector: Correct each state with the evaluation made there.
        start_order: Order of the first step, 1 to 3. It takes as many evaluations. None: the order that the method
            needs, which is ``order - 1``, or ``order - 2`` with a corrector, between 1 and 3; 1 with noise.
        cell: Width in u of the cells of a fixed Brownian path, for example 0.01. Runs with any number of steps then
            follow the same path. None: independent noise in each step.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        TypeError: If the parameterization is of another type.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 2,
        parameterization: Parameterization = DataParameterization(),  # noqa: B008  (frozen)
        eta: float = 0.0,
        *,
        corrector: bool = False,
        start_order: int | None = None,
        cell: float | None = None,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        check_choice("order", order, (1, 2, 3, 4))
        check_number("eta", eta, least=0.0)
        check_parameterization(parameterization)
        if cell is not None:
            check_number("cell", cell, above=0.0)
        if start_order is not None:
            check_choice("start_order", start_order, (1, 2, 3))
        if eta and start_order is not None and start_order > 1:
            raise ValueError(
                f"start_order={start_order!r} is not allowed with eta={eta!r}: give 1, a higher order has no use with noise"
            )
        self.order, self.start_order, self.corrector = order, start_order, corrector
        self.parameterization, self.eta, self.cell = parameterization, float(eta), cell
        self.set_grid(steps, grid, t_min, denoise=denoise)

    @property
    def first_step_order(self) -> int:
        """Order of the first step."""
        if self.start_order is not None:
            return self.start_order
        return 1 if self.eta else min(3, max(1, self.order - 1 - self.corrector))

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise, for ``eta`` above 0."""
        return self.eta > 0.0

    def process(self, sde: SDE) -> LinearSDE:
        return linear_process(sde, type(self).__name__)

    def has_step(self, process: LinearSDE) -> bool:
        p = self.parameterization
        data = type(p) is DataParameterization and p.variable is log_noise_to_signal
        return super().has_step(process) and data and self.first_step_order == 1

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        return with_noise(sde, intervals)

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        if not self.stochastic:
            return iter([None] * steps)
        u = [-at.lam for at in (*(i.at for i in intervals), intervals[-1].to)]
        return step_normals(noise, x, torch.tensor(u, dtype=torch.float64), self.cell)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = sigma_s / sigma_t e^(-eta^2 h) x_t + alpha_s sum_k w_k D_k + z, with the last predictions D_k of the data.

        With a corrector, x_t is first computed again by the polynomial that also goes through the prediction at x_t.
        """
        at, to, eta = interval.at, interval.to, self.eta
        h = to.lam - at.lam
        data = model.data(x, at)
        if past is not None and self.corrector:
            x = past.corrected(x, data, at.lam)
        known = History.of(interval, eta, data, past, self.order)
        mean = combine(
            ((to.sigma / at.sigma * math.exp(-(eta**2) * h), x), *zip(known.weights, known.data, strict=True))
        )
        return add_noise(mean, z, to.sigma, eta, h), mean, known

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        times = self.discretization.times(sde)
        grid = Nodes.at(sde, times)
        places = evaluations(sde, self.parameterization, times, x)
        predict, correct = self._rules(sde, grid, x)
        first = None
        if self.first_step_order > 1:
            first = Stages.of(sde, self.parameterization, TABLEAUS[self.first_step_order], grid[:1], grid[1:2], x)
        past: deque[Tensor] = deque(maxlen=self.order + self.corrector)
        clocks, draws = times.to(x).unbind(), step_normals(noise, x, grid.u, self.cell)
        added = shift = None
        y = before = places[0].centered(x)
        for i in range(len(times) - 1):
            past.appendleft(places[i](score, y))
            if correct is not None and i > 0:
                y = correct(i - 1, before, past)
                y = y if added is None else y.add_(added)
                y = y if shift is None else y.add_(shift)
            before = y
            y = predict(i, y, past) if first is None or i > 0 else first(score, 0, y, past[0])
            if predict.noise_scale is not None:
                added = combine(((predict.noise_scale[i], next(draws)),))
                y.add_(added)
            if score.hooks is not None:  # the corrector keeps the change
                changed = places[i + 1].centered(score.hooked(i + 1, clocks[i + 1], places[i + 1].state(y)))
                y, shift = changed, changed - y
            callback(i + 1, clocks[i + 1], places[i + 1].state(y))
        return finish(sde, score, places[-1].state(y), clocks[-1], self.denoise), times

    def _rules(self, sde: LinearSDE, grid: Nodes, like: Tensor) -> tuple[Rule, Rule | None]:
        """Coefficients of the predictor and the corrector of every step."""
        n = len(grid.t) - 1
        step = torch.arange(n)
        start, end = grid[:-1], grid[1:]

        def back(k: int) -> Nodes:
            before = (step - k).clamp(min=0)
            return Nodes(grid.u[before], grid.t[before])

        nodes = [back(k) for k in range(self.order)]
        used = step[:, None] >= torch.arange(self.order)
        intervals = Intervals.of(sde, self.parameterization, self.eta, start, end)
        predict = intervals.rule(nodes, used, like)
        if not self.corrector:
            return predict, None
        used = torch.cat((torch.ones(n, 1, dtype=torch.bool), used), 1)
        return predict, intervals.rule([end, *nodes], used, like)


def step_normals(noise: NoiseSource, like: Tensor, u: Tensor, cell: float | None) -> Iterator[Tensor]:
    """Standard normal noise (B, *state) for each step of a grid.

    Args:
        noise: Source of the noise.
        like: (B, *state), a state.
        u: (n + 1,), descending log spreads of the grid.
        cell: Width of the cells of a fixed path. None: independent noise in each step.

    Returns:
        An iterator of n tensors. With a fixed path, a step has the normalized sum over its cells. Cell j is the
        interval from u_0 - j cell to u_0 - (j + 1) cell, and belongs to the step that contains its middle. A step
        without a cell has separate noise. The noise of different steps is independent for every grid.
    """
    bounds = [0] * len(u) if cell is None else ((u[0] - u) / cell + 0.5).floor().long().tolist()
    counts = [b - a for a, b in pairwise(bounds)]
    alone = [i for i, count in enumerate(counts) if count == 0]
    own = noise.normals(like.shape[1:], steps=alone, purpose="multistep", dtype=like.dtype)
    path = noise.normals(like.shape[1:], steps=range(bounds[-1]), purpose="brownian path", dtype=like.dtype)
    for count in counts:
        total = next(path if count else own)
        for _ in range(count - 1):
            total.add_(next(path))
        yield total if count < 2 else total.mul_(count**-0.5)


def add_noise(mean: Tensor, z: Tensor | None, sigma: float, eta: float, h: float) -> Tensor:
    """mean + sigma_s sqrt(1 - e^(-2 eta^2 h)) z; only the mean if z is None."""
    return mean if z is None else mean.add(z, alpha=sigma * math.sqrt(-math.expm1(-2.0 * eta**2 * h)))
