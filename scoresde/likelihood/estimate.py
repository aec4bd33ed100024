"""The integration error that ``Multistep`` states, estimated from the values that it has computed already.

Let d_i be the jump of the path at node i, p_i = R_i^T score_i, and D the number of coordinates. The stated error is ::

    e^2 = 1/4 sum_i (p_i . d_i)^2 + 1/4 sum_i |p_i|^2 |d_i|^2 / D                    path, first order
          + (4 sum_i |d_i|^2 max(|tr H_i|, |p_i|^2) / 2D)^2                          path, second order
          + sum_i (p_i . (r_i - r'_i))^2                                             rise of the path, not resolved
          + sum_i (q_i - q'_i)^2                                                     quadrature of g, not resolved

Here p_i is the complete score. If the correction uses only a part of it (step 3 of ``Multistep``), the remaining part of its
terms is added. The first two terms are the correction itself and its size for a jump in a random direction, because the
product with the score can vanish by accident although the jump does not. H_i is the Hessian of log p in the whitened state.
Its trace is available from the divergence. r_i and q_i are the integrals of f and g over an interval by the cubic through
four nodes, r'_i and q'_i by the quadratic through three of them. On a fine grid the first line dominates and is larger than
the true error. On a coarse grid the other lines are about as large as the true error. ``benchmarks/likelihood_honesty.py``
compares the estimate with known errors.

Random probes add noise to q_i - q'_i. Twice the expectation of this noise is subtracted, because ``trace_error`` states it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.likelihood.divergence import Divergence
from scoresde.solvers.quadrature import Increments

_FIRST = 0.25
_SECOND = 4.0
_NOISE = 2.0


@dataclass(frozen=True)
class Estimates:
    """Estimates of minus the divergence at n nodes. Nodes with the same number of estimates form a group.

    Args:
        groups: The nodes of each group, and their estimates (E, nodes, B), float64.
    """

    groups: list[tuple[list[int], Tensor]]

    @classmethod
    def of(cls, estimates: list[Tensor]) -> Estimates:
        """Group the estimates (E, B) of each node."""
        counts = sorted({len(e) for e in estimates})
        rows = [[i for i, e in enumerate(estimates) if len(e) == count] for count in counts]
        return cls([(group, torch.stack([estimates[i] for i in group], dim=1)) for group in rows])

    def each(self, function: Callable[[list[int], Tensor], Tensor]) -> Tensor:
        """Apply a function of some nodes and their estimates (E, nodes, B); returns (n, B) in the order of the nodes."""
        parts = [function(rows, values) for rows, values in self.groups]
        if len(parts) == 1:
            return parts[0]
        order = [i for rows, _ in self.groups for i in rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[torch.tensor(back, device=parts[0].device)]

    def means(self) -> Tensor:
        """The mean estimate at each node, (n, B)."""
        return self.each(lambda rows, values: values.mean(0))

    def stacked(self) -> Tensor:
        """(E, n, B), if all nodes have the same number of estimates."""
        ((_, values),) = self.groups
        return values


def path_square(gram: Tensor, trust: Tensor, hessian: Tensor, d: int) -> Tensor:
    """The terms of e^2 except the quadrature's.

    Args:
        gram: Inner products of R^T score at the end of an interval, the jump there, and the unresolved part (rise by the
            cubic minus rise by the quadratic), (n, B, 3, 3).
        trust: The part of the score that the correction uses, in (0, 1], (n, B).
        hessian: tr H there, (n, B).
        d: The number of coordinates D.

    Returns:
        (B,) nats^2.
    """
    steepness, along, size = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    first = along**2 + size * steepness / d
    left = ((1.0 - trust) * along) ** 2 + gram[..., 0, 2] ** 2
    bend = torch.maximum(hessian.abs(), trust**2 * steepness)
    second = (0.5 * size * bend / d).sum(0)
    return (_FIRST * first + left).sum(0) + (_SECOND * second) ** 2


def between_orders(u: Tensor, points: int) -> Tensor:
    """Weights of the difference between two quadratures: that with ``points`` nodes minus that with one node fewer.

    Args:
        u: Nodes, (n + 1,), increasing.
        points: Nodes of the stencil of the higher order.

    Returns:
        (n, points) weights for the stencils of ``Increments.of(u, points)``.
    """
    high, low = Increments.of(u, points), Increments.of(u, points - 1)
    weights = high.weights.clone()
    rows = torch.arange(len(weights))
    for k in range(low.points):
        weights[rows, torch.tensor(low.first) - torch.tensor(high.first) + k] -= low.weights[:, k]
    return weights if high.points > low.points else torch.zeros_like(weights)


def quadrature_square(u: Tensor, points: int, g: Tensor, noise: Tensor | None) -> Tensor:
    """sum_i (q_i - q'_i)^2 minus the contribution of the probes' noise.

    Args:
        u: Nodes, (n + 1,).
        points: Nodes of the quadrature's stencil.
        g: Values at the nodes, (n + 1, B).
        noise: Variance of each value due to the probes, (n + 1, B); None for values without noise.

    Returns:
        (B,) float64, >= 0.
    """
    stencils, weights = Increments.of(u, points), between_orders(u, points).to(g)
    where = torch.tensor(stencils.first, device=g.device)[:, None] + torch.arange(stencils.points, device=g.device)
    square = (weights[:, :, None] * g[where]).sum(1).square().sum(0)
    if noise is None:
        return square
    return (square - _NOISE * (weights[:, :, None].square() * noise[where]).sum((0, 1))).clamp(min=0.0)


def probe_variances(divergence: Divergence, estimates: Estimates, u: Tensor, d: int) -> Tensor:
    """Variance (n, B) of the mean estimate at each node, for probes that differ from node to node.

    Several estimates at a node give their variance directly. A single estimate is compared with the line through its two
    neighbors. With independent errors the difference has the weighted variance of all three. The curvature of the values is
    added to it."""
    means = estimates.means()
    left, right = (u[1:-1] - u[:-2])[:, None], (u[2:] - u[1:-1])[:, None]
    a, b = right / (left + right), left / (left + right)
    apart = (means[1:-1] - a * means[:-2] - b * means[2:]) ** 2 / (1.0 + a**2 + b**2)
    apart = torch.cat((apart[:1], apart, apart[-1:]))

    def variance(rows: list[int], values: Tensor) -> Tensor:
        if len(values) > 1:
            return divergence.variance(values.flatten(1), d).reshape(values.shape[1:])
        return apart if len(rows) == len(apart) else apart[torch.tensor(rows, device=apart.device)]

    return estimates.each(variance)


def trace_error(divergence: Divergence, estimates: Estimates, weights: Tensor, noise: Tensor | None, d: int) -> Tensor:
    """Standard error (B,) of the quadrature due to the probes.

    Args:
        divergence: The method that made the estimates.
        estimates: The estimates at the nodes.
        weights: Weights of the quadrature, (n,).
        noise: Variances at the nodes, (n, B); None for the exact divergence and for fixed probes.
        d: Number of coordinates.
    """
    if noise is not None:
        return (weights**2 @ noise).sqrt()
    values = estimates.stacked()
    if divergence.exact:
        return torch.zeros_like(values[0, 0])
    if len(values) == 1:
        return torch.full_like(values[0, 0], torch.nan)
    return divergence.variance((weights[:, None] * values).sum(1), d).sqrt()
