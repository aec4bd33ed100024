"""Exponential multistep methods: one evaluation of the score for a step, the polynomial through the last ``order`` predictions.

    y_(i+1) = P y_i + sum_k b_k N_(i-k) + kick z          N_i = N(y_i, t_i)

    DPM-Solver++(2M), (3M)     order 2, 3, Data             Lu et al. 2022 (arXiv:2211.01095)
    SDE-DPM-Solver++(2M)       order 2, Data, eta = 1       the same
    UniPC                      order 2, 3, Data, corrector  Zhao et al. 2023 (arXiv:2302.04867)
    DEIS                       order 2, 3, Noise            Zhang & Chen 2023 (arXiv:2204.13902)
    Adams-Bashforth            any order, Whitened
    DDIM, EDM's Euler          order 1

With the corrector, y_i is taken anew once N_i is known, by the polynomial that contains it, for no further evaluation; the order
rises by one. The order is that of the flow: noise leaves weak order 2 at most, since one evaluation sees no more of a path.

The first step has one prediction only and with it a local error of second order, which stays in the result: a method of third
order opens with a step by Runge and Kutta's, at one evaluation more (see ``opening``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.exponential import Instants, Intervals, Rule, combine, evaluations, finish, linear
from scoresde.samplers.forms import Data, Form, Noise, Whitened, diffusion_time
from scoresde.samplers.grids import focused
from scoresde.samplers.single_step import TABLEAUS, Stages
from scoresde.samplers.walk import ExactSteps, Steps, stepping
from scoresde.sde import SDE, LinearSDE

_THIRD = 15
"""Steps from which `UniPC` has order 3."""


class ExponentialMultistep(Sampler):
    """Multistep method for any linear process, on any grid.

    steps: number of steps N on the grid `focused`, N + 1 descending times, or ``ExactSteps(N, grid)``.
    order: predictions in a polynomial, 1 to 4.
    form: `Data`, `Noise` or `Whitened`.
    eta: 0 the probability flow, 1 the reverse SDE; between and above 1 for processes whose maps commute.
    corrector: take each state anew with the evaluation made at it.
    cell: width in u of the cells of a fixed Brownian path from which the noise is taken, e.g. 0.01: then runs with any number of
        steps follow the same path. None: a draw for each step.
    opening: order of the first step, 1 to 3, at as many evaluations. None: what the order needs, order - 1, less one with a
        corrector, at most 3; with noise 1.
    denoise: return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(
        self,
        steps: Steps | ExactSteps = 20,
        order: int = 2,
        form: Form = Data(),  # noqa: B008  (frozen)
        eta: float = 0.0,
        *,
        corrector: bool = False,
        opening: int | None = None,
        cell: float | None = None,
        denoise: bool = True,
    ) -> None:
        check_choice("order", order, (1, 2, 3, 4))
        check_number("eta", eta, least=0.0)
        check_choice("corrector", corrector, (True, False))
        check_choice("denoise", denoise, (True, False))
        if not isinstance(form, Form):
            raise TypeError(f"form={form!r} is not a Form: give Data(), Noise() or Whitened()")
        if cell is not None:
            check_number("cell", cell, above=0.0)
        if opening is None:
            opening = 1 if eta else min(3, max(1, order - 1 - corrector))
        check_choice("opening", opening, (1, 2, 3))
        if eta and opening > 1:
            raise ValueError(
                f"opening={opening!r} is not allowed with eta={eta!r}: give 1, noise leaves no use for more"
            )
        self.stepping, self.order, self.form, self.eta = stepping(steps, focused), order, form, float(eta)
        self.corrector, self.opening, self.cell, self.denoise = corrector, opening, cell, denoise

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.stepping!r}, order={self.order}, form={self.form!r}, eta={self.eta:g}, "
            f"corrector={self.corrector}, opening={self.opening}, denoise={self.denoise})"
        )

    def start_time(self, sde: SDE) -> float:
        """The first time of the grid."""
        return self.stepping.start_time(linear(sde, self))

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        process = linear(sde, self)
        times = self.stepping.times(process)
        grid = Instants.at(process, times)
        places = evaluations(process, self.form, times, x)
        predict, correct = self._rules(process, grid, x)
        opening = None
        if self.opening > 1:
            opening = Stages.of(process, self.form, TABLEAUS[self.opening], grid[:1], grid[1:2], x)
        past: deque[Tensor] = deque(maxlen=self.order + self.corrector)
        told, kick, draws = times.to(x).unbind(), None, kicks(noise, x, grid.u, self.cell)
        y = before = x if places[0].centre is None else x - places[0].centre
        for i in range(len(times) - 1):
            past.appendleft(places[i](score, y))
            if correct is not None and i > 0:
                y = correct(i - 1, before, past)
                y = y if kick is None else y.add_(kick)
            before = y
            y = predict(i, y, past) if opening is None or i > 0 else opening(score, 0, y, past[0])
            if predict.kick is not None:
                kick = combine(((predict.kick[i], next(draws)),))
                y.add_(kick)
            callback(i + 1, told[i + 1], places[i + 1].state(y))
        return finish(sde, score, places[-1].state(y), told[-1], self.denoise), times

    def _rules(self, sde: LinearSDE, grid: Instants, like: Tensor) -> tuple[Rule, Rule | None]:
        """Predictor and corrector of every step."""
        n = len(grid.t) - 1
        step = torch.arange(n)
        start, end = grid[:-1], grid[1:]

        def back(k: int) -> Instants:
            before = (step - k).clamp(min=0)
            return Instants(grid.u[before], grid.t[before])

        nodes = [back(k) for k in range(self.order)]
        used = step[:, None] >= torch.arange(self.order)
        intervals = Intervals.of(sde, self.form, self.eta, start, end)
        predict = intervals.rule(nodes, used, like)
        if not self.corrector:
            return predict, None
        used = torch.cat((torch.ones(n, 1, dtype=torch.bool), used), 1)
        return predict, intervals.rule([end, *nodes], used, like)


