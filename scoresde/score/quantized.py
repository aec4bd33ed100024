"""A posterior over the levels of quantized data, and the exact mean of x_0 that follows from it.

Data with the levels k = 0 .. K-1 that is dequantized uniformly, x_0 = low + (k + u) w with u ~ U(0, 1) and box width w, is
in the box k = [l_k, l_k + w]. Given x_t, divide by alpha: y = x_t / alpha, s = sigma / alpha. With the standard normal Phi
and phi, a = (l_k - y) / s and b = (l_k + w - y) / s, each coordinate has ::

    evidence    ln P(y | k)      = ln [Phi(b) - Phi(a)] + const
    box mean    E[x_0 | y, k]    = y - s (phi(b) - phi(a)) / (Phi(b) - Phi(a))           (a truncated normal)
    posterior   p(k | x_t)       = softmax_k( network_k + ln P(y | k) )
    mean        E[x_0 | x_t]     = sum_k p(k | x_t) E[x_0 | y, k]

With the box variance v_k = s^2 [1 - (b phi(b) - a phi(a)) / (Phi(b) - Phi(a)) - ((phi(b) - phi(a)) / (Phi(b) - Phi(a)))^2] the
variance of x_0 given x_t follows too, so that ``variance="model"`` works with such a model::

    variance    V = sum_k p(k | x_t) (v_k + E[x_0 | y, k]^2) - E[x_0 | x_t]^2

Given the level, the dequantization noise of a coordinate is independent of all other coordinates. So the second and the
fourth line are exact, and the network only has to learn what the other coordinates say about the level. As s -> 0 the
evidence alone determines the level, and the density is flat within a box, as it must be. The posterior of such a
``ScoreModel`` has logits.

Data at the middles m_k of the intervals (``LevelMiddles``) has ln P(y | k) = -(y - m_k)^2 / (2 s^2) + const, m_k in the place of
the box mean, and v_k = 0. Without the network's part, softmax_k(ln P(y | k)) is the decoder of variational diffusion models
(Kingma et al. 2021, arXiv:2107.00630, appendix B), whose logarithm is `scoresde.score.level_decoder.level_log_prob`.

All of this is computed in float64: at s = 100 a box is 1e-3 standard deviations wide, and the differences cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import expand
from scoresde.data.middles import LevelMiddles
from scoresde.data.transforms import Quantized
from scoresde.score.predictions import DataPosterior, Prediction
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel, ScalarKernel

_NARROW = 1e-2
"""Width of a box in units of the noise, below which its density is almost exponential."""
_FAR = 50.0
"""Distance from a box in units of the noise, above which its density is almost exponential."""


def _exponential_variance(rate: Tensor, width: Tensor) -> Tensor:
    """The variance of an exponential distribution on an interval."""
    tau = rate * width
    small = tau < 1e-2
    safe = torch.where(small, 1.0, tau)
    share = torch.where(small, 1.0 / 12.0 - tau**2 / 240.0, safe**-2 - 0.25 * torch.sinh(0.5 * safe) ** -2)
    return share * width**2


@dataclass(frozen=True)
class Levels(Prediction):
    """The output (B, *event, K) are logits over the K levels of each coordinate, without the coordinate's own evidence.

    The process must have scalar coefficients.

    Args:
        transform: The ``Quantized`` or ``LevelMiddles`` transform that made the data.
    """

    has_variance = True

    transform: Quantized

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Quantized):
            raise TypeError(
                f"transform={self.transform!r} is not a Quantized: give the Quantized transform of the data"
            )

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_data(x, self.posterior(sde, kernel, output, x).mean)

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_data(x, self.posterior(sde, kernel, output, x).mean)

    def score_and_variance(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, log_mass, means = self._posterior(kernel, output, x)
        probabilities = logits.softmax(-1)
        mean = (probabilities * means).sum(-1)
        squares = self._box_variances(kernel, x, log_mass) + (means - mean[..., None]) ** 2
        return kernel.score_from_data(x, mean.to(x.dtype)), (probabilities * squares).sum(-1).to(x.dtype)

    def posterior(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        logits, _, means = self._posterior(kernel, output, x)
        return DataPosterior((logits.softmax(-1) * means).sum(-1).to(x.dtype), logits.to(x.dtype))

    def _posterior(self, kernel: GaussianKernel, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of p(k | x_t), ln P(y | k) and the box means, (B, *event, K) in float64."""
        wanted = (*x.shape, self.transform.levels)
        if output.shape != wanted:
            raise ValueError(
                f"the network's output has shape {tuple(output.shape)}: it must have shape {wanted}, one logit for each level"
            )
        log_evidence, box_mean = self.boxes(kernel, x)
        return output.to(torch.float64) + log_evidence, log_evidence, box_mean

    def boxes(self, kernel: GaussianKernel, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes ln P(y | k) and E[x_0 | y, k] for all levels.

        Args:
            kernel: The kernel of the process at the times of the batch.
            x: The states, (B, *event).

        Returns:
            The log-evidence and the box mean, each (B, *event, K) in float64.

        Raises:
            TypeError: The process does not have scalar coefficients.
        """
        y, s = self._noisy_data(kernel, x)
        if isinstance(self.transform, LevelMiddles):
            middles = self.transform.middles(torch.float64, x.device)
            return -0.5 * ((y - middles) / s) ** 2, middles.expand(*x.shape, -1)
        edges = self.transform.edges(torch.float64, x.device)
        z = (edges - y) / s
        low, high = z[..., :-1], z[..., 1:]
        # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): use the side on which both are small, without cancellation
        below, above = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
        right = low + high > 0
        larger = torch.where(right, above[..., :-1], below[..., 1:])
        smaller = torch.where(right, above[..., 1:], below[..., :-1])
        log_mass = larger + torch.log(-torch.expm1(smaller - larger))
        log_phi = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
        mean = y - s * ((log_phi[..., 1:] - log_mass).exp() - (log_phi[..., :-1] - log_mass).exp())
        return log_mass, torch.minimum(torch.maximum(mean, edges[:-1]), edges[1:])

    def _box_variances(self, kernel: GaussianKernel, x: Tensor, log_mass: Tensor) -> Tensor:
        """Var[x_0 | y, k] for all levels, (B, *event, K) in float64, from ln P(y | k)."""
        y, s = self._noisy_data(kernel, x)
        if isinstance(self.transform, LevelMiddles):
            return torch.zeros_like(log_mass)
        z = (self.transform.edges(torch.float64, x.device) - y) / s
        low, high, h = z[..., :-1], z[..., 1:], self.transform.width / s
        log_phi = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
        left, right = (log_phi[..., :-1] - log_mass).exp(), (log_phi[..., 1:] - log_mass).exp()
        direct = 1.0 - (high * right - low * left) - (right - left) ** 2
        # in a narrow box, and far from its edges, the density is that of an exponential distribution within the box
        near = torch.where(low > 0, low, torch.where(high < 0, -high, 0.0))
        rate = torch.where(near > _FAR, near, 0.5 * (low + high).abs())
        found = torch.where((h < _NARROW) | (near > _FAR), _exponential_variance(rate, h), direct)
        return s**2 * torch.minimum(found.clamp(min=0.0), (h**2 / 12.0).clamp(max=1.0))

    @staticmethod
    def _noisy_data(kernel: GaussianKernel, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_t / alpha and sigma / alpha, (B, *event, 1) in float64. Raises TypeError without scalar coefficients."""
        if not isinstance(kernel, ScalarKernel):
            raise TypeError(
                f"Levels does not support a {type(kernel).__name__}: give a process with scalar coefficients, whose noise "
                "is independent for each coordinate"
            )
        alpha, sigma = expand(kernel.a, x).double(), expand(kernel.std, x).double()
        return (x.double() / alpha)[..., None], (sigma / alpha)[..., None]


check_constructors(globals())
