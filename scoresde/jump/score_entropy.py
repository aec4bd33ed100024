r"""Score entropy: the objective of networks that give ratios of probabilities (Lou, Meng, Ermon 2023).

With the ratios of the model r_y = p_t(y) / p_t(x_t) and those of the process given x_0, c_y = q(y | x_0) / q(x_t | x_0),
the denoising score entropy is

.. math::
    T\, \beta(t) \sum_{y \ne x_t} R_{y x_t} \left[ r_y - c_y \ln r_y + c_y \ln c_y - c_y \right]

The terms without r_y are included, so that a loss is >= 0 and its expectation is minus the continuous bound without the
prior's term. The expectation of c_y given x_t is p_t(y) / p_t(x_t), so that the exact ratios minimize it. For the ratios
of logits of x_0 it is the loss of ``ContinuousBound``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from scoresde._validation import shown
from scoresde.jump.base import JumpProcess
from scoresde.jump.importance import AdaptiveTimes
from scoresde.jump.objectives import ContinuousBound, JumpDraw
from scoresde.jump.states import check_logits


class ScoreEntropy(ContinuousBound):
    """The denoising score entropy, which trains a ``RatioModel``. Its expectation is minus the bound in continuous time.

    Under ``Absorbing`` only masked coordinates have a loss.

    Args:
        process: The process.
        seed: Seed of the random draws.
        adaptive: Distribution of the times that follows the losses. None for uniform times.

    References:
        Lou, Meng, Ermon 2023, arXiv:2310.16834, eq. 5 and theorem 3.4. Benton et al. 2022, arXiv:2211.03595.

    Example:
        >>> from scoresde.jump import Absorbing, MarkovChain, ScoreEntropy
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> ScoreEntropy(process)(chain.model(process), chain.sample(4, 8)).shape
        torch.Size([4])
    """

    def __init__(self, process: JumpProcess, seed: int = 0, adaptive: AdaptiveTimes | None = None) -> None:
        super().__init__(process, seed=seed, adaptive=adaptive)

    def output(self, model: Callable[..., Tensor], draw: JumpDraw, condition: dict[str, Any]) -> Tensor:
        ratios = getattr(model, "ratios", None)
        if ratios is None:
            raise TypeError(f"model={shown(model)} has no ratios: give a RatioModel, or train with ContinuousBound")
        value: Tensor = ratios(draw.x, draw.t, **condition)
        check_logits("model.ratios", value, draw.x, self.process.states)
        return value

    def divergence(self, draw: JumpDraw, logits: Tensor) -> Tensor:
        return self.process.T * self.process.ratio_divergence(draw.x, draw.x0, logits, draw.t)
