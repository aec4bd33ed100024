"""A data set as a distribution: every point a Gaussian."""

from __future__ import annotations

from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_batch, check_finite, check_number
from scoresde.distributions.mixture import GaussianMixture


class SmoothedEmpirical(GaussianMixture):
    """Every data point a Gaussian of standard deviation ``std``: the best that a model of a finite set can know.

    data: (n, *event) finite values.
    std: >= 0; with 0 the distribution is the data itself, which has a density for t > 0 only.
    """

    def __init__(self, data: Tensor, std: float) -> None:
        check_batch("data", data)
        check_finite("data", data)
        check_number("std", std, least=0.0)
        super().__init__(data, float(std))


check_constructors(globals())
