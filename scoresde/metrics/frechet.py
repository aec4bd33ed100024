"""The Fréchet distance between Gaussians. For features of Inception it is the FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6):

    d^2 = ||mu - mu'||^2 + tr S + tr S' - 2 tr (S S')^(1/2)

S S' is not symmetric, and its computed matrix square root can be complex if S or S' is rank-deficient. With factors S = A A^T and
S' = B B^T, the eigenvalues of S S' are the squared singular values of A^T B. Therefore

    tr (S S')^(1/2) = ||A^T B||_*      (the sum of the singular values),

which is real and nonnegative for every rank. The factor is A = V diag(l)^(1/2) with the eigendecomposition S = V diag(l) V^T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde.metrics.moments import Moments


@checked_arguments
def frechet_distance(a: Moments, b: Moments) -> float:
    r"""The squared Fréchet distance between two Gaussians, the FID for features of Inception.

    .. math:: d^2 = \|\mu - \mu'\|^2 + \mathrm{tr}\,S + \mathrm{tr}\,S' - 2\,\mathrm{tr}\,(S S')^{1/2}

    The distance of estimated moments is too large on average, by a term that decreases like 1 / count. Compare only results
    with the same count.

    Args:
        a: Moments of the first set.
        b: Moments of the second set.

    Returns:
        The squared distance, at least 0, in squared units of the features.

    Raises:
        ValueError: If the numbers of features differ.

    References:
        Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    if a.dimension != b.dimension:
        raise ValueError(f"a has {a.dimension} features, b {b.dimension}: both must be of one extractor")
    shift = float((a.mean - b.mean).square().sum())
    spread = float(a.covariance.trace() + b.covariance.trace())
    overlap = float(torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum())
    return max(0.0, shift + spread - 2.0 * overlap)


def _factor(covariance: Tensor) -> Tensor:
    """A (d, r) with A A^T = covariance, without eigenvalues that are 0 up to rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2.0)
    noise = math.sqrt(len(values)) * torch.finfo(values.dtype).eps * float(values.abs().max())
    kept = values > noise
    out: Tensor = vectors[:, kept] * values[kept].sqrt()
    return out
