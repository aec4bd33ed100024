"""Exponential Runge-Kutta methods: several evaluations for a step, none carried over from the steps before.

A step from a to b goes through stages. Each is reached from a by the polynomial through predictions of earlier ones, and so is b:

    order   stages at (of the way in u)     each by the predictions of              known as
    1       1                               0                                       DDIM, EDM's Euler
    2       1/2, 1                          0;  0 and 1/2                           DPM-Solver++(2S), DPM-Solver-2
    2       1, 1                            0;  0 and 1                             EDM's Heun
    3       1/3, 2/3, 1                     0;  0 and 1/3;  0 and 2/3               DPM-Solver++(3S), DPM-Solver-3

(Lu et al. 2022, arXiv:2206.00927 and 2211.01095; Karras et al. 2022, arXiv:2206.00364)

`Churn` puts noise in before each step: forward from t to the time whose level sigma / alpha is 1 + gamma times as large, by the
process's own transition, then the flow from there. Both keep the marginals, so it costs no order.

On blocks (Langevin diffusion) the propagator of `NoiseParameterization` is the drift's alone, whose inverse grows, by e^8 under
the default process, and the noise of a state does not stand still even where there is nothing but noise: what cancels the growth
is left to the interpolation, and few steps are unstable (docs/samplers.md has figures). Churn lengthens steps and puts in noise
that grows, and is refused there; `Whitened` has neither trouble.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.coefficients import (
    Evaluation,
    Factor,
    Intervals,
    Nodes,
    Rule,
    centres,
    combine,
    evaluations,
    factors,
    finish,
    linear,
)
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    NoiseParameterization,
    Parameterization,
    check_parameterization,
    noise_to_signal,
)
from scoresde.samplers.grid_sampler import GridSampler, Model
from scoresde.samplers.grids import focused, karras
from scoresde.samplers.instants import Instant, Interval, instants, with_noise
from scoresde.sde import SDE, LinearSDE, ScalarSDE

Tableau = tuple[tuple[float, tuple[int, ...]], ...]
"""For each stage and the end: the share of the way, and the numbers of the predictions that lead there, 0 at the start."""

TABLEAUS: dict[int, Tableau] = {
    1: ((1.0, (0,)),),
    2: ((0.5, (0,)), (1.0, (0, 1))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
}
HEUN: Tableau = ((1.0, (0,)), (1.0, (0, 1)))


@dataclass(frozen=True)
class Stages:
    """A tableau on n intervals: the rule of each stage, and the evaluations there."""

    tableau: Tableau
    rules: list[Rule]
    places: list[list[Evaluation]]

    @classmethod
    def of(
        cls,
        sde: LinearSDE,
        parameterization: Parameterization,
        tableau: Tableau,
        start: Nodes,
        end: Nodes,
        like: Tensor,
    ) -> Stages:
        """The stages on the intervals from ``start`` (n) to ``end``."""
        at = [start, *(start.towards(sde, end, share) for share, _ in tableau)]
        rules, places = [], []
        for stop, (_, chosen) in zip(at[1:], tableau, strict=True):
            used = torch.ones(len(start.t), len(chosen), dtype=torch.bool)
            rules.append(
                Intervals.of(sde, parameterization, 0.0, start, stop).rule([at[k] for k in chosen], used, like)
            )
            places.append(evaluations(sde, parameterization, stop.t, like))
        return cls(tableau, rules, places)

    def __call__(self, score: CountedScore, i: int, y: Tensor, first: Tensor) -> Tensor:
        """The end of interval i from its start y, with the prediction there."""
        known = [first]
        for rule, places, (_, chosen) in zip(self.rules[:-1], self.places, self.tableau, strict=False):
            known.append(places[i](score, rule(i, y, [known[k] for k in chosen])))
        return self.rules[-1](i, y, [known[k] for k in self.tableau[-1][1]])


@dataclass(frozen=True)
class Churn:
    """Noise put in before each step: gamma = min(amount / N, sqrt(2) - 1) (Karras et al. 2022, algorithm 2).

    amount: S_churn >= 0. low, high: where, in sigma / alpha: S_min, S_max. inflate: S_noise, the factor on the noise.
    """

    amount: float = 40.0
    low: float = 0.0
    high: float = math.inf
    inflate: float = 1.0

    def __post_init__(self) -> None:
        check_number("amount", self.amount, least=0.0)
        check_number("low", self.low, least=0.0)
        check_number("inflate", self.inflate, above=0.0)
        if not self.high > self.low:
            raise ValueError(f"high={self.high!r} is not allowed: give a number > low={self.low!r}")

    def times(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The times that steps from t (N,) start at: none above T."""
        level = sde.log_noise(t)
        gamma = min(self.amount / len(t), math.sqrt(2.0) - 1.0)
        inside = (level.exp() >= self.low) & (level.exp() <= self.high)
        return torch.where(inside, sde.time_of_log_noise(level + math.log1p(gamma)), t).maximum(t)

    def added(self, x: Tensor, at: Instant, to: Instant, z: Tensor) -> Tensor:
        """alpha' x / alpha + S_noise sqrt(sigma'^2 - (alpha' sigma / alpha)^2) z, the state at the higher time ``to``."""
        a = to.alpha / at.alpha
        std = max(to.sigma**2 - (a * at.sigma) ** 2, 0.0) ** 0.5
        noised: Tensor = a * x + self.inflate * std * z
        return noised


