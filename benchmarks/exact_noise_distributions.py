"""Samplers under noise that is not Gaussian, with exact scores and expectations of small examples.

    python -m benchmarks.exact_noise_distributions

The first table is the weight of the minor mode of a 95/5 mixture in samples of annealed Langevin dynamics with Laplace noise, for
several overlaps of neighboring levels. The second is the weight of the second of two points, 0.7, in samples of ancestral
sampling with gamma noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import VESDE, VPSDE
from scoresde.noise_distributions import DensityNoise, GeneralizedNormal, overlapping_scales
from scoresde.samplers import PredictorCorrector
from scoresde.samplers.discretization import ReferenceDiscretization
from scoresde.samplers.predictor_corrector import Ancestral, AnnealedLangevin
from scoresde.sde import GammaNoise, LevelNoise, NonGaussianSDE, ScalarSDE

F64 = torch.float64


def laplace_score(x: Tensor, scale: float | Tensor, means: Tensor, std: float, weights: Tensor) -> Tensor:
    """Of the mixture of N(m, std^2) plus Laplace noise of standard deviation ``scale``, at x (B, 1), in closed form. With
    b = scale / sqrt 2,

    p = sum_m w / (2 b) [A + B],   p' = sum_m w / (2 b^2) [B - A],   A, B = exp(std^2 / 2 b^2 -+ d / b) Phi(+-d / std -
    std / b)
    """
    b = torch.as_tensor(scale, dtype=x.dtype) / math.sqrt(2)
    d = x - means
    above, below = (
        (
            weights.log() + std**2 / (2 * b**2) - side * d / b + torch.special.log_ndtr(side * d / std - std / b)
        ).logsumexp(1, keepdim=True)
        for side in (1, -1)
    )
    return (torch.sigmoid(below - above) - torch.sigmoid(above - below)) / b


def minor_weight(overlap: float, steps: int, snr: float = 0.5, count: int = 4000) -> tuple[int, float]:
    """The number of levels, and the weight of the minor mode in samples."""
    means, weights = torch.tensor([-2.0, 2.0], dtype=F64), torch.tensor([0.95, 0.05], dtype=F64)
    levels = len(overlapping_scales(1.0, 10.0, 0.05, (1,), overlap))
    chain = NonGaussianSDE(VESDE(0.05, 10.0), LevelNoise(GeneralizedNormal(1.0))).discretize(levels)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return laplace_score(x, chain.sigma(t)[:, None], means, 0.3, weights)

    sampler = PredictorCorrector(None, AnnealedLangevin(snr, steps), ReferenceDiscretization(levels))
    x = sampler(chain, score, (count, 1), dtype=F64).samples
    return levels, float((x > 0).double().mean())


def second_weight(sde: ScalarSDE, density: Callable[[Tensor, Tensor], Tensor], steps: int, count: int = 2000) -> float:
    """The weight of the point 1 in samples of two points -1 and 1 with the weights 0.3 and 0.7, for the exact E[n | x_t].

    ``density(n, t)`` is the log-density of n_t in one dimension, (B, 2).
    """
    points, weights = torch.tensor([-1.0, 1.0], dtype=F64), torch.tensor([0.3, 0.7], dtype=F64)

    def minus_noise_over_sigma(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        n = (x - alpha * points) / sigma
        log_density = density(n, t)
        outside = log_density.isneginf().all(1, keepdim=True)  # of both supports: the nearest point
        posterior = torch.where(outside, -n.abs() * 1e6, log_density + weights.log()).softmax(1)
        return -(posterior * n).sum(1, keepdim=True) / sigma

    x = Ancestral(steps)(sde, minus_noise_over_sigma, (count, 1), dtype=F64).samples
    return float((x > 0).double().mean())


def gamma_density(sde: NonGaussianSDE) -> Callable[[Tensor, Tensor], Tensor]:
    """The log-density of the gamma noise of a process, for ``second_weight``."""

    def density(n: Tensor, t: Tensor) -> Tensor:
        law = sde.noise.between(sde, None, t)
        assert isinstance(law, DensityNoise)
        return torch.stack([law.log_prob(column[:, None]) for column in n.unbind(1)], 1)

    return density


def main() -> None:
    for steps in (10, 30, 100):
        found = [minor_weight(overlap, steps) for overlap in (0.5, 0.7, 0.9)]
        print(f"{steps} Langevin steps:", "; ".join(f"{levels} levels {weight:.3f}" for levels, weight in found))
    for theta_0 in (0.0, 0.1, 0.3):
        sde = NonGaussianSDE(VPSDE(), GammaNoise(theta_0)) if theta_0 else VPSDE()
        density = gamma_density(sde) if isinstance(sde, NonGaussianSDE) else lambda n, t: -0.5 * n**2
        weights = ", ".join(f"{second_weight(sde, density, steps):.3f} with {steps} steps" for steps in (50, 200))
        print(f"theta_0 = {theta_0:g}{'' if theta_0 else ' (Gaussian)'}: {weights}")


if __name__ == "__main__":
    main()
