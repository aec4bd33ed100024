"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

The manifold of a set is the union of balls around its vectors, each reaching to its k-th nearest neighbour in the set:

    precision    fraction of the samples within the data's manifold       (how good)
    recall       fraction of the data within the samples' manifold        (how varied)

Both depend on the number of vectors and on k: compare figures of the same ones only.
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
    """precision, recall: in [0, 1]."""

    precision: float
    recall: float


@checked_arguments
def precision_recall(samples: Tensor, data: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall of samples (n, d) against data (m, d), in features; n, m > ``neighbours`` = k.

    A vector lies within a ball that ends at it. Raises ValueError for other shapes, or numbers that are not finite.
    """
    check_count("neighbours", neighbours)
    x, y = checked(samples, data, least=neighbours + 1, names=("samples", "data"))
    reach_x, reach_y = _radii(x, neighbours), _radii(y, neighbours)
    good, found = (torch.zeros(len(s), dtype=torch.bool, device=s.device) for s in (x, y))
    for i, here in blocks(x):
        for j, there in blocks(y):
            squares, rows, columns = _squared_distances(here, there), slice(i, i + len(here)), slice(j, j + len(there))
            good[rows] |= (squares <= reach_y[columns]).any(1)
            found[columns] |= (squares <= reach_x[rows, None]).any(0)
    return PrecisionRecall(float(good.double().mean()), float(found.double().mean()))


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """(n,) squared distances to the k-th nearest other vector."""
    found = []
    for _, here in blocks(x):
        near = x.new_full((len(here), 0), 0.0)
        for _, there in blocks(x):  # the vector itself is its own nearest, at 0: hence one more
            near = torch.cat([near, _squared_distances(here, there)], 1)
            near = near.topk(min(neighbours + 1, near.shape[1]), 1, largest=False, sorted=True).values
        found.append(near[:, neighbours])
    return torch.cat(found)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m); what rounding alone may leave of 0 is 0, so that equal vectors are equal in whichever block."""
    scale = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = scale - 2.0 * (x @ y.T)
    return squares.where(squares > 64 * torch.finfo(x.dtype).eps * scale, torch.zeros_like(squares))
