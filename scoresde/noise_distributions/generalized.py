"""Generalized normal noise (Deasy, Simidjievski, Lio 2021, "Heavy-tailed denoising score matching", arXiv:2112.09788).

    density     p(n) = beta / (2 alpha Gamma(1/beta)) exp(-(|n| / alpha)^beta)
    score       -(beta / alpha) sign(n) (|n| / alpha)^(beta - 1)
    draw        n = sign alpha G^(1/beta),    G ~ Gamma(1/beta, 1),    sign = -1 or +1
    variance    alpha^2 Gamma(3/beta) / Gamma(1/beta) = std^2
    kurtosis    Gamma(5/beta) Gamma(1/beta) / Gamma(3/beta)^2

    length      (||n||_beta / alpha)^beta = sum_i |n_i / alpha|^beta ~ Gamma(k, 1),    k = d / beta in d dimensions

beta = 1 is Laplace's law and beta = 2 the Gaussian. Only there is a sum of steps of the same family, and the paper adds
its noise in one step; `sum_of_steps` is a `NoiseSum`: it makes the draws of all steps.

Levels for annealed Langevin dynamics: lengths at std and at r std, r > 1, have densities that cross once, at the quantile
u = k ln(c) / (1 - 1 / c) of the Gamma, c = r^beta, and overlap by

    integral of the smaller density = 1 - P(k, u) + P(k, u / c),

P the regularised incomplete gamma function. The paper asks that lengths at neighbouring levels overlap, by iteration;
`overlapping_scales` solves for r. Two Gaussians three standard deviations apart, as NCSNv2 asks of lengths, overlap by 0.13.
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
    """Density proportional to exp(-(|n| / alpha)^beta), with alpha such that the standard deviation is std.

    beta: in [0.05, 100]. Below 2 the tails are heavier than the Gaussian's. Below 1 the score grows without bound at 0,
        and for beta <= 1/2 its variance, that of a score matching target, is infinite. The score at 0 is taken as 0.
    std: > 0, a number or (B,).
    """

    beta: float
    std: Parameter = 1.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta, least=0.05, most=100.0)
        check_parameter("std", self.std)

    @property
    def alpha(self) -> Tensor:
        """The scale, () or (B,) in float64."""
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
    beta: float, largest: float, smallest: float, event_shape: Sequence[int], overlap: float = 0.5
) -> Tensor:
    """Standard deviations for annealed Langevin dynamics under `GeneralizedNormal` noise, (L,) descending, float64.

    The fewest levels from ``largest`` to ``smallest``, in equal ratios, at which the lengths ||n||_beta of neighbours overlap
    by ``overlap`` at least.

    beta: in [0.05, 100]. largest > smallest > 0. event_shape: of the noise. overlap: in [0.01, 0.99].
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
