"""Density models that a score model must beat, on the same split: figures without a yardstick say nothing.

Both are in bits per dimension of discrete data, as `scoresde.likelihood.bits_per_dim` reports them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor


@dataclass(frozen=True)
class Baseline:
    """name, and the mean and standard error over events of the bits per dimension of the test set."""

    name: str
    bits_per_dim: float
    standard_error: float


def pixel_histogram(train: Tensor, test: Tensor, levels: int, pseudocount: float = 0.1) -> Baseline:
    """Every coordinate independent, its levels by their frequency in ``train`` plus a pseudocount.

    train, test: (n, *event) levels 0 .. levels - 1. Exact for discrete data: no dequantisation.
    """
    flat = train.flatten(1).long()
    counts = torch.nn.functional.one_hot(flat, levels).sum(0).double() + pseudocount
    log_p = (counts / counts.sum(1, keepdim=True)).log2()
    bits = -log_p.gather(1, test.flatten(1).long().mT).mean(0)
    return _summary("independent pixel histogram", bits)


def gaussian_mixtures(
    train: Tensor,
    test: Tensor,
    width: float,
    candidates: tuple[tuple[int, str, float], ...] = (
        (1, "full", 1e-3),
        (10, "full", 1e-3),
        (20, "diag", 1e-4),
        (50, "diag", 1e-4),
        (100, "diag", 1e-3),
    ),
) -> Baseline:
    """The best of scikit-learn's Gaussian mixtures, chosen on the test set (which favours the baseline).

    train, test: (n, *event) dequantised data. width: of one level, for the volume. candidates: (components, covariance
    type, regularisation).
    """
    fit_on, judge = train.flatten(1).double().numpy(), test.flatten(1).double().numpy()
    found = []
    for count, kind, floor in candidates:
        model = SklearnMixture(count, covariance_type=kind, reg_covar=floor, random_state=0).fit(fit_on)
        nats = torch.from_numpy(model.score_samples(judge))
        bits = -(nats / judge.shape[1] + math.log(width)) / math.log(2.0)
        found.append(_summary(f"scikit-learn GaussianMixture, {count} {kind}", bits))
    return min(found, key=lambda baseline: baseline.bits_per_dim)


def _summary(name: str, bits: Tensor) -> Baseline:
    return Baseline(name, float(bits.mean()), float(bits.std() / math.sqrt(len(bits))))
