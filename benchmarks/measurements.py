"""Guidance by a linear measurement of a mixture: sliced Wasserstein distances to the exact posterior.

    python benchmarks/measurements.py [--count 2000] [--steps 50]

Three modes in two dimensions, y = x_1 + .3 x_2 + noise. The posterior is a mixture in closed form. Distances are means and
standard errors over five seeds.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.metrics import sliced_wasserstein
from scoresde.samplers import UniPC

F64 = torch.float64
MEANS = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.3, -1.2]], dtype=F64)
COVARIANCE = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=F64)
A, Y = torch.tensor([[1.0, 0.3]], dtype=F64), torch.tensor([[0.4]], dtype=F64)
SEEDS = range(5)


def posterior(means: Tensor, std: float) -> GaussianMixture:
    """The posterior of the mixture."""
    spread = A @ COVARIANCE @ A.T + std**2 * torch.eye(1, dtype=F64)
    gain = COVARIANCE @ A.T @ torch.linalg.inv(spread)
    off = Y - means @ A.T
    shares = (-0.5 * off.square() / spread).sum(1).softmax(0)
    covariance = COVARIANCE - gain @ A @ COVARIANCE
    return GaussianMixture(means + off @ gain.T, covariances=covariance.expand(3, 2, 2), weights=shares.tolist())


def operator(x: Tensor) -> Tensor:
    """The measurement without noise."""
    return x @ A.T.to(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sde, y = VPSDE(), Y.float()
    print(
        "| factor of the means | noise | exact | `TweedieMoments` | `IsotropicMoments` | `TaskGuidance(denoised=True)` |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for factor in (0.3, 0.5, 1.0):
        for std in (0.1, 0.3):
            means = factor * MEANS
            true = posterior(means, std)
            prior = GaussianMixture(means, covariances=COVARIANCE.expand(3, 2, 2)).score(sde)

            def log_likelihood(x0: Tensor, std: float = std) -> Tensor:
                return -0.5 * ((operator(x0) - y) ** 2).sum(1) / std**2

            scores = (
                true.score(sde),
                TweedieMoments(prior, operator, y, std),
                IsotropicMoments(prior, operator, y, std),
                TaskGuidance(prior, log_likelihood, denoised=True),
            )
            cells = []
            for score in scores:
                found = [distance(sde, score, true, options.count, options.steps, seed) for seed in SEEDS]
                error = statistics.stdev(found) / len(found) ** 0.5
                cells.append(f"{statistics.mean(found):.3f} +- {error:.3f}")
            print(f"| {factor:g} | {std:g} | {' | '.join(cells)} |", flush=True)


def distance(sde: VPSDE, score: object, true: GaussianMixture, count: int, steps: int, seed: int) -> float:
    """The distance of samples of a score to samples of the posterior."""
    samples = UniPC(steps)(sde, score, (count, 2), seed=seed).samples  # type: ignore[arg-type]
    return float(sliced_wasserstein(samples, true.sample(count, seed=100 + seed), seed=seed))


if __name__ == "__main__":
    main()
