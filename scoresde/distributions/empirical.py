"""Distribution of a finite data set, smoothed by Gaussian noise."""

from __future__ import annotations

from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_batch, check_finite, check_number
from scoresde.distributions.mixture import GaussianMixture


class SmoothedEmpirical(GaussianMixture):
    """Mixture of one Gaussian for each data point.

    For ``std=0`` its score is the minimizer of the denoising score matching loss on these points.

    Args:
        data: The points, ``(n, *event)``, finite.
        std: Standard deviation of each Gaussian, >= 0. For 0 the distribution is the data set itself, which has a
            density only for t > 0.
    """

    def __init__(self, data: Tensor, std: float) -> None:
        check_batch("data", data)
        check_finite("data", data)
        check_number("std", std, least=0.0)
        super().__init__(data, float(std))


check_constructors(globals())
