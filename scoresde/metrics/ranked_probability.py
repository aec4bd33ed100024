"""The continuous ranked probability score of forecast samples X_1 .. X_m for an observation y (Gneiting and Raftery 2007):

    CRPS = E|X - y| - 1/2 E|X - X'|,        E|X - X'| = 2/m^2 sum_i (2i - m - 1) X_(i)    with X_(i) sorted, O(m log m).

Lower is better. The score has the units of y. With m^2 it is the score of the empirical distribution of the samples.
With m (m - 1) it is an unbiased estimate of the score of the distribution from which the samples are drawn, for small m ("fair",
Ferro 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_finite


@checked_arguments
def crps(samples: Tensor, observed: Tensor) -> Tensor:
    """The continuous ranked probability score of the empirical distribution of samples.

    Args:
        samples: Forecast samples of shape (m, *shape).
        observed: Observations of shape (*shape).

    Returns:
        Scores of shape (*shape) in float64, at least 0, in the units of the observations.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    References:
        Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation.
    """
    return _score(samples, observed, least=1, lost=0)


@checked_arguments
def fair_crps(samples: Tensor, observed: Tensor) -> Tensor:
    """An unbiased estimate of the score of the distribution of the samples.

    Args:
        samples: Forecast samples of shape (m, *shape) with m >= 2.
        observed: Observations of shape (*shape).

    Returns:
        Scores of shape (*shape) in float64. They can be negative.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    References:
        Ferro 2014, Fair scores for ensemble forecasts.
    """
    return _score(samples, observed, least=2, lost=1)


def _score(samples: Tensor, observed: Tensor, least: int, lost: int) -> Tensor:
    """The score with m (m - lost) pairs."""
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
