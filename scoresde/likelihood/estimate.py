"""The integration error that `Multistep` states, from what it has evaluated anyway.

With d_i the jump of the path at node i, p_i = R_i^T score_i, and D the number of coordinates, the error is

    e^2 = 1/4 sum_i (p_i . d_i)^2 + 1/4 sum_i |p_i|^2 |d_i|^2 / D                    path, first order
          + (4 sum_i |d_i|^2 max(|tr H_i|, |p_i|^2) / 2D)^2                          path, second order
          + sum_i (p_i . (r_i - r'_i))^2                                             rise of the path, not resolved
          + sum_i (q_i - q'_i)^2                                                     quadrature of g, not resolved

Here p_i is the whole score; where the correction takes a part of it only (step 3 of `Multistep`), the rest of its terms is added.
The first two terms are the correction itself and its size for a jump of random direction: the product with the score can
vanish by accident where the jump does not. H_i is the Hessian of log p in the whitened state, whose trace the divergence
knows. r_i and q_i are the integrals of f and g over an interval by the cubic through four nodes, r'_i and q'_i by the
quadratic through three of them. On a fine grid the first line remains, and is more than the error. On a coarse one the
others are of the error's size. `benchmarks/likelihood_honesty.py` compares with known errors.

Random probes add noise to q_i - q'_i. Twice its expectation is subtracted: noise is `trace_error`, and more nodes in the
same places do not remove it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde.likelihood.divergence import Divergence
from scoresde.solvers.quadrature import Increments

_FIRST = 0.25
_SECOND = 4.0
_NOISE = 2.0


@dataclass
class PathError:
    """Sums over the intervals of a path. coordinates: D. Each sum is (B,) or 0 before the first interval."""

    coordinates: int
    squares: Tensor | float = field(default=0.0)
    second: Tensor | float = field(default=0.0)

    def add(self, pull: Tensor, trust: Tensor, jump: Tensor, unresolved: Tensor, hessian: Tensor) -> None:
        """Add an interval.

        Args:
            pull: R^T score at its end times its trust, (B, *state).
            trust: the part of the score that the correction takes, in (0, 1], (B,).
            jump: the jump there, (B, *state).
            unresolved: rise by the cubic less rise by the quadratic, (B, *state).
            hessian: tr H there, (B,).
        """
        pull, trust, jump = pull.detach(), trust.detach(), jump.detach()
        size, steepness = dot(jump, jump), dot(pull, pull)
        along = dot(pull, jump) / trust
        first = along**2 + size * steepness / trust**2 / self.coordinates
        left = ((1.0 - trust) * along) ** 2 + (dot(pull, unresolved.detach()) / trust) ** 2
        self.squares = self.squares + _FIRST * first + left
        bend = torch.maximum(hessian.detach().abs(), steepness)
        self.second = self.second + 0.5 * size * bend / self.coordinates

    def square(self) -> Tensor:
        """e^2 without the quadrature, (B,)."""
        return torch.as_tensor(self.squares + (_SECOND * self.second) ** 2)


def between_orders(u: Tensor, points: int) -> Tensor:
    """Weights of the integral over each interval by ``points`` nodes less that by one node fewer.

    Args:
        u: nodes, (n + 1,), rising.
        points: nodes of the higher order's stencil.

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
    """sum_i (q_i - q'_i)^2 less what the probes' noise adds to it.

    Args:
        u: nodes, (n + 1,).
        points: nodes of the quadrature's stencil.
        g: values at the nodes, (n + 1, B).
        noise: variance of each value by the probes, (n + 1, B); None where there is no noise.

    Returns:
        (B,) float64, >= 0.
    """
    stencils, weights = Increments.of(u, points), between_orders(u, points).to(g)
    where = torch.tensor(stencils.first, device=g.device)[:, None] + torch.arange(stencils.points, device=g.device)
    square = (weights[:, :, None] * g[where]).sum(1).square().sum(0)
    if noise is None:
        return square
    return (square - _NOISE * (weights[:, :, None].square() * noise[where]).sum((0, 1))).clamp(min=0.0)


def probe_variances(divergence: Divergence, estimates: list[Tensor], u: Tensor, d: int) -> Tensor:
    """Variance (n, B) of the mean estimate at each node, for probes that differ from node to node.

    Several estimates at a node show their variance. A single one is compared with the line through its neighbours: with
    independent errors the difference has the variance of all three, weighted, and the bend of the values on top.
    """
    means = torch.stack([e.mean(0) for e in estimates])
    left, right = (u[1:-1] - u[:-2])[:, None], (u[2:] - u[1:-1])[:, None]
    a, b = right / (left + right), left / (left + right)
    apart = (means[1:-1] - a * means[:-2] - b * means[2:]) ** 2 / (1.0 + a**2 + b**2)
    apart = torch.cat((apart[:1], apart, apart[-1:]))
    return torch.stack([divergence.variance(e, d) if len(e) > 1 else apart[i] for i, e in enumerate(estimates)])


def trace_error(
    divergence: Divergence, estimates: list[Tensor], weights: Tensor, noise: Tensor | None, d: int
) -> Tensor:
    """Standard error (B,) of the quadrature by the probes.

    Args:
        divergence: what made the estimates.
        estimates: for each node (E, B).
        weights: of the quadrature, (n,).
        noise: variances at the nodes, (n, B), or None for the exact divergence and for fixed probes.
        d: coordinates.
    """
    if noise is not None:
        return (weights**2 @ noise).sqrt()
    if divergence.exact:
        return torch.zeros_like(estimates[0][0])
    if len(estimates[0]) == 1:
        return torch.full_like(estimates[0][0], torch.nan)
    whole = torch.stack([w * e for w, e in zip(weights, estimates, strict=True)]).sum(0)
    return divergence.variance(whole, d).sqrt()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(B,) inner products."""
    return (a * b).reshape(len(a), -1).sum(1)