def kicks(noise: NoiseSource, like: Tensor, u: Tensor, cell: float | None) -> Iterator[Tensor]:
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


class DPMSolverPlusPlus(ExponentialMultistep):
    """DPM-Solver++(2M), and (3M) with order 3; with eta = 1 SDE-DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095)."""

    def __init__(
        self, steps: Steps | ExactSteps = 20, order: int = 2, eta: float = 0.0, *, denoise: bool = True
    ) -> None:
        super().__init__(steps, order, Data(), eta, denoise=denoise)


class UniPC(ExponentialMultistep):
    """UniPC-p with p = ``order`` predictions and the corrector (Zhao et al. 2023, arXiv:2302.04867).

    Args:
        steps: Number of steps N on the grid `focused`, N + 1 descending times, or ``ExactSteps(N, grid)``.
        order: 1 to 4. None: 2 below 15 steps, where a third order is less stable, else 3.
        denoise: Return E[x_0 | x] at the end, at the price of one evaluation, in place of x.
    """

    def __init__(self, steps: Steps | ExactSteps = 20, order: int | None = None, *, denoise: bool = True) -> None:
        if order is None:
            order = 2 if stepping(steps, focused).steps < _THIRD else 3
        super().__init__(steps, order, Data(), corrector=True, denoise=denoise)


class DEIS(ExponentialMultistep):
    """tAB-DEIS: the noise by polynomials of t (Zhang & Chen 2023, arXiv:2204.13902).

    variable: what the polynomials are of; `level` makes it the rhoAB-DEIS.
    """

    def __init__(
        self,
        steps: Steps | ExactSteps = 20,
        order: int = 3,
        variable: Callable[[Tensor, Tensor], Tensor] = diffusion_time,
        *,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, Noise(variable), denoise=denoise)


class AdamsBashforth(ExponentialMultistep):
    """Adams and Bashforth's method in whitened coordinates; with the corrector Adams and Moulton's after it.

    data_std: of the data, about zero.
    """

    def __init__(
        self,
        steps: Steps | ExactSteps = 20,
        order: int = 2,
        data_std: float = 0.5,
        *,
        corrector: bool = False,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, Whitened(data_std=data_std), corrector=corrector, denoise=denoise)
