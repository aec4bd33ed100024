r"""Exponential Runge-Kutta methods: several evaluations of the score per step, and no predictions of previous steps.

A step from u_a to u_b goes through stages. Each stage, and the end of the step, is reached from u_a by the polynomial
through the predictions of some earlier stages. The stages are at fractions of the step in u:

=====  =============  =============================  =================================
order  stages         predictions of the stages      known as
=====  =============  =============================  =================================
1      1              0                              DDIM, Euler method
2      1/2, 1         0; 0 and 1/2                   DPM-Solver++(2S), DPM-Solver-2
2      1, 1           0; 0 and 1                     Heun's method, EDM
3      1/3, 2/3, 1    0; 0 and 1/3; 0 and 2/3        DPM-Solver++(3S), DPM-Solver-3
=====  =============  =============================  =================================

A process whose maps do not commute, such as Langevin diffusion, needs ``Whitened``. There the propagator of
``NoiseParameterization`` is that of the drift alone. Its inverse grows, by a factor e^8 under the default process. The
prediction of the noise changes even where the state is pure noise. Only the interpolation cancels this growth, so that
few steps are unstable (``docs/samplers.md`` has figures). With churn the added noise grows too, so that it raises a
ValueError.

References:
    Lu et al. 2022, arXiv:2206.00927 (DPM-Solver), arXiv:2211.01095 (DPM-Solver++).
    Karras et al. 2022, arXiv:2206.00364 (EDM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.churn import Churn, check_stable, churn_factors
from scoresde.samplers.exponential.coefficients import (
    Evaluation,
    Intervals,
    Nodes,
    Rule,
    centers,
    combine,
    evaluations,
    finish,
    linear_process,
)
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    Parameterization,
    check_parameterization,
)
from scoresde.samplers.grid_sampler import GridSampler, Model
from scoresde.samplers.grids import focused
from scoresde.samplers.instants import Interval
from scoresde.sde import SDE, LinearSDE

Tableau = tuple[tuple[float, tuple[int, ...]], ...]
"""For each stage and the end: its fraction of the step, and the numbers of the predictions in its polynomial, 0 for the start."""

TABLEAUS: dict[int, Tableau] = {
    1: ((1.0, (0,)),),
    2: ((0.5, (0,)), (1.0, (0, 1))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
}
HEUN: Tableau = ((1.0, (0,)), (1.0, (0, 1)))


@dataclass(frozen=True)
class Stages:
    """A tableau on n intervals.

    Attributes:
        tableau: The tableau.
        rules: Coefficients of each stage.
        places: The n evaluations at each stage.
    """

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
        """The stages on the intervals from the n nodes ``start`` to the n nodes ``end``."""
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
        """The end of interval i, for the start y and its prediction ``first``."""
        known = [first]
        for rule, places, (_, chosen) in zip(self.rules[:-1], self.places, self.tableau, strict=False):
            known.append(places[i](score, rule(i, y, [known[k] for k in chosen])))
        return self.rules[-1](i, y, [known[k] for k in self.tableau[-1][1]])


class ExponentialRungeKutta(GridSampler):
    """Exponential Runge-Kutta method, for any linear process and any grid.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes ``order`` evaluations of the score.
        order: 1, 2 or 3.
        parameterization: :class:`DataParameterization`, :class:`NoiseParameterization` or :class:`Whitened`.
        heun: Put the stage of order 2 at the end of the step instead of the middle.
        churn: Noise that is added before each step. None: the probability flow.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        TypeError: If the parameterization is of another type.
        ValueError: If an argument is out of range, or ``heun`` is set for another order than 2.
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
        """Whether a step adds noise, if there is churn."""
        return self.churn is not None

    def process(self, sde: SDE) -> LinearSDE:
        return linear_process(sde, type(self).__name__)

    def has_step(self, process: LinearSDE) -> bool:
        return False  # EDM overrides this

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        raise TypeError(f"{self!r} has no step for scalar coefficients")

    def run_maps(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        times = self.discretization.times(sde)
        grid = Nodes.at(sde, times)
        start, churned = grid[:-1], None
        if self.churn is not None:
            check_stable(sde, self.parameterization, times)
            start = Nodes.at(sde, self.churn.times(sde, times[:-1]))
            churned = churn_factors(sde, self.churn, times[:-1], start.t, x)
        stages = Stages.of(sde, self.parameterization, HEUN if self.heun else TABLEAUS[self.order], start, grid[1:], x)
        first, ends = evaluations(sde, self.parameterization, start.t, x), stages.places[-1]
        clocks = times.to(x).unbind()
        center = centers(sde, times[:1], x)[0]
        y = x if center is None else x - center
        draws = noise.normals(x.shape[1:], steps=range(len(clocks) - 1), purpose=self.purpose, dtype=x.dtype)
        for i in range(len(times) - 1):
            if churned is not None:
                y = combine(((churned[0][i], y), (churned[1][i], next(draws))))
            y = stages(score, i, y, first[i](score, y))
            if score.hooks is not None:
                y = ends[i].centered(score.hooked(i + 1, clocks[i + 1], ends[i].state(y)))
            callback(i + 1, clocks[i + 1], ends[i].state(y))
        return finish(sde, score, ends[-1].state(y), clocks[-1], self.denoise), times
