"""The continuous ranked probability score of samples X_1 .. X_m of a forecast, where y was observed (Gneiting, Raftery 2007):

    CRPS = E|X - y| - 1/2 E|X - X'|,        E|X - X'| = 2/m^2 sum_i (2i - m - 1) X_(i)    with X_(i) sorted, O(m log m).

Lower is better; in units of y. With m^2 the score of the m samples as they are; with m (m - 1) ("fair", Ferro 2014) an unbiased
estimate of the score of the law that they are drawn from, for m that are few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_finite


@checked_arguments
def crps(samples: Tensor, observed: Tensor) -> Tensor:
    """The score of samples (m, *shape) as they are against what was observed (*shape): (*shape), float64, >= 0.

    Raises ValueError for other shapes, or numbers that are not finite.
    """
    return _score(samples, observed, least=1, lost=0)


@checked_arguments
def fair_crps(samples: Tensor, observed: Tensor) -> Tensor:
    """The unbiased estimate of the score of the samples' law, m >= 2; else as `crps`. It may be negative."""
    return _score(samples, observed, least=2, lost=1)


def _score(samples: Tensor, observed: Tensor, least: int, lost: int) -> Tensor:
    """Pairs are counted as m (m - lost)."""
    m = len(samples) if samples.ndim else 0
    if m < least or samples.shape[1:] != observed.shape:
        raise ValueError(
            f"samples have shape {tuple(samples.shape)} and observed {tuple(observed.shape)}: give (m, *shape) with "
            f"m >= {least}, and (*shape)"
        )
    check_finite("samples", samples.reshape(m, -1))
    check_finite("observed", observed.reshape(1, -1))
    x, y = samples.to(torch.float64).sort(0).values, observed.to(torch.float64)
    rank = torch.arange(1, m + 1, dtype=torch.float64, device=x.device)
    weight = (2.0 * rank - m - 1.0) / (m * (m - lost))
    out: Tensor = (x - y).abs().mean(0) - torch.tensordot(weight, x, 1)
    return out
