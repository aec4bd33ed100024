r"""Coefficients of the steps of exponential integrators, in float64, computed before the first step.

With Lagrange's polynomials l_k through the times at which the prediction N was evaluated, the integral of
``parameterization.py`` becomes

.. math:: y_b = P(b, a)\, y_a + \sum_k w_k N_k + z, \qquad w_k = (1 + \eta^2) \int_{u_a}^{u_b} P(b, u)\, K(u)\, l_k(u)\, du.

The weights w_k are computed by Gauss-Legendre quadrature. They are exact to rounding for any order and any grid,
without a separate formula for each method.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.samplers.base import CountedScore
from scoresde.samplers.exponential.parameterization import Parameterization
from scoresde.sde import LinearMap, LinearSDE, ScalarMap, Score
from scoresde.sde.base import check_gaussian
from scoresde.solvers.quadrature import gauss_legendre, lagrange

_POINTS = 8
"""Number of quadrature points, plus two for each unit of u in the longest step. The error is below 1e-12."""

Factor = float | LinearMap
"""A number, or a linear map in the dtype of the state."""


def combine(terms: Iterable[tuple[Factor, Tensor]]) -> Tensor:
    """The sum of factors times tensors, as a new tensor."""
    total: Tensor | None = None
    for factor, value in terms:
        if isinstance(factor, float):
            total = value * factor if total is None else total.add_(value, alpha=factor)
        else:
            total = factor(value) if total is None else total.add_(factor(value))
    assert total is not None
    return total


def factors(maps: LinearMap, like: Tensor, count: int) -> list[Factor]:
    """A batch of ``count`` maps as a list, in the dtype and on the device of ``like``. Scalar maps become floats."""
    if isinstance(maps, ScalarMap):
        return list(maps.c.expand(count).tolist())
    return [maps[k].to(like) for k in range(count)]


@dataclass(frozen=True)
class Nodes:
    """Times and their log spreads.

    Attributes:
        u: (n,) float64, log spread of the process.
        t: (n,) float64.
    """

    u: Tensor
    t: Tensor

    @classmethod
    def at(cls, sde: LinearSDE, t: Tensor) -> Nodes:
        """The nodes at times. Raises ValueError if the process has no noise at one of them."""
        u = sde.log_spread(t)
        if not bool(torch.isfinite(u).all()):
            raise ValueError(
                f"the grid ends at t={float(t[-1]):g}, where {sde!r} has no noise: give a grid that ends at t_min > 0"
            )
        return cls(u, t)

    def __getitem__(self, k: slice) -> Nodes:
        return Nodes(self.u[k], self.t[k])

    def towards(self, sde: LinearSDE, other: Nodes, share: float) -> Nodes:
        """The nodes (1 - share) u + share u', for the log spreads u' of ``other``."""
        if share == 0.0 or share == 1.0:
            return other if share else self
        u = (1.0 - share) * self.u + share * other.u
        return Nodes(u, sde.time_of_log_spread(u))


@dataclass(frozen=True)
class Rule:
    """Coefficients of n steps: y_b = propagator y_a + sum_k weights[k] N_k + noise_scale z.

    Attributes:
        propagator: n factors.
        weights: n lists of factors, one for each prediction.
        noise_scale: n factors; None for the probability flow.
    """

    propagator: list[Factor]
    weights: list[list[Factor]]
    noise_scale: list[Factor] | None

    def __call__(self, i: int, y: Tensor, predictions: Iterable[Tensor]) -> Tensor:
        """Step i without its noise. Surplus predictions and surplus weights are ignored."""
        return combine([(self.propagator[i], y), *zip(self.weights[i], predictions, strict=False)])


@dataclass(frozen=True)
class Intervals:
    """The integrals of n steps, at p quadrature points each.

    Attributes:
        parameterization: The parameterization.
        u: (p, n), log spreads of the quadrature points.
        t: (p, n), times of the quadrature points.
        kernels: p batches of n maps, (1 + eta^2) P K times the quadrature weight.
        propagator: P of the n steps.
        noise_scale: Root of the covariance of the noise of each step; None for the probability flow.
    """

    parameterization: Parameterization
    u: Tensor
    t: Tensor
    kernels: list[LinearMap]
    propagator: LinearMap
    noise_scale: LinearMap | None

    @classmethod
    def of(cls, sde: LinearSDE, parameterization: Parameterization, eta: float, start: Nodes, end: Nodes) -> Intervals:
        """The steps from the n nodes ``start`` to the n nodes ``end``."""
        width = end.u - start.u
        x, w = gauss_legendre(_POINTS + int(2.0 * float(width.abs().max())))
        u = start.u + x[:, None] * width
        t = sde.time_of_log_spread(u.flatten()).reshape(u.shape)
        propagator, *propagators = parameterization.propagators(sde, eta, [start.t, *t, end.t])
        kernels = [
            p.compose(parameterization.coefficient(sde, t[j])).times((1.0 + eta**2) * w[j] * width)
            for j, p in enumerate(propagators)
        ]
        return cls(
            parameterization,
            u,
            t,
            kernels,
            propagator,
            parameterization.noise_scale(sde, eta, start.t, end.t, propagator),
        )

    def rule(self, nodes: list[Nodes], used: Tensor, like: Tensor) -> Rule:
        """The coefficients for polynomials through given nodes.

        Args:
            nodes: m sets of n nodes: for each step, the times of m predictions.
            used: (n, m) bool, whether the polynomial of a step goes through the prediction.
            like: A state. The coefficients have its dtype and device.
        """
        n, m = used.shape
        places = torch.stack([self.parameterization.variable(v.u, v.t) for v in nodes], -1)
        sums: list[LinearMap | None] = [None] * m
        for u, t, kernel in zip(self.u, self.t, self.kernels, strict=True):
            values = lagrange(places, used, self.parameterization.variable(u, t))
            for k in range(m):
                part, sofar = kernel.times(values[:, k]), sums[k]
                sums[k] = part if sofar is None else sofar.add(part)
        columns = [factors(total, like, n) for total in sums if total is not None]
        return Rule(
            factors(self.propagator, like, n),
            [list(row) for row in zip(*columns, strict=True)],
            None if self.noise_scale is None else factors(self.noise_scale, like, n),
        )


@dataclass(frozen=True)
class Evaluation:
    """Evaluates the prediction N = p y + q score(m + y, t) at one time.

    Attributes:
        t: (B,), the time.
        on_state: p; None if it is zero.
        on_score: q.
        center: (1, *state), m; None if it is zero.
    """

    t: Tensor
    on_state: Factor | None
    on_score: Factor
    center: Tensor | None

    def __call__(self, score: Score, y: Tensor) -> Tensor:
        value = score(self.state(y), self.t)
        return combine(
            ((self.on_score, value),) if self.on_state is None else ((self.on_state, y), (self.on_score, value))
        )

    def state(self, y: Tensor) -> Tensor:
        """The state m + y."""
        return y if self.center is None else y + self.center

    def centered(self, x: Tensor) -> Tensor:
        """y = x - m of the state x."""
        return x if self.center is None else x - self.center


def evaluations(sde: LinearSDE, parameterization: Parameterization, times: Tensor, like: Tensor) -> list[Evaluation]:
    """An `Evaluation` for each of the times (n,), for states like ``like`` (B, *state)."""
    n = len(times)
    on_state, on_score = parameterization.prediction(sde, times)
    states = [None] * n if on_state is None else factors(on_state, like, n)
    scores, middle = factors(on_score, like, n), centers(sde, times, like)
    at = [t.expand(len(like)) for t in times.to(like).unbind()]
    return [Evaluation(at[k], states[k], scores[k], middle[k]) for k in range(n)]


def centers(sde: LinearSDE, times: Tensor, like: Tensor) -> list[Tensor] | list[None]:
    """m (1, *state) at each of the times (n,); None if the process has no shift."""
    kernel = sde.kernel(times)
    if kernel.centered is kernel:
        return [None] * len(times)
    origin = torch.zeros(1, *like.shape[1:], dtype=torch.float64)
    return [sde.kernel(t).mean(origin).to(like) for t in times]


def linear_process(sde: object, user: str) -> LinearSDE:
    """The process in continuous time. Raises TypeError if it is not linear; ``user`` is named in the message."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(
            f"sde={sde!r} has no closed-form kernel, which {user} needs: use ProbabilityFlowODE, "
            "ReverseSDESampler or AdaptiveSDE"
        )
    check_gaussian(sde, user)
    return sde.continuous


def finish(sde: LinearSDE, score: CountedScore, x: Tensor, t: Tensor, denoise: bool) -> Tensor:
    """The result of a sampler: E[x_0 | x] if ``denoise``, otherwise x."""
    if not denoise:
        return x
    at = t.expand(len(x))
    return sde.data_from_score(x, at, score(x, at))
