"""Steps of exponential integrators, all coefficients in float64 before the first: the integral of `parameterization.py`,

    y_b = P(b, a) y_a + (1 + eta^2) int_a^b P(b, u) K(u) sum_k N_k l_k(u) du + noise,

with Lagrange's polynomials l_k through the places where the prediction N was evaluated, by Gauss and Legendre's rule: exact to
rounding, at any order and on any grid, without a formula for each method.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.samplers.base import CountedScore
from scoresde.samplers.exponential.parameterization import Parameterization
from scoresde.sde import LinearMap, LinearSDE, ScalarMap, Score
from scoresde.solvers.quadrature import gauss_legendre, lagrange

_POINTS = 8
"""Of the quadrature, and two more for each unit of u in the longest step: what is left out is below 1e-12."""

Factor = float | LinearMap
"""A number, or a map in the state's dtype."""


def combine(terms: Iterable[tuple[Factor, Tensor]]) -> Tensor:
    """The sum of factors times tensors, a new tensor."""
    total: Tensor | None = None
    for factor, value in terms:
        if isinstance(factor, float):
            total = value * factor if total is None else total.add_(value, alpha=factor)
        else:
            total = factor(value) if total is None else total.add_(factor(value))
    assert total is not None
    return total


def factors(maps: LinearMap, like: Tensor, count: int) -> list[Factor]:
    """The maps of a batch of ``count``, numbers as numbers, in the dtype and on the device of ``like``."""
    if isinstance(maps, ScalarMap):
        return list(maps.c.expand(count).tolist())
    return [maps[k].to(like) for k in range(count)]


@dataclass(frozen=True)
class Nodes:
    """Places in time: u and t, both (n,) float64."""

    u: Tensor
    t: Tensor

    @classmethod
    def at(cls, sde: LinearSDE, t: Tensor) -> Nodes:
        """The places of times. Raises ValueError for one without noise."""
        u = sde.log_spread(t)
        if not bool(torch.isfinite(u).all()):
            raise ValueError(
                f"the grid ends at t={float(t[-1]):g}, where {sde!r} has no noise: end it above, at t_min > 0"
            )
        return cls(u, t)

    def __getitem__(self, k: slice) -> Nodes:
        return Nodes(self.u[k], self.t[k])

    def towards(self, sde: LinearSDE, other: Nodes, share: float) -> Nodes:
        """A share of the way in u from here to ``other``."""
        if share == 0.0 or share == 1.0:
            return other if share else self
        u = (1.0 - share) * self.u + share * other.u
        return Nodes(u, sde.time_of_log_spread(u))


@dataclass(frozen=True)
class Rule:
    """y_b = propagator y_a + sum_k weights[k] N_k + noise_scale z for each of n steps: lists of n factors."""

    propagator: list[Factor]
    weights: list[list[Factor]]
    noise_scale: list[Factor] | None

    def __call__(self, i: int, y: Tensor, predictions: Iterable[Tensor]) -> Tensor:
        """Step i without its noise; predictions beyond the rule's are left out, and weights beyond the predictions."""
        return combine([(self.propagator[i], y), *zip(self.weights[i], predictions, strict=False)])


@dataclass(frozen=True)
class Intervals:
    """n steps as the integral has them: at quadrature points u, t (p, n), maps ``shares`` = (1 + eta^2) P K du, p of n each."""

    parameterization: Parameterization
    u: Tensor
    t: Tensor
    shares: list[LinearMap]
    propagator: LinearMap
    noise_scale: LinearMap | None

    @classmethod
    def of(cls, sde: LinearSDE, parameterization: Parameterization, eta: float, start: Nodes, end: Nodes) -> Intervals:
        """The steps from ``start`` (n) to ``end``."""
        width = end.u - start.u
        x, w = gauss_legendre(_POINTS + int(2.0 * float(width.abs().max())))
        u = start.u + x[:, None] * width
        t = sde.time_of_log_spread(u.flatten()).reshape(u.shape)
        propagator, *propagators = parameterization.propagators(sde, eta, [start.t, *t, end.t])
        shares = [
            p.compose(parameterization.slope(sde, t[j])).times((1.0 + eta**2) * w[j] * width)
            for j, p in enumerate(propagators)
        ]
        return cls(
            parameterization, u, t, shares, propagator, parameterization.noise(sde, eta, start.t, end.t, propagator)
        )

    def rule(self, nodes: list[Nodes], used: Tensor, like: Tensor) -> Rule:
        """The steps by the polynomials through ``nodes``, of which ``used`` (n, m) count."""
        n, m = used.shape
        places = torch.stack([self.parameterization.variable(v.u, v.t) for v in nodes], -1)
        sums: list[LinearMap | None] = [None] * m
        for u, t, share in zip(self.u, self.t, self.shares, strict=True):
            values = lagrange(places, used, self.parameterization.variable(u, t))
            for k in range(m):
                part, sofar = share.times(values[:, k]), sums[k]
                sums[k] = part if sofar is None else sofar.add(part)
        columns = [factors(total, like, n) for total in sums if total is not None]
        return Rule(
            factors(self.propagator, like, n),
            [list(row) for row in zip(*columns, strict=True)],
            None if self.noise_scale is None else factors(self.noise_scale, like, n),
        )


@dataclass(frozen=True)
class Evaluation:
    """The prediction N = p y + q score(m + y, t) at one time; t (B,), centre m (1, *state) or None for 0."""

    t: Tensor
    on_state: Factor | None
    on_score: Factor
    centre: Tensor | None

    def __call__(self, score: Score, y: Tensor) -> Tensor:
        value = score(self.state(y), self.t)
        return combine(
            ((self.on_score, value),) if self.on_state is None else ((self.on_state, y), (self.on_score, value))
        )

    def state(self, y: Tensor) -> Tensor:
        """m + y."""
        return y if self.centre is None else y + self.centre


def evaluations(sde: LinearSDE, parameterization: Parameterization, times: Tensor, like: Tensor) -> list[Evaluation]:
    """One for each of the times (n,), for states like ``like`` (B, *state)."""
    n = len(times)
    on_state, on_score = parameterization.prediction(sde, times)
    states = [None] * n if on_state is None else factors(on_state, like, n)
    scores, middle = factors(on_score, like, n), centres(sde, times, like)
    at = [t.expand(len(like)) for t in times.to(like).unbind()]
    return [Evaluation(at[k], states[k], scores[k], middle[k]) for k in range(n)]


def centres(sde: LinearSDE, times: Tensor, like: Tensor) -> list[Tensor] | list[None]:
    """m at each of the times (n,), (1, *state); None where the process has no shift."""
    kernel = sde.kernel(times)
    if kernel.centred is kernel:
        return [None] * len(times)
    origin = torch.zeros(1, *like.shape[1:], dtype=torch.float64)
    return [sde.kernel(t).mean(origin).to(like) for t in times]


def linear(sde: object, sampler: object) -> LinearSDE:
    """The process in continuous time. Raises TypeError where it is not linear."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(
            f"sde={sde!r} has no closed-form kernel, which {type(sampler).__name__} needs: use ProbabilityFlowODE, "
            "ReverseSDESampler or AdaptiveSDE"
        )
    return sde.continuous


def finish(sde: LinearSDE, score: CountedScore, x: Tensor, t: Tensor, denoise: bool) -> Tensor:
    """x, or E[x_0 | x] where ``denoise``."""
    if not denoise:
        return x
    at = t.expand(len(x))
    return sde.data_from_score(x, at, score(x, at))
