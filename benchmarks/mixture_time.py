"""Time and largest tensor of the score of a Gaussian mixture with full covariances. One thread, about 20 s.

    python benchmarks/mixture_time.py

The second figure of each row contracts responsibilities, rotations and residuals in the order of the factors, which needs a
tensor of shape (B, K, d, d). Both are medians of interleaved runs, in CPU time.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture

SIZES = ((10, 2, 1000), (40, 16, 512), (200, 32, 256))
TIMES = 9


def problem(count: int, d: int, batch: int) -> tuple[GaussianMixture, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(count, d, d, generator=g, dtype=torch.float64) / d**0.5
    covariances = roots @ roots.mT + 0.01 * torch.eye(d, dtype=torch.float64)
    means = torch.randn(count, d, generator=g, dtype=torch.float64)
    x = torch.randn(batch, d, generator=g, dtype=torch.float64)
    t = 0.05 + 0.9 * torch.rand(batch, generator=g, dtype=torch.float64)
    return GaussianMixture(means, covariances=covariances), x, t


def by_factors(mixture: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    """The same score in one line for each formula."""
    kernel = VPSDE().kernel(t).centered
    alpha, sigma = kernel.a[:, None, None], kernel.std[:, None, None]
    offset = torch.einsum("kij,bki->bkj", mixture.rotations, x[:, None] - alpha * mixture.means)
    variance = alpha**2 * mixture.variances + sigma**2
    whitened = offset / variance
    log_joint = mixture.weights.log() - 0.5 * ((offset * whitened).sum(-1) + variance.log().sum(-1))
    return -torch.einsum("bk,kij,bkj->bi", log_joint.softmax(1), mixture.rotations, whitened)


def main() -> None:
    torch.set_num_threads(1)
    print("components  dimensions  points   ms  by factors: ms   ratio   largest tensor: MiB  by factors: MiB")
    for count, d, batch in SIZES:
        mixture, x, t = problem(count, d, batch)
        score = mixture.score(VPSDE())
        torch.testing.assert_close(score(x, t), by_factors(mixture, x, t))
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(TIMES):
            for run, own in ((score, seconds[0]), (partial(by_factors, mixture), seconds[1])):
                start = time.process_time()
                run(x, t)
                own.append(time.process_time() - start)
        ours, theirs = (1e3 * statistics.median(own) for own in seconds)
        size = batch * count * d * 8 / 2**20
        print(
            f"{count:10} {d:11} {batch:7} {ours:6.1f} {theirs:13.1f} {theirs / ours:8.1f} {size:18.1f} {size * d:16.1f}"
        )


if __name__ == "__main__":
    main()
