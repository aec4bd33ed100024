"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

The manifold of a set is the union of balls around its vectors. The radius of a ball is the distance to the k-th nearest
neighbor in the set:

    precision    fraction of the samples within the data's manifold       (quality)
    recall       fraction of the data within the samples' manifold        (diversity)

Both depend on the number of vectors and on k. Compare only results with equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count
from scoresde.metrics.pairs import blocks, checked


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of samples.

    Attributes:
        precision: Fraction of the samples within the manifold of the data, in [0, 1].
        recall: Fraction of the data within the manifold of the samples, in [0, 1].
    """

    precision: float
    recall: float


@checked_arguments
def precision_recall(samples: Tensor, data: Tensor, neighbors: int = 3) -> PrecisionRecall:
    """Improved precision and recall in feature space.

    Balls are closed: a vector on the boundary is inside.

    Args:
        samples: Features of samples, of shape (n, d) with n > ``neighbors``.
        data: Features of data, of shape (m, d) with m > ``neighbors``.
        neighbors: k, which defines the radius of the balls.

    Returns:
        Precision and recall.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    References:
        Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2.
    """
    check_count("neighbors", neighbors)
    x, y = checked(samples, data, least=neighbors + 1, names=("samples", "data"))
    radii_x, radii_y = _radii(x, neighbors), _radii(y, neighbors)
    good, found = (torch.zeros(len(s), dtype=torch.bool, device=s.device) for s in (x, y))
    for i, here in blocks(x):
        for j, there in blocks(y):
            squares, rows, columns = _squared_distances(here, there), slice(i, i + len(here)), slice(j, j + len(there))
            good[rows] |= (squares <= radii_y[columns]).any(1)
            found[columns] |= (squares <= radii_x[rows, None]).any(0)
    return PrecisionRecall(float(good.double().mean()), float(found.double().mean()))


def _radii(x: Tensor, neighbors: int) -> Tensor:
    """(n,) squared distances to the k-th nearest other vector."""
    found = []
    for _, here in blocks(x):
        near = x.new_full((len(here), 0), 0.0)
        for _, there in blocks(x):  # one more, because the nearest vector is the vector itself
            near = torch.cat([near, _squared_distances(here, there)], 1)
            near = near.topk(min(neighbors + 1, near.shape[1]), 1, largest=False, sorted=True).values
        found.append(near[:, neighbors])
    return torch.cat(found)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m). Values that are 0 up to rounding are set to 0, so that equal vectors have distance 0 in every block."""
    scale = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = scale - 2.0 * (x @ y.T)
    return squares.where(squares > 64 * torch.finfo(x.dtype).eps * scale, torch.zeros_like(squares))
