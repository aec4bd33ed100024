r"""Sliced score matching (Hyvarinen 2005; Song, Garg, Shi, Ermon 2019, arXiv:1905.07088).

It needs samples of x_t only, and no kernel.

.. math::
    \ell(x_0) = E_t \, E_{x_t} \, E_v \; \lambda(t) \, [\, v^T (\partial s / \partial x) \, v + (v^T s)^2 / 2 \,],
    \qquad s = s(x_t, t), \quad E[v v^T] = I

With ``variance_reduced`` the last term is replaced by its mean over v, ||s||^2 / 2. Integration by parts gives, if p_t s ->
0 at infinity, ::

    E[div s + ||s||^2 / 2] = E ||s - grad log p_t||^2 / 2 - E ||grad log p_t||^2 / 2

so that the expected minimizer and gradient are those of denoising score matching with the reduction "half_sum". The value
may be negative, and a single draw is noisier. x_t is drawn by the process's own ``marginal_sample``: in closed form for a
linear process, by simulation for others. The weightings are

- "uniform": lambda = 1.
- "likelihood": lambda = g g^T, so that the loss is v^T (dw/dx) v + s^T w / 2 with w = g g^T s. On average it is
  ||g^T (s - grad log p_t)||^2 / 2 - const.
- a function lambda(t), e.g. sde.sigma(t)^2, which is the "variance" of the denoising loss.

The directions v are random signs (Rademacher), for which the first term is exact if ds/dx is diagonal. x_t must have a
density. If the data has none, choose a t_min at which x_t has spread by more than the network can resolve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde._validation import check_choice, check_count
from scoresde.losses.base import SDEObjective
from scoresde.losses.times import TimeDistribution
from scoresde.noise import NoiseSource
from scoresde.sde import SDE

WEIGHTINGS = ("uniform", "likelihood")


@dataclass(frozen=True)
class SlicedDraw:
    """Random draws of an objective for a batch.

    Attributes:
        t: Times, (B,).
        x_t: Noisy data, (B, *state).
        directions: Directions v, (projections, B, *state).
    """

    t: Tensor
    x_t: Tensor
    directions: Tensor


class SlicedScoreMatching(SDEObjective[SDE]):
    """Sliced score matching: ``loss(model, x0)`` is an unbiased estimate of the objective for each example, (B,).

    The loss is differentiable in the model's parameters. The model must be twice differentiable.

    Args:
        sde: Any process, linear or not, or a chain.
        projections: Number of directions v for each example. Their terms are averaged. Each costs a vector-Jacobian product.
        variance_reduced: Use ||s||^2 in place of (v^T s)^2.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        weighting: "uniform", "likelihood", or a function of t (B,) -> (B,).
        seed: Seed of the random draws. Call k without ``step`` uses step k, so that every step of a training loop has new
            draws.

    References:
        Song, Garg, Shi, Ermon 2019, "Sliced score matching: a scalable approach to density and score estimation",
        arXiv:1905.07088.
    """

    second_derivatives = True

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
        """Computes the loss of each example.

        Args:
            model: The score, (x, t, **condition) -> a tensor with the shape of x.
            x0: The data, (B, *event).
            t: Times, (B,); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
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
        """Draws times, noisy data and directions for a batch.

        The times and noisy data of a linear process are those of the denoising loss with the same key.

        Args:
            x0: The data, (B, *event).
            t: Times, (B,); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.

        Returns:
            The draws.
        """
        source, step = self._keyed(x0, t, step, indices)
        t = self._times(x0, source, step) if t is None else t
        x_t = self.sde.marginal_sample(x0, t, source, step=step)
        return SlicedDraw(t, x_t, self._directions(x_t, source, step))

    def evaluate(self, model: Callable[..., Tensor], draw: SlicedDraw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The score, (x, t, **condition) -> a tensor with the shape of x.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = draw.x_t.detach().requires_grad_(True)
            with sdpa_kernel(SDPBackend.MATH):  # fused attention kernels have no second derivative
                score = self._score(model, x, draw.t, condition)
            weighted = self._weighted(score, draw.t, x)
            trace = torch.stack([_dot(v, _product(weighted, x, v, graph)) for v in draw.directions]).mean(0)
            if self.variance_reduced:
                square = _dot(score, weighted)
            else:
                square = torch.stack([_dot(score, self._root(v, draw.t, x)) ** 2 for v in draw.directions]).mean(0)
            loss = self._weight(draw.t) * (trace + 0.5 * square)
        return loss if graph else loss.detach()

    def _directions(self, x_t: Tensor, source: NoiseSource, step: int) -> Tensor:
        """The directions v, (projections, B, *state)."""
        shape = (self.projections, *x_t.shape[1:])
        return source.rademacher(shape, step=step, purpose="projection", dtype=x_t.dtype).transpose(0, 1)

    def _weight(self, t: Tensor) -> Tensor:
        """lambda divided by the density of t, without the factors inside the derivative."""
        weight = 1.0 / self.times.density(self.sde, t)
        if not callable(self.weighting):
            return weight
        given = self.weighting(t)
        if given.shape != t.shape:
            raise ValueError(
                f"weighting returned shape {tuple(given.shape)}: it must return {tuple(t.shape)}, the shape of t"
            )
        return weight * given

    def _weighted(self, score: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """w, which is g g^T s for the likelihood weighting and s for the others."""
        return self.sde.apply_diffusion_matrix(score, t, x) if self.weighting == "likelihood" else score

    def _root(self, v: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """g v if w = g g^T s, and v if w = s: its product with s^T is v^T g^T s."""
        return self.sde.apply_diffusion(v, t, x) if self.weighting == "likelihood" else v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for each example, (B,)."""
    return (a * b).reshape(len(a), -1).sum(1)


def _product(y: Tensor, x: Tensor, v: Tensor, graph: bool) -> Tensor:
    """v^T dy/dx, with the shape of x; zero if y does not depend on x."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]
