"""Exponential multistep methods: one evaluation of the score for a step, the polynomial through the last ``order`` predictions.

    y_(i+1) = P y_i + sum_k b_k N_(i-k) + noise_scale z          N_i = N(y_i, t_i)

    DPM-Solver++(2M), (3M)     order 2, 3, Data             Lu et al. 2022 (arXiv:2211.01095)
    SDE-DPM-Solver++(2M)       order 2, DataParameterization, eta = 1       the same
    UniPC                      order 2, 3, DataParameterization, corrector  Zhao et al. 2023 (arXiv:2302.04867)
    DEIS                       order 2, 3, Noise            Zhang & Chen 2023 (arXiv:2204.13902)
    Adams-Bashforth            any order, Whitened
    DDIM, EDM's Euler          order 1

With the corrector, y_i is taken anew once N_i is known, by the polynomial that contains it, for no further evaluation; the order
rises by one. The order is that of the flow: noise leaves weak order 2 at most, since one evaluation sees no more of a path.

The first step has one prediction only and with it a local error of second order, which stays in the result: a method of third
order opens with a step by Runge and Kutta's, at one evaluation more (see ``start_order``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.discretization import Grid, Times, discretization, plain_steps
from scoresde.samplers.exponential.coefficients import Intervals, Nodes, Rule, combine, evaluations, finish, linear
from scoresde.samplers.exponential.history import History
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    NoiseParameterization,
    Parameterization,
    Whitened,
    check_parameterization,
    diffusion_time,
    log_noise_to_signal,
)
from scoresde.samplers.exponential.runge_kutta import TABLEAUS, Stages
from scoresde.samplers.grid_sampler import GridSampler, Model
from scoresde.samplers.grids import focused
from scoresde.samplers.instants import Interval, with_noise
from scoresde.sde import SDE, LinearSDE, ScalarSDE

_THIRD = 15
"""Steps from which `UniPC` has order 3."""


class ExponentialMultistep(GridSampler):
    """Multistep method for any linear process, on any grid.

    Args:
        steps: Number of steps N, each of them one evaluation of the score, or N + 1 descending times.
        order: Predictions in a polynomial, 1 to 4.
        parameterization: `DataParameterization`, `NoiseParameterization` or `Whitened`.
        eta: 0 the probability flow, 1 the reverse SDE; between and above 1 for processes whose maps commute.
        corrector: Take each state again with the evaluation made at it.
        start_order: Order of the first step, 1 to 3, at as many evaluations. None: what the order needs, order - 1, less one with
            a corrector, at most 3; with noise 1.
        cell: Width in u of the cells of a fixed Brownian path from which the noise is taken, e.g. 0.01: then runs with any number
            of steps follow the same path. None: a draw for each step.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
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
                f"start_order={start_order!r} is not allowed with eta={eta!r}: give 1, noise leaves no use for more"
            )
        self.order, self.parameterization, self.eta, self.corrector, self.cell = (
            order,
            parameterization,
            float(eta),
            corrector,
            cell,
        )
        self.start_order = start_order
        self.set_grid(steps, grid, t_min, denoise=denoise)

    @property
    def first_step_order(self) -> int:
        """Order of the first step."""
        if self.start_order is not None:
            return self.start_order
        return 1 if self.eta else min(3, max(1, self.order - 1 - self.corrector))

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return self.eta > 0.0

    def process(self, sde: SDE) -> LinearSDE:
        """The process in continuous time. Raises TypeError where it is not linear."""
        return linear(sde, self)

    def has_step(self, process: LinearSDE) -> bool:
        """Whether the coefficients are scalar and the polynomials those of the data in ln(alpha / sigma)."""
        data = (
            type(self.parameterization) is DataParameterization
            and self.parameterization.variable is log_noise_to_signal
        )
        return super().has_step(process) and data and self.first_step_order == 1

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps. Raises ValueError for a time without noise."""
        return with_noise(sde, intervals)

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        """Standard normals, also those of a fixed path."""
        if not self.stochastic:
            return iter([None] * steps)
        u = [-at.lam for at in (*(i.at for i in intervals), intervals[-1].to)]
        return step_normals(noise, x, torch.tensor(u, dtype=torch.float64), self.cell)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x_s = sigma_s / sigma_t e^(-eta^2 h) x_t + alpha_s sum_k w_k D_k + noise, D_k the last predictions of the data.

        With the corrector, x_t is first taken again by the polynomial that contains its own prediction.
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
        clocks, added, draws = times.to(x).unbind(), None, step_normals(noise, x, grid.u, self.cell)
        y = before = x if places[0].centre is None else x - places[0].centre
        for i in range(len(times) - 1):
            past.appendleft(places[i](score, y))
            if correct is not None and i > 0:
                y = correct(i - 1, before, past)
                y = y if added is None else y.add_(added)
            before = y
            y = predict(i, y, past) if first is None or i > 0 else first(score, 0, y, past[0])
            if predict.noise_scale is not None:
                added = combine(((predict.noise_scale[i], next(draws)),))
                y.add_(added)
            callback(i + 1, clocks[i + 1], places[i + 1].state(y))
        return finish(sde, score, places[-1].state(y), clocks[-1], self.denoise), times

    def _rules(self, sde: LinearSDE, grid: Nodes, like: Tensor) -> tuple[Rule, Rule | None]:
        """Predictor and corrector of every step."""
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
    """The standard normals of the steps of a grid u (n + 1,), falling, each (B, *state): one for each, or sums over the cells of
    a fixed path.

    Cell j reaches from u_0 - j cell to u_0 - (j + 1) cell, and belongs to the step that holds its middle. A step without one has
    a draw of its own: whatever the grid, the draws are independent and standard normal.
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
    """mean + sigma_s sqrt(1 - e^(-2 eta^2 h)) z."""
    return mean if z is None else mean.add(z, alpha=sigma * math.sqrt(-math.expm1(-2.0 * eta**2 * h)))


