"""What a network may predict beside the four of `scoresde.score`.

    sigma score    sigma grad log p_t = -E[z | x_t]         score = output / sigma                (NCSN++, NCSNv2)

A noise prediction with its sign turned: the paper's networks for VE are trained to give sigma times the score, and divide by
sigma themselves. Ours know no sigma: the division is done here.
"""

from __future__ import annotations

from torch import Tensor

from scoresde.score import Prediction, like
from scoresde.sde.linear import LinearSDE


class ScaledScorePrediction(Prediction):
    """The output is sigma times the score."""

    def score(self, sde: LinearSDE, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return sde.score_from_noise(x, t, -like(x, output))
