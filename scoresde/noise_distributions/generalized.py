"""Generalized normal noise (Deasy, Simidjievski, Lio 2021, "Heavy-tailed denoising score matching", arXiv:2112.09788).

Density, score, samples and moments of a coordinate, and the length in d dimensions::

    density     p(n) = beta / (2 alpha Gamma(1/beta)) exp(-(|n| / alpha)^beta)
    score       -(beta / alpha) sign(n) (|n| / alpha)^(beta - 1)
    sample      n = sign alpha G^(1/beta),    G ~ Gamma(1/beta, 1),    sign = -1 or +1
    variance    alpha^2 Gamma(3/beta) / Gamma(1/beta) = std^2
    kurtosis    Gamma(5/beta) Gamma(1/beta) / Gamma(3/beta)^2

    length      (||n||_beta / alpha)^beta = sum_i |n_i / alpha|^beta ~ Gamma(k, 1),    k = d / beta

beta = 1 is the Laplace distribution and beta = 2 the Gaussian. Only for the Gaussian is a sum of steps of the same
family. The paper adds its noise in one step. Here ``sum_of_steps`` is a ``NoiseSum``, which draws the noise of all
steps.

Noise levels for annealed Langevin dynamics: the densities of the lengths at std and at r std, r > 1, cross once, at the
quantile u = k ln(c) / (1 - 1 / c) of the Gamma distribution with c = r^beta. Their overlap is::

    integral of the smaller density = 1 - P(k, u) + P(k, u / c)

P is the regularized incomplete gamma function. The paper requires that lengths at neighboring levels overlap, and finds
r by iteration; ``overlapping_scales`` solves for r. Two Gaussians whose means are three standard deviations apart, as
NCSNv2 requires of the lengths, have an overlap of 0.13.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts, check_number, check_rising
from scoresde.noise import NoiseSource
from scoresde.noise_distributions.base import F64, DensityNoise, Parameter, check_parameter, meet
from scoresde.noise_distributions.gamma import draw_log_gamma


@dataclass(frozen=True)
class GeneralizedNormal(DensityNoise):
    r"""Generalized normal noise, with a density proportional to ``exp(-(|n| / alpha)^beta)``.

    .. math::
        p(n) = \frac{\beta}{2 \alpha \Gamma(1/\beta)} e^{-(|n| / \alpha)^\beta}, \qquad
        \alpha^2 = \mathrm{std}^2\, \frac{\Gamma(1/\beta)}{\Gamma(3/\beta)}

    Args:
        beta: Exponent in [0.05, 100]. For beta < 2 the tails are heavier than those of a Gaussian. For beta < 1 the
            score is unbounded at 0, and for beta <= 1/2 its variance, that of a score matching target, is infinite. The
            score at 0 is defined as 0.
        std: Standard deviation, > 0: a number or ``(B,)``.

    References:
        Deasy, Simidjievski, Lio 2021, Heavy-tailed denoising score matching, arXiv:2112.09788.
    """

    beta: float
    std: Parameter = 1.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta, least=0.05, most=100.0)
        check_parameter("std", self.std)

    @property
    def alpha(self) -> Tensor:
        """Scale alpha, ``()`` or ``(B,)`` in float64."""
        log_ratio = math.lgamma(1.0 / self.beta) - math.lgamma(3.0 / self.beta)
        return torch.as_tensor(self.std, dtype=F64) * math.exp(0.5 * log_ratio)

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.std, dtype=F64).square()

    @property
    def excess_kurtosis(self) -> Tensor:
        one, three, five = (math.lgamma(j / self.beta) for j in (1.0, 3.0, 5.0))
        return torch.tensor(math.exp(five + one - 2.0 * three) - 3.0, dtype=F64)

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        log_g = draw_log_gamma(1.0 / self.beta, source, event, step, f"{purpose}, size")
        sign = source.rademacher(event, step=step, purpose=f"{purpose}, sign", dtype=F64)
        return meet("std", self.alpha, sign) * sign * (log_g / self.beta).exp()

    def _log_density(self, n: Tensor) -> Tensor:
        alpha = meet("std", self.alpha, n)
        log_norm = math.log(2.0 / self.beta) + math.lgamma(1.0 / self.beta)
        return -(n.abs() / alpha).pow(self.beta) - alpha.log() - log_norm

    def _slope(self, n: Tensor) -> Tensor:
        alpha = meet("std", self.alpha, n)
        slope = -(self.beta / alpha) * n.sign() * (n.abs() / alpha).pow(self.beta - 1.0)
        return torch.where(n == 0, 0.0, slope)


@checked_arguments
def overlapping_scales(
    beta: float, largest: float, smallest: float, event_shape: Sequence[int], overlap: float = 0.9
) -> Tensor:
    """Standard deviations for annealed Langevin dynamics with ``GeneralizedNormal`` noise.

    They form the shortest geometric sequence from ``largest`` to ``smallest`` for which the densities of the lengths
    ||n||_beta at neighboring levels overlap by at least ``overlap``.

    Args:
        beta: Exponent of the noise, in [0.05, 100].
        largest: First standard deviation, > smallest.
        smallest: Last standard deviation, > 0.
        event_shape: Shape of one sample of the noise.
        overlap: Integral of the smaller of the two densities, in [0.01, 0.99].

    Returns:
        The standard deviations, ``(L,)`` in float64, descending.
    """
    check_number("beta", beta, least=0.05, most=100.0)
    check_number("smallest", smallest, above=0.0)
    check_rising("smallest", smallest, "largest", largest)
    check_counts("event_shape", event_shape)
    check_number("overlap", overlap, least=0.01, most=0.99)
    k = torch.tensor(math.prod(event_shape) / beta, dtype=F64)
    low, high = torch.zeros((), dtype=F64), torch.full((), 700.0, dtype=F64)  # of ln c
    for _ in range(60):
        middle = 0.5 * (low + high)
        u = k * middle / -torch.expm1(-middle)
        shared = 1.0 - torch.special.gammainc(k, u) + torch.special.gammainc(k, u * torch.exp(-middle))
        low, high = (middle, high) if shared > overlap else (low, middle)
    span = math.log(largest / smallest)
    levels = 1 + math.ceil(span * beta / float(low))
    return largest * torch.exp(-span * torch.linspace(0.0, 1.0, levels, dtype=F64))
