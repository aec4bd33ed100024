"""The metrics of this library compared with established tools on the same feature vectors.

    pip install --no-deps prdc torchmetrics lightning-utilities POT properscoring packaging
    python benchmarks/metric_peers.py

The data are 400 vectors of 64 numbers, the digits of scikit-learn. The samples are 300 digits with noise.
Each metric has one line.
"""

from __future__ import annotations

import numpy as np
import ot
import properscoring
import torch
from prdc import compute_prdc
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from scoresde.data import Digits
from scoresde.metrics import (
    Moments,
    crps,
    frechet_distance,
    kernel_distance,
    precision_recall,
    sliced_wasserstein,
)
from scoresde.noise import NoiseSource


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and data."""
    raw = Digits().train.raw.flatten(1).double() / 16.0
    noise = NoiseSource.of(0, 300).normal((64,), step=0, purpose="peers", dtype=torch.float64)
    return raw[400:700] + 0.1 * noise, raw[:400]


def directions(count: int) -> np.ndarray:
    """Those of `sliced_wasserstein` for seed 0, (64, count)."""
    theta = NoiseSource.of(0, count).normal((64,), step=0, purpose="slice", dtype=torch.float64)
    return (theta / theta.norm(dim=1, keepdim=True)).T.numpy()


def main() -> None:
    samples, data = vectors()
    a, b = Moments.of(samples), Moments.of(data)
    manifold = precision_recall(samples, data, 3)
    theirs = compute_prdc(data.numpy(), samples.numpy(), nearest_k=3)
    # torchmetrics takes sets of one size
    same = samples, data[:300]
    sliced = ot.sliced_wasserstein_distance(samples.numpy(), data.numpy(), projections=directions(256))
    score = properscoring.crps_ensemble(data[0].numpy(), samples.T.numpy())
    rows = {
        "Frechet distance, torchmetrics": (
            frechet_distance(a, b), float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance)),
        ),
        "kernel distance, torchmetrics": (
            kernel_distance(*same).value, float(poly_mmd(*same)),
        ),
        "precision, prdc": (manifold.precision, float(theirs["precision"])),
        "recall, prdc": (manifold.recall, float(theirs["recall"])),
        "sliced Wasserstein, POT": (sliced_wasserstein(samples, data), float(sliced)),
        "CRPS, properscoring": (float(crps(samples, data[0]).mean()), float(score.mean())),
    }  # fmt: skip
    for name, (ours, other) in rows.items():
        print(f"{name:32s} {ours:.12g}  {other:.12g}  apart by {abs(ours - other) / abs(other):.1e} of it")


if __name__ == "__main__":
    main()
