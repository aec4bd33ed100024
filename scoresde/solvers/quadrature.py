"""Weights of polynomial interpolation on nonuniform grids, for multistep methods and quadratures, in float64.

With the Lagrange polynomials l_k of the nodes u_k, int_a^b f du is approximated by sum_k f(u_k) int_a^b l_k du. With a
weight function the integrals have no closed form. Then the polynomials are evaluated at the points of a Gauss-Legendre
rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def lagrange_integrals(nodes: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The integrals of l_k from a to b: (*, m) for nodes (*, m) and a, b of shape (*)."""
    m = nodes.shape[-1]
    # in units of the span of the nodes around the middle of the interval, so that powers of u do not cancel
    middle = 0.5 * (a + b)
    unit = (nodes - middle[..., None]).abs().amax(-1)
    x = (nodes - middle[..., None]) / unit[..., None]
    powers = torch.arange(m, dtype=torch.float64)
    vandermonde = x[..., None, :] ** powers[:, None]
    half = (0.5 * (b - a) / unit)[..., None]
    moments = torch.where(powers % 2 == 0, 2.0 * half ** (powers + 1) / (powers + 1), 0.0)
    out: Tensor = torch.linalg.solve(vandermonde, moments[..., None])[..., 0] * unit[..., None]
    return out


def lagrange(nodes: Tensor, used: Tensor, at: Tensor) -> Tensor:
    """l_k at the points ``at`` (n,) for n sets of nodes (n, m): (n, m), and 0 for nodes where ``used`` (n, m) is False."""
    m = nodes.shape[-1]
    both = used[:, :, None] & used[:, None, :] & ~torch.eye(m, dtype=torch.bool)
    apart = torch.where(both, nodes[:, :, None] - nodes[:, None, :], 1.0)
    offset = torch.where(both, at[:, None, None] - nodes[:, None, :], 1.0)
    return torch.where(used, (offset / apart).prod(-1), 0.0)


def gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Points and weights of the Gauss-Legendre rule on (0, 1), exact for polynomials of degree 2 points - 1."""
    x, w = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(0.5 * (1.0 + x)), torch.from_numpy(0.5 * w)


@dataclass(frozen=True)
class Increments:
    """Weights of the integral over each interval of a grid, with the polynomial through the ``points`` nodes around it.

    Attributes:
        first: Index of the first node of each interval's stencil, of length n.
        weights: Weights of the nodes of each stencil, of shape ``(n, points)``. A grid with fewer nodes has fewer
            points.
    """

    first: list[int]
    weights: Tensor

    @classmethod
    def of(cls, u: Tensor, points: int) -> Increments:
        """The weights for the grid u (n + 1,)."""
        n, points = len(u) - 1, min(points, len(u))
        first = (torch.arange(n) - (points - 2) // 2).clamp(0, n + 1 - points)
        stencil = u[first[:, None] + torch.arange(points)]
        return cls(first.tolist(), lagrange_integrals(stencil, u[:-1], u[1:]))

    @property
    def points(self) -> int:
        """Number of nodes of a stencil."""
        return self.weights.shape[1]

    def total(self) -> Tensor:
        """The weights of the integral over the whole grid, of shape ``(n + 1,)``."""
        n = len(self.first)
        total = torch.zeros(n + 1, dtype=torch.float64)
        where = torch.tensor(self.first)[:, None] + torch.arange(self.points)
        return total.index_add(0, where.flatten(), self.weights.flatten())


def adams(u: Tensor, order: int) -> tuple[list[Tensor], list[Tensor]]:
    """Predictor and corrector weights for each interval (i - 1, i) of the grid u (n + 1,), i = 1 .. n.

    The predictor integrates the polynomial through the last min(i, order) nodes before i. The corrector integrates the
    polynomial through these nodes and i. Weights are in the order of the nodes.
    """
    predictors: list[Tensor] = []
    correctors: list[Tensor] = []
    n = len(u) - 1
    full = min(n, order)
    for k in range(1, full + 1):  # all intervals with a full stencil at once, earlier ones one by one
        i = torch.arange(k, n + 1 if k == full else k + 1)
        stencil = u[i[:, None] + torch.arange(-k, 1)]
        predictors += lagrange_integrals(stencil[:, :-1], u[i - 1], u[i]).unbind()
        correctors += lagrange_integrals(stencil, u[i - 1], u[i]).unbind()
    return predictors, correctors
