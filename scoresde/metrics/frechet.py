"""The Fréchet distance between Gaussians; of Inception's features the FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6):

    d^2 = ||mu - mu'||^2 + tr S + tr S' - 2 tr (S S')^(1/2)

S S' is not symmetric, and a matrix square root of it may come out complex where S or S' lacks rank. With factors S = A A^T and
S' = B B^T its eigenvalues are the squared singular values of A^T B, so that

    tr (S S')^(1/2) = ||A^T B||_*      (the sum of the singular values),

a sum of numbers >= 0 of whatever rank. A = V diag(l)^(1/2) by S = V diag(l) V^T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde.metrics.moments import Moments


@checked_arguments
def frechet_distance(a: Moments, b: Moments) -> float:
    """d^2 above, >= 0, in squared units of the features: what is called FID where they are Inception's.

    From estimated moments it is too large on average, by a term that falls like 1 / count: compare figures of one count only.
    Raises ValueError where the two have another number of features.
    """
    if a.dimension != b.dimension:
        raise ValueError(f"a has {a.dimension} features, b {b.dimension}: both must be of one extractor")
    shift = float((a.mean - b.mean).square().sum())
    spread = float(a.covariance.trace() + b.covariance.trace())
    overlap = float(torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum())
    return max(0.0, shift + spread - 2.0 * overlap)


def _factor(covariance: Tensor) -> Tensor:
    """A (d, r) with A A^T the covariance; eigenvalues that rounding alone would make of 0 are left out."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2.0)
    noise = math.sqrt(len(values)) * torch.finfo(values.dtype).eps * float(values.abs().max())
    kept = values > noise
    out: Tensor = vectors[:, kept] * values[kept].sqrt()
    return out
