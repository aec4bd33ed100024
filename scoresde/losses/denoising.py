r"""Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7).

.. math::
    \ell(x_0) = E_t \, E_z \; \lambda(t) \, \| s(x_t, t) - \nabla \log p(x_t \mid x_0) \|^2,
    \qquad x_t = \alpha x_0 + \sigma z

where grad log p(x_t | x_0) = -z / sigma. The weightings are

- "variance": lambda = sigma^2, so that the loss is || sigma s + z ||^2, the simple loss of DDPM and SMLD.
- "likelihood": lambda = g^2, so that the loss is || (g / sigma) (sigma s + z) ||^2. Half of its sum over coordinates and
  integral over time is an upper bound of -log p, up to a constant (Song et al. 2021b, arXiv:2101.09258).

The residual is computed as sigma s + z, which stays of order one as sigma -> 0. If noise and diffusion are matrices it is
L^T s + z, and G^T L^-T of that for the likelihood weighting. For a chain of N instants (``sde.discretize(N)``) with
``ChainTimes``, the same formulas are the discrete objectives of DDPM and SMLD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, shown, times_checked
from scoresde.losses.noisy import Draw, NoisyDataObjective
from scoresde.losses.times import TimeDistribution
from scoresde.sde import SDE, Chain, LinearSDE

WEIGHTINGS = ("variance", "likelihood")
REDUCTIONS = ("mean", "half_sum")


class DenoisingScoreMatching(NoisyDataObjective):
    """Denoising score matching: ``loss(model, x0)`` is an unbiased estimate of the objective for each example, (B,).

    Args:
        sde: A ``LinearSDE``, or a chain of one for the discrete objectives.
        weighting: "variance" or "likelihood". A chain supports "variance" only, as in the paper.
        times: The distribution of t: by default the paper's ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        reduction: Over the coordinates of an example: "mean", or "half_sum" (nats for the weighting "likelihood").
        seed: Seed of the random draws. Call k without ``step`` uses step k, so that every step of a training loop has new
            draws.

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders".
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, ScoreModel
        >>> from scoresde.networks import MLP
        >>> model = ScoreModel(MLP((2,)), VPSDE())
        >>> DenoisingScoreMatching(VPSDE())(model, torch.zeros(8, 2)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        sde: SDE,
        weighting: str = "variance",
        *,
        times: TimeDistribution | None = None,
        reduction: str = "mean",
        seed: int = 0,
    ) -> None:
        if not isinstance(sde, LinearSDE):
            raise TypeError(
                f"sde={shown(sde)} has no closed-form kernel, and denoising score matching needs grad log p(x_t | x_0): "
                "give SlicedScoreMatching or ExplicitScoreMatching"
            )
        check_choice("weighting", weighting, WEIGHTINGS)
        check_choice("reduction", reduction, REDUCTIONS)
        if isinstance(sde, Chain) and weighting != "variance":
            raise ValueError(
                f"weighting={weighting!r} is not allowed for a chain: give 'variance', the only weighting "
                "that is defined for discrete time"
            )
        if not sde.gaussian:
            if weighting != "variance":
                raise ValueError(
                    f"weighting={weighting!r} is not allowed for noise that is not Gaussian, which has no bound on log p: "
                    "give 'variance'"
                )
            sde.noise_target(torch.zeros(1, 1), torch.tensor([sde.T]))  # raises if the noise has no density
        super().__init__(sde, times, seed)
        self.weighting, self.reduction = weighting, reduction

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The score, (x, t, **condition) -> a tensor with the shape of x.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        with times_checked():  # ``draw`` has checked them
            residual = self.sde.noise_target(draw.noise, draw.t) - self._noise(model, draw, condition)
            if self.weighting == "likelihood":
                residual = self.sde.in_diffusion_units(residual, draw.t, draw.kernel)
            square = residual.reshape(len(residual), -1) ** 2
            loss = square.mean(1) if self.reduction == "mean" else 0.5 * square.sum(1)
            return loss / self.times.density(self.sde, draw.t)


class NoiseRegression(NoisyDataObjective):
    r"""Prediction of the noise, for Gaussian noise and any other.

    .. math::
        \ell(x_0) = E_t \, E_n \, \frac{1}{d} \sum_i |\hat n_i(x_t, t) - n_i|^p, \qquad x_t = \alpha x_0 + \sigma n

    For p = 2 the minimum is E[n | x_t], and the loss is that of ``DenoisingScoreMatching`` if the noise is Gaussian. For p = 1 it
    is the median of each coordinate. For a ``NonGaussianSDE``, -E[n | x_t] / sigma is not the score:
    the model is for ``Ancestral``, which needs the expectation.

    Args:
        sde: A ``LinearSDE``, or a chain of one.
        p: Exponent, 1 or 2.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        seed: Seed of the random draws. Call k without ``step`` uses step k.

    References:
        Nachmani, San-Roman, Wolf 2021, "Denoising diffusion gamma models", arXiv:2110.05948, with p = 1.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> NoiseRegression(VPSDE(), p=1)(lambda x, t: -x, torch.zeros(8, 2)).shape
        torch.Size([8])
    """

    def __init__(self, sde: SDE, *, p: int = 2, times: TimeDistribution | None = None, seed: int = 0) -> None:
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={shown(sde)} has no closed-form kernel x_t = A x_0 + L z: give a LinearSDE")
        check_choice("p", p, (1, 2))
        super().__init__(sde, times, seed)
        self.p = p

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, (x, t, **condition) -> -E[n | x_t] / sigma, a tensor with the shape of x.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        with times_checked():
            residual = draw.noise - self._noise(model, draw, condition)
            loss = (residual.abs() if self.p == 1 else residual**2).reshape(len(residual), -1).mean(1)
            return loss / self.times.density(self.sde, draw.t)
