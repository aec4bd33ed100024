"""Weights of interpolation on a grid of unequal steps: what multistep methods and quadratures are made of; float64.

With Lagrange's polynomials l_k through nodes u_k,  int_a^b f du ~ sum_k f(u_k) int_a^b l_k du.
Under a weight there is no closed form: Gauss and Legendre's rule, and the polynomials at its points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def lagrange_integrals(nodes: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """int_a^b l_k du for each of the nodes: (*, m) with a, b of shape (*) to (*, m)."""
    m = nodes.shape[-1]
    # in units of the nodes' span about the interval's middle, lest powers of u cancel
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
    """l_k at points ``at`` (n,) for n sets of nodes (n, m), of which ``used`` (n, m) bool count: (n, m), 0 for the others."""
    m = nodes.shape[-1]
    both = used[:, :, None] & used[:, None, :] & ~torch.eye(m, dtype=torch.bool)
    apart = torch.where(both, nodes[:, :, None] - nodes[:, None, :], 1.0)
    offset = torch.where(both, at[:, None, None] - nodes[:, None, :], 1.0)
    return torch.where(used, (offset / apart).prod(-1), 0.0)


def gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Points and weights of the rule on (0, 1), float64: exact for polynomials of degree 2 points - 1."""
    x, w = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(0.5 * (1.0 + x)), torch.from_numpy(0.5 * w)


@dataclass(frozen=True)
class Increments:
    """int over each interval of a grid by the polynomial through the ``points`` nodes about it, fewer where the grid has fewer.

    first: (n,) number of the first node of interval i's stencil. weights: (n, points).
    """

    first: list[int]
    weights: Tensor

    @classmethod
    def of(cls, u: Tensor, points: int) -> Increments:
        """The weights on the grid u (n + 1,)."""
        n, points = len(u) - 1, min(points, len(u))
        first = (torch.arange(n) - (points - 2) // 2).clamp(0, n + 1 - points)
        stencil = u[first[:, None] + torch.arange(points)]
        return cls(first.tolist(), lagrange_integrals(stencil, u[:-1], u[1:]))

    @property
    def points(self) -> int:
        """Nodes of a stencil."""
        return self.weights.shape[1]

    def total(self) -> Tensor:
        """(n + 1,) weights of the integral over the whole grid."""
        n = len(self.first)
        total = torch.zeros(n + 1, dtype=torch.float64)
        where = torch.tensor(self.first)[:, None] + torch.arange(self.points)
        return total.index_add(0, where.flatten(), self.weights.flatten())


def adams(u: Tensor, order: int) -> tuple[list[Tensor], list[Tensor]]:
    """Predictor and corrector weights for each interval (i - 1, i) of the grid u (n + 1,), i = 1 .. n.

    The predictor integrates the polynomial through the last min(i, order) nodes before i, the corrector that through i too;
    weights are in the order of the nodes.
    """
    predictors: list[Tensor] = []
    correctors: list[Tensor] = []
    n = len(u) - 1
    full = min(n, order)
    for k in range(1, full + 1):  # all intervals with a whole stencil at once, those before one by one
        i = torch.arange(k, n + 1 if k == full else k + 1)
        stencil = u[i[:, None] + torch.arange(-k, 1)]
        predictors += lagrange_integrals(stencil[:, :-1], u[i - 1], u[i]).unbind()
        correctors += lagrange_integrals(stencil, u[i - 1], u[i]).unbind()
    return predictors, correctors
