"""Sliced score matching (Hyvarinen 2005; Song, Garg, Shi, Ermon 2019, arXiv:1905.07088): no kernel is needed, only
draws of x_t.

    loss(x_0) = E_t E_(x_t) E_v  lambda(t) [ v^T (ds/dx) v + (v^T s)^2 / 2 ],      s = s(x_t, t),  E[v v^T] = I

and where ``variance_reduced`` the last term by its mean over v, ||s||^2 / 2. By parts, for p_t s -> 0 at infinity,

    E[div s + ||s||^2 / 2] = E ||s - grad log p_t||^2 / 2 - E ||grad log p_t||^2 / 2,

so in the mean the minimiser and the gradient are those of denoising score matching (its reduction "half_sum"). The value
may be negative, and one draw says less. x_t is the process's own `marginal_sample`: in closed form for a linear process,
simulated for another. Weightings:

    uniform      lambda = 1
    likelihood   lambda = g g^T:    v^T (dw/dx) v + s^T w / 2,  w = g g^T s;  in the mean ||g^T (s - grad log p_t)||^2 /
    2 - const
    a function   lambda(t), e.g. sde.sigma(t)^2: the denoising loss's "variance"

Directions v are signs (Rademacher): for a diagonal ds/dx the first term is exact. x_t must have a density: where the data
has none, begin at a t_min at which x_t has spread by more than the network can resolve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde._validation import check_choice, check_count
from scoresde.losses.base import Objective
from scoresde.losses.times import TimeDistribution
from scoresde.sde import SDE

WEIGHTINGS = ("uniform", "likelihood")


@dataclass(frozen=True)
class SlicedDraw:
    """What an objective drew for a batch: times (B,), noisy data (B, *state) and directions (projections, B, *state)."""

    t: Tensor
    x_t: Tensor
    directions: Tensor


class SlicedScoreMatching(Objective[SDE]):
    """``loss(model, x0)`` -> (B,), one unbiased estimate of the objective for each example.

    sde: any process, linear or not, or a chain.
    projections: number of directions v for each example, averaged; each costs a vector-Jacobian product.
    variance_reduced: take ||s||^2 in place of (v^T s)^2.
    times: the distribution of t; ``UniformTime()`` for a process, ``ChainTimes()`` for a chain, unless given.
    weighting: "uniform", "likelihood", or a function of t (B,) -> (B,).
    seed: of the draws. Call k without ``step`` uses step k, so that a loop draws afresh each time.

    Differentiable in the model's parameters: the model must be differentiable twice.
    """

    def __init__(
        self,
        sde: SDE,
        projections: int = 1,
        *,
        variance_reduced: bool = True,
        times: TimeDistribution | None = None,
        weighting: str | Callable[[Tensor], Tensor] = "uniform",
        seed: int = 0,
    ) -> None:
        check_count("projections", projections)
        if not callable(weighting):
            check_choice("weighting", weighting, WEIGHTINGS)
        super().__init__(sde, times, seed)
        self.projections, self.variance_reduced, self.weighting = projections, variance_reduced, weighting

    def __call__(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        *,
        t: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
        **condition: Any,
    ) -> Tensor:
        """The loss of each example, (B,).

        model: a score, (x, t, **condition) -> the shape of x.
        x0: (B, *event) data.
        t: (B,), drawn unless given.
        step, indices: key of the draws; the number of this call and 0 .. B-1 unless given.
        """
        return self.evaluate(model, self.draw(x0, t=t, step=step, indices=indices), **condition)

    def draw(
        self,
        x0: Tensor,
        *,
        t: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
    ) -> SlicedDraw:
        """Times, noisy data and directions for a batch; those of a linear process are those of the denoising loss."""
        source, step = self._keyed(x0, t, step, indices)
        t = self._times(x0, source, step) if t is None else t
        x_t = self.sde.marginal_sample(x0, t, source, step=step)
        shape = (self.projections, *x_t.shape[1:])
        signs = source.rademacher(shape, step=step, purpose="projection", dtype=x_t.dtype)
        return SlicedDraw(t, x_t, signs.transpose(0, 1))

    def evaluate(self, model: Callable[..., Tensor], draw: SlicedDraw, **condition: Any) -> Tensor:
        """The loss of each example, (B,), for a given draw."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = draw.x_t.detach().requires_grad_(True)
            with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
                score = self._score(model, x, draw.t, condition)
            weighted = self._weighted(score, draw.t, x)
            trace = torch.stack([_dot(v, _product(weighted, x, v, graph)) for v in draw.directions]).mean(0)
            if self.variance_reduced:
                square = _dot(score, weighted)
            else:
                square = torch.stack([_dot(score, self._root(v, draw.t, x)) ** 2 for v in draw.directions]).mean(0)
            loss = self._weight(draw.t) * (trace + 0.5 * square)
        return loss if graph else loss.detach()

    def _weight(self, t: Tensor) -> Tensor:
        """lambda over the density of t, without what belongs inside the derivative."""
        weight = 1.0 / self.times.density(self.sde, t)
        if not callable(self.weighting):
            return weight
        given = self.weighting(t)
        if given.shape != t.shape:
            raise ValueError(f"weighting returned shape {tuple(given.shape)} for t of shape {tuple(t.shape)}")
        return weight * given

    def _weighted(self, score: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """w."""
        return self.sde.apply_diffusion_matrix(score, t, x) if self.weighting == "likelihood" else score

    def _root(self, v: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """g v where w = g g^T s, v where w = s: s^T of it is v^T g^T s."""
        return self.sde.apply_diffusion(v, t, x) if self.weighting == "likelihood" else v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for each example, (B,)."""
    return (a * b).reshape(len(a), -1).sum(1)


def _product(y: Tensor, x: Tensor, v: Tensor, graph: bool) -> Tensor:
    """v^T dy/dx, the shape of x; zero where y does not depend on x."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]
