r"""The variance of the likelihood-weighted loss, as the objective of a learned noise schedule (Kingma et al. 2021, section 5).

Let l be the denoising loss with likelihood weighting for one time t, drawn uniformly:

.. math::
    \ell = \tfrac{1}{2} \frac{d\gamma}{dt} \| z - \hat z(x_t, t) \|^2, \qquad \gamma(t) = \ln \frac{\sigma^2}{\alpha^2}

Its mean is an integral over gamma, which depends only on the end points of gamma and not on the shape in between. So the shape
may be trained to minimize the variance, E[l^2] - E[l]^2. As the second term does not depend on the shape, E[l^2] has the same
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from scoresde._validation import shown
from scoresde.losses.denoising import DenoisingScoreMatching
from scoresde.losses.noisy import Draw
from scoresde.losses.times import TimeDistribution, UniformTime
from scoresde.score import NoiseConditionalModel
from scoresde.sde import LinearSDE


class ScheduleVariance(DenoisingScoreMatching):
    """The second moment of the likelihood-weighted loss, which trains the noise schedule of a process.

    ``loss(model, x0)`` is the square of the mean over coordinates of the denoising loss, for each example, (B,). Training with
    it changes the parameters of the process. The network is trained by another objective, ``DenoisingScoreMatching(sde,
    "likelihood")``, whose expected value stays the same.

    Args:
        sde: A process with trainable parameters, such as ``LearnedSNRSDE()``, whose end points are fixed.
        times: The distribution of t, which must be uniform for a fixed range: ``UniformTime(t_min)``.
        seed: Seed of the random draws. With the seed of the network's objective, both use the same draws.

    Raises:
        TypeError: The process has no trainable parameters.
        ValueError: The end points of the schedule are trained. They change the mean of the loss, so the variance is not the
            right objective for them.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630, section 5 and appendix I.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel
        >>> from scoresde.networks import MLP
        >>> from scoresde.sde import LearnedSNRSDE
        >>> sde = LearnedSNRSDE()
        >>> loss = ScheduleVariance(sde)
        >>> loss(ScoreModel(MLP((2,)), sde), torch.zeros(8, 2)).shape, list(loss.trained(ScoreModel(MLP((2,)), sde)))
        (torch.Size([8]), ['sde'])
    """

    def __init__(self, sde: LinearSDE, *, times: TimeDistribution | None = None, seed: int = 0) -> None:
        if not isinstance(sde, nn.Module) or not any(p.requires_grad for p in sde.parameters()):
            raise TypeError(
                f"sde={shown(sde)} has no trainable parameters: give a process that has, as LearnedSNRSDE()"
            )
        if getattr(sde, "train_ends", False):
            raise ValueError(
                f"sde={sde!r} has end points that are trained, and their gradient is not that of the variance: give "
                "train_ends=False"
            )
        if times is not None and not isinstance(times, UniformTime):
            raise ValueError(
                f"times={times!r} is not allowed: the schedule decides how often each noise level occurs; give UniformTime()"
            )
        super().__init__(sde, "likelihood", times=times, seed=seed)

    def trained(self, model: NoiseConditionalModel) -> Mapping[str, nn.Module]:
        return {"sde": model.sde}  # type: ignore[dict-item]

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        return super().evaluate(model, draw, **condition).square()
