"""A belief over the levels of quantised data, and the exact mean of x_0 that follows from it.

Data that takes the levels k = 0 .. K-1 and is dequantised uniformly, x_0 = low + (k + u) w with u ~ U(0, 1) and box
width w, lies in box k = [l_k, l_k + w]. Given x_t, divide by alpha: y = x_t / alpha, s = sigma / alpha. For each
coordinate, with the standard normal's Phi and phi, a = (l_k - y) / s, b = (l_k + w - y) / s,

    evidence    ln P(y | k)      = ln [Phi(b) - Phi(a)] + const
    box mean    E[x_0 | y, k]    = y - s (phi(b) - phi(a)) / (Phi(b) - Phi(a))           (a truncated normal)
    belief      p(k | x_t)       = softmax_k( network_k + ln P(y | k) )
    mean        E[x_0 | x_t]     = sum_k p(k | x_t) E[x_0 | y, k]

Given the level, the dequantisation noise of a coordinate is independent of all other coordinates, so the second and
fourth lines are exact; the network has only to say what the others tell about the level. As s -> 0 the evidence alone
decides, and the density is flat inside a box, as it must be. A `ScoreModel` whose belief on x_0 has logits.

All of this is computed in float64: at s = 100 a box is 1e-3 standard deviations wide and the differences cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import expand
from scoresde.data.transforms import Quantized
from scoresde.score.predictions import DataPosterior, Prediction
from scoresde.sde.linalg.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.linear import LinearSDE


@dataclass(frozen=True)
class Levels(Prediction):
    """The network's output (B, *event, K) are logits, without the coordinate's own evidence, over the K levels.

    transform: the declaration by which the data was quantised and mapped.
    """

    transform: Quantized

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Quantized):
            raise TypeError(f"transform={self.transform!r} is not a Quantized: Levels is for data of whole levels")

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_data(x, self.posterior(sde, kernel, output, x).mean)

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_data(x, self.posterior(sde, kernel, output, x).mean)

    def posterior(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        wanted = (*x.shape, self.transform.levels)
        if output.shape != wanted:
            raise ValueError(f"the network's output has shape {tuple(output.shape)}: Levels wants {wanted}")
        log_evidence, box_mean = self.boxes(kernel, x)
        logits = output.to(torch.float64) + log_evidence
        return DataPosterior((logits.softmax(-1) * box_mean).sum(-1).to(x.dtype), logits.to(x.dtype))

    def boxes(self, kernel: GaussianKernel, x: Tensor) -> tuple[Tensor, Tensor]:
        """ln P(y | k) and E[x_0 | y, k], both (B, *event, K) in float64."""
        if not isinstance(kernel, ScalarKernel):
            raise TypeError(
                f"Levels needs a process with scalar coefficients, in which the noise of a coordinate is its own, not a "
                f"{type(kernel).__name__}"
            )
        alpha, sigma = expand(kernel.a, x).double(), expand(kernel.std, x).double()
        y, s = (x.double() / alpha)[..., None], (sigma / alpha)[..., None]
        edges = self.transform.edges(torch.float64, x.device)
        z = (edges - y) / s
        low, high = z[..., :-1], z[..., 1:]
        # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): take the side on which both are small
        below, above = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
        right = low + high > 0
        larger = torch.where(right, above[..., :-1], below[..., 1:])
        smaller = torch.where(right, above[..., 1:], below[..., :-1])
        log_mass = larger + torch.log(-torch.expm1(smaller - larger))
        log_phi = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
        mean = y - s * ((log_phi[..., 1:] - log_mass).exp() - (log_phi[..., :-1] - log_mass).exp())
        return log_mass, torch.minimum(torch.maximum(mean, edges[:-1]), edges[1:])


check_constructors(globals())