class DPMSolverPlusPlus(ExponentialMultistep):
    """DPM-Solver++(2M), and (3M) with order 3; with eta = 1 SDE-DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095).

    Args:
        steps: Number of steps N, each of them one evaluation of the score, or N + 1 descending times.
        order: 1 to 4.
        eta: 0 the probability flow, 1 the reverse SDE.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 2,
        eta: float = 0.0,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, DataParameterization(), eta, grid=grid, t_min=t_min, denoise=denoise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """Order 2, with r = h' / h for the step before, k = 1 + eta^2 and G = 1 - e^(-k h):

        x_s = sigma_s / sigma_t e^(-eta^2 h) x_t + alpha_s G D + alpha_s (1 - G / (k h)) (D - D') / r
        """
        if self.order > 2:
            return super().step(model, x, interval, z, past)
        at, to, eta = interval.at, interval.to, self.eta
        h, k = to.lam - at.lam, 1.0 + eta**2
        gain, data = -math.expm1(-k * h), model.data(x, at)
        mean = torch.add(to.sigma / at.sigma * math.exp(-(eta**2) * h) * x, data, alpha=to.alpha * gain)
        if past is not None and self.order == 2:
            before, r = past[0], past[1] / h
            mean.add_(data - before, alpha=to.alpha * (1.0 - gain / (k * h)) / r)
        return add_noise(mean, z, to.sigma, eta, h), mean, (data, h)


class UniPC(ExponentialMultistep):
    """UniPC-p with p = ``order`` predictions and the corrector (Zhao et al. 2023, arXiv:2302.04867).

    Args:
        steps: Number of steps N, each of them one evaluation of the score, or N + 1 descending times.
        order: 1 to 4. None: 2 below 15 steps, where a third order is less stable, else 3.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int | None = None,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        if order is None:
            order = 2 if discretization(plain_steps(steps), grid, t_min).steps < _THIRD else 3
        super().__init__(steps, order, DataParameterization(), corrector=True, grid=grid, t_min=t_min, denoise=denoise)


class DEIS(ExponentialMultistep):
    """tAB-DEIS: the noise by polynomials of t (Zhang & Chen 2023, arXiv:2204.13902).

    Args:
        steps: Number of steps N, each of them one evaluation of the score, or N + 1 descending times.
        order: 1 to 4.
        variable: What the polynomials are of; `noise_to_signal` makes it the rhoAB-DEIS.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 3,
        variable: Callable[[Tensor, Tensor], Tensor] = diffusion_time,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, NoiseParameterization(variable), grid=grid, t_min=t_min, denoise=denoise)

    @property
    def variable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What the polynomials are of."""
        return self.parameterization.variable


class AdamsBashforth(ExponentialMultistep):
    """Adams and Bashforth's method in whitened coordinates; with the corrector Adams and Moulton's after it.

    Args:
        steps: Number of steps N, each of them one evaluation of the score, or N + 1 descending times.
        order: 1 to 4.
        data_std: Standard deviation of the data, about zero.
        corrector: Take each state again with the evaluation made at it.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 2,
        data_std: float = 0.5,
        *,
        corrector: bool = False,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        parameterization = Whitened(data_std=data_std)
        super().__init__(steps, order, parameterization, corrector=corrector, grid=grid, t_min=t_min, denoise=denoise)
        self.data_std = data_std
