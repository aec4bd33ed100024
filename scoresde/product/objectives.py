r"""The objective of a product process: denoising score matching and the jump bound, at the same times.

.. math::
    \ell(x_0) = E_t \left[ \frac{w(t)}{2} \left\| \sigma s(x_t, t) + z \right\|^2 + \sum_j \text{jump}_j(x_t, x_0, t) \right]

with w = (g / sigma)^2 for the weighting "likelihood", and with the integrand of the continuous bound of each categorical
coordinate (``JumpProcess.rate_divergence``). The expectation is then an upper bound of -log p(x_0), up to a constant, in
which both parts are in nats: no factor between them is left to choose.

By default u = ln(sigma / alpha) is uniform. Then the real coordinates have the same weight at all times. For VP the density
of t is close to uniform apart from small t, so that it suits the categorical coordinates too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, shown, times_checked
from scoresde.losses.base import TimedObjective
from scoresde.losses.denoising import WEIGHTINGS
from scoresde.losses.times import ChainTimes, LowDiscrepancy, TimeDistribution, UniformLogNoise, distribution_of
from scoresde.product.models import ProductModel
from scoresde.product.process import ProductProcess, check_product_model, latest
from scoresde.sde import ScalarSDE


@dataclass(frozen=True)
class ProductDraw:
    """Random draws of an objective for a batch.

    Attributes:
        x0: Data, ``(B, d)``.
        x: Packed states x_t, ``(B, d)``.
        z: Noise of the real coordinates, ``(B, n)``.
        t: Times, ``(B,)`` float64.
    """

    x0: Tensor
    x: Tensor
    z: Tensor
    t: Tensor


class ProductObjective(TimedObjective[ScalarSDE]):
    """The loss of a ``ProductModel``: both parts of the likelihood bound, in nats.

    Args:
        process: The process.
        weighting: "likelihood", or "variance" for the weight 1 in place of (g / sigma)^2 of the real coordinates.
        times: The distribution of t. By default ln(sigma / alpha) is uniform for t from 1e-3 to T, with low discrepancy.
        seed: Seed of the random draws. Call k without a step uses step k.

    References:
        Song et al. 2021, arXiv:2101.09258. Campbell et al. 2022, arXiv:2205.14987.

    Example:
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.product import LabeledMixture, ProductObjective, ProductProcess
        >>> mixture = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(2)])
        >>> ProductObjective(process)(mixture.model(process), mixture.sample(4)).shape
        torch.Size([4])
    """

    model_class = ProductModel

    def __init__(
        self,
        process: ProductProcess,
        weighting: str = "likelihood",
        *,
        times: TimeDistribution | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(process, ProductProcess):
            raise TypeError(f"process={shown(process)} is not a product process: give a ProductProcess")
        check_choice("weighting", weighting, WEIGHTINGS)
        times = LowDiscrepancy(UniformLogNoise(1e-6, 1e6, t_min=1e-3)) if times is None else times
        if not isinstance(times, TimeDistribution) or isinstance(distribution_of(times), ChainTimes):
            raise TypeError(f"times={shown(times)} is not allowed: give UniformTime(), UniformLogNoise(low, high), ...")
        super().__init__(process.sde, times, seed)
        self.process, self.weighting = process, weighting

    def draw(self, x0: Tensor, *, step: int | None = None, indices: Tensor | None = None) -> ProductDraw:
        """Draws everything that is random for a batch.

        Args:
            x0: Data, ``(B, d)``.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each example, ``(B,)``, part of the key. The default is 0 .. B-1.

        Returns:
            The draws.
        """
        source, step = self._source(x0, step, indices)
        u = source.uniform((), step=step, purpose="time", dtype=torch.float64)
        t = latest(self.process, self.times.times(self.process.sde, self.times.quantiles(u, source, step)))
        x, z = self.process.perturb(x0, t, source, step=step)
        return ProductDraw(x0, x, z, t)

    def evaluate(self, model: Callable[..., Tensor], draw: ProductDraw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, (x, t, **condition) -> the packed output.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example in nats, ``(B,)``.
        """
        check_product_model(self.process, model)
        process = self.process
        score, logits = process.split_output(model(draw.x, draw.t.to(draw.x.dtype), **condition), draw.x)
        _, states = process.split(draw.x)
        _, tokens = process.split(draw.x0, "x0", data=True)
        with times_checked():
            kernel = process.sde.kernel(draw.t).to(score)
            residual = draw.z - kernel.noise_from_score(score)
            if self.weighting == "likelihood":
                residual = process.sde.in_diffusion_units(residual, draw.t.to(score.dtype), kernel)
            real = 0.5 * residual.square().sum(1)
            loss = real + process.category_losses(states, tokens, logits, draw.t).to(real.dtype)
            return loss / self.times.density(process.sde, draw.t).to(loss.dtype)