class ExponentialRungeKutta(GridSampler):
    """Single-step method for any linear process, on any grid.

    Args:
        steps: Number of steps N, each of them ``order`` evaluations of the score, or N + 1 descending times.
        order: 1, 2 or 3.
        parameterization: `DataParameterization`, `NoiseParameterization` or `Whitened`.
        heun: Take the stage of order 2 at the end of the step in place of its middle.
        churn: A `Churn`, or None for the flow alone.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    purpose = "churn"

    def __init__(
        self,
        steps: Times = 10,
        order: int = 2,
        parameterization: Parameterization = DataParameterization(),  # noqa: B008  (frozen)
        *,
        heun: bool = False,
        churn: Churn | None = None,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        check_choice("order", order, (1, 2, 3))
        check_parameterization(parameterization)
        if heun and order != 2:
            raise ValueError(f"heun=True with order={order!r} is not allowed: Heun's method has order 2")
        self.order, self.parameterization, self.heun, self.churn = order, parameterization, heun, churn
        self.set_grid(steps, grid, t_min, denoise=denoise)

    @property
    def stochastic(self) -> bool:
        """Whether noise is put in."""
        return self.churn is not None

    def process(self, sde: SDE) -> LinearSDE:
        """The process in continuous time. Raises TypeError where it is not linear."""
        return linear(sde, self)

    def has_step(self, process: LinearSDE) -> bool:
        """No: `EDM` has."""
        return False

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError(f"{self!r} steps by maps alone")

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        times = self.discretization.times(sde)
        grid = Nodes.at(sde, times)
        start, churned = grid[:-1], None
        if self.churn is not None:
            _check_stable(sde, self.parameterization, times)
            start = Nodes.at(sde, self.churn.times(sde, times[:-1]))
            churned = _churn_factors(sde, self.churn, times[:-1], start.t, x)
        stages = Stages.of(sde, self.parameterization, HEUN if self.heun else TABLEAUS[self.order], start, grid[1:], x)
        first, ends = evaluations(sde, self.parameterization, start.t, x), stages.places[-1]
        clocks = times.to(x).unbind()
        centre = centres(sde, times[:1], x)[0]
        y = x if centre is None else x - centre
        draws = noise.normals(x.shape[1:], steps=range(len(clocks) - 1), purpose=self.purpose, dtype=x.dtype)
        for i in range(len(times) - 1):
            if churned is not None:
                y = combine(((churned[0][i], y), (churned[1][i], next(draws))))
            y = stages(score, i, y, first[i](score, y))
            callback(i + 1, clocks[i + 1], ends[i].state(y))
        return finish(sde, score, ends[-1].state(y), clocks[-1], self.denoise), times


def _check_stable(sde: LinearSDE, parameterization: Parameterization, times: Tensor) -> None:
    """Raise ValueError where churned noise would grow."""
    if isinstance(parameterization, NoiseParameterization) and not sde.kernel(times).noise_map().commutes:
        raise ValueError(
            f"churn with parameterization={parameterization!r} is not allowed for {sde!r}, whose maps do not commute: "
            "it is unstable, give ExponentialRungeKutta(steps, 2, Whitened(data_std=...), heun=True, churn=...)"
        )


def _churn_factors(
    sde: LinearSDE, churn: Churn, t: Tensor, raised: Tensor, like: Tensor
) -> tuple[list[Factor], list[Factor]]:
    """Factors on the state and on the noise of the way from t up."""
    kernel = sde.transition(t, raised)
    noise_scale = kernel.noise_map().times(torch.full_like(t, churn.inflate))
    return factors(kernel.signal_map(), like, len(t)), factors(noise_scale, like, len(t))


class DPMSolverSingleStep(ExponentialRungeKutta):
    """DPM-Solver++(2S), and (3S) with order 3 (Lu et al. 2022, arXiv:2211.01095).

    Args:
        steps: Number of steps N, each of them ``order`` evaluations of the score, or N + 1 descending times.
        order: 1, 2 or 3.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 10,
        order: int = 2,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, DataParameterization(), grid=grid, t_min=t_min, denoise=denoise)


class EDM(ExponentialRungeKutta):
    """The sampler of Karras et al. 2022 (arXiv:2206.00364): Heun's method in sigma / alpha on their grid, noise churned in.

    Args:
        steps: Number of steps N, each of them two evaluations of the score, one without ``heun``; or N + 1 descending times.
        heun: False for Euler's method.
        churn: A `Churn`; None for the deterministic sampler. Refused on blocks, where this sampler needs 60 steps without it too
            and ``ExponentialRungeKutta(steps, 2, Whitened(data_std), heun=True, churn=churn)`` does not; see above.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Times = 18,
        *,
        grid: Grid = karras,
        t_min: float | None = None,
        heun: bool = True,
        churn: Churn | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(
            steps,
            2 if heun else 1,
            NoiseParameterization(noise_to_signal),
            heun=heun,
            churn=churn,
            grid=grid,
            t_min=t_min,
            denoise=denoise,
        )

    def has_step(self, process: LinearSDE) -> bool:
        """Whether the coefficients are scalar."""
        return isinstance(process, ScalarSDE)

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps with the times at which they start once noise was added. Raises ValueError for a time without noise."""
        with_noise(sde, intervals)
        if self.churn is None:
            return intervals
        times = self.churn.times(sde, torch.tensor([i.at.t for i in intervals], dtype=torch.float64))
        raised = instants(sde, times, like=intervals[0].at.time)
        return [replace(interval, churned=at) for interval, at in zip(intervals, raised, strict=True)]

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """Karras et al. 2022, algorithm 2, for x / alpha, whose slope in rho = sigma / alpha is the noise."""
        at, to = interval.at, interval.to
        if self.churn is not None and interval.churned is not None:
            x, at = self.churn.added(x, at, interval.churned, z), interval.churned
        start, rise = to.alpha / at.alpha * x, to.sigma - to.alpha * at.sigma / at.alpha
        noise = model.noise(x, at)
        x = start + rise * noise
        if self.heun:
            x = start + 0.5 * rise * (noise + model.noise(x, to))
        return x, x, None
