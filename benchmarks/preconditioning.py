"""Preconditioned Langevin dynamics for a Gaussian with 64 modes of variance 100 / k^2 + 0.01, by exact propagation.

    python benchmarks/preconditioning.py

KL divergence in nats, from the start N(0, 100 I) and in the limit. Steps are an eighth of the largest stable step. "noise only"
filters the noise and not the score, as `FilteredNoise` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.filters import MatrixFilter
from scoresde.samplers import AnnealedLangevin
from scoresde.samplers.predictor_corrector import Corrector, Preconditioned
from tests.samplers.test_correctors import MODES, SNR
from tests.samplers.test_preconditioning import ROOT, divergence, kl_after, stationary


def diagonal(power: float) -> MatrixFilter:
    """M M^T proportional to a power of the covariance."""
    return MatrixFilter.of_covariance((MODES**power).diag())


def stable_snr(filter: MatrixFilter) -> float:
    """The snr of an eighth of the largest stable step: e = 2 snr^2, stable below 2 / (largest eigenvalue of M^T S^-1 M)."""
    curvature = torch.linalg.eigvalsh(filter.matrix.mT @ (filter.matrix / MODES[:, None]))[-1]
    return float((0.125 / curvature).sqrt())


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, tuple[Corrector, MatrixFilter | None]] = {"none": (AnnealedLangevin(SNR), None)}
    for title, power in (("square root of the covariance", 0.5), ("covariance", 1.0)):
        filter = diagonal(power)
        rows[title] = (Preconditioned(AnnealedLangevin(stable_snr(filter)), filter), None)
    print("| M M^T | 50 steps | 200 | 1000 | limit |\n|---|---:|---:|---:|---:|")
    for title, (corrector, noise) in rows.items():
        found = [kl_after(n, corrector, noise) for n in (50, 200, 1000)]
        print(f"| {title} | {' | '.join(f'{kl:.3g}' for kl in (*found, limit(corrector)))} |")
    print("\n| step, as a fraction of the largest stable one | none | covariance | covariance, noise only |")
    print("|---:|---:|---:|---:|")
    whole = MatrixFilter(ROOT)
    for fraction in (1 / 8, 1 / 32, 1 / 128):
        plain, full = AnnealedLangevin(float((fraction * MODES.min()).sqrt())), AnnealedLangevin(fraction**0.5)
        kls = (limit(plain), limit(Preconditioned(full, whole)), limit(plain, diagonal(1.0)))
        print(f"| {fraction:.4g} | {' | '.join(f'{kl:.3g}' for kl in kls)} |")


def limit(corrector: Corrector, noise: MatrixFilter | None = None) -> float:
    """KL of the limit of many steps."""
    covariance: Tensor = stationary(corrector, MODES, noise)
    return divergence(covariance, MODES)


if __name__ == "__main__":
    main()
