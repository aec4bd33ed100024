"""What a network may predict beside the four of `scoresde.score`.

    sigma score    sigma grad log p_t = -E[z | x_t]         score = output / sigma                (NCSN++, NCSNv2)

A noise prediction with its sign turned: the paper's networks for VE are trained to give sigma times the score, and divide by
sigma themselves. Ours know no sigma: the division is done here.
"""

from __future__ import annotations

from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde.score import Prediction, like
from scoresde.sde.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE


class ScaledScorePrediction(Prediction):
    """The output is sigma times the score."""

    def score(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(self.noise(sde, kernel, output, x))

    def noise(self, sde: LinearSDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return -like(x, output)


check_constructors(globals())
