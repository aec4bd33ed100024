r"""The negative log-likelihood of a target given noisy data, which trains classifiers and regressors of x_t.

.. math::
    \ell(x_0, y) = E_t \, E_z \, [-\log p_\theta(y \mid x_t)], \qquad x_t = \alpha x_0 + \sigma z

At each t its expectation over (x_0, y) is the entropy of y given x_t plus the Kullback-Leibler divergence of p_theta from
p(y | x_t). So the minimum is the exact posterior for every distribution of t. For classes it is the cross-entropy. The losses are
not divided by the density of t: a distribution of t states which noise levels matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from scoresde._validation import shown
from scoresde.conditions import DROPPED, check_name
from scoresde.losses.noisy import Draw, NoisyDataObjective
from scoresde.losses.times import TimeDistribution
from scoresde.score import TargetModel
from scoresde.sde import LinearSDE, check_same_process


class TargetLikelihood(NoisyDataObjective):
    """Negative log-likelihood of a target: ``loss(model, x0, label=y)`` is -log p(y | x_t) in nats for each example, (B,).

    Args:
        sde: A ``LinearSDE``, or a chain of one.
        target: The name of the target among the conditions of the data. The model does not get it as a condition.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        seed: Seed of the random draws. Call k without ``step`` uses step k, so that every step of a training loop has new
            draws.

    References:
        Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233, section 4.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> from scoresde.score import Classifier
        >>> model = Classifier(MLP((2,), outputs=3), VPSDE(), classes=3)
        >>> TargetLikelihood(VPSDE())(model, torch.zeros(8, 2), label=torch.arange(8) % 3).shape
        torch.Size([8])
    """

    model_class: ClassVar[type] = TargetModel

    def __init__(
        self, sde: LinearSDE, target: str = "label", *, times: TimeDistribution | None = None, seed: int = 0
    ) -> None:
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde={shown(sde)} has no closed-form kernel: give a LinearSDE")
        check_name("target", target)
        super().__init__(sde, times, seed)
        self.target = target

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: A ``TargetModel``, or another callable with a method ``log_prob(x, t, target, **condition)``.
            draw: The draws, from ``draw``.
            **condition: The target, and the conditions of the model by name.

        Returns:
            -log p(y | x_t) of each example, in nats, (B,).
        """
        check_same_process(self.sde, model)
        log_prob = getattr(model, "log_prob", None)
        if not callable(log_prob):
            raise TypeError(f"model={shown(model)} has no log_prob(x, t, target): give a Classifier or a Regressor")
        given = dict(condition)
        target = given.pop(self.target, None)
        if target is None:
            names = [name for name in condition if name != DROPPED]
            raise TypeError(
                f"the target {self.target} is missing; the given conditions are {', '.join(names) or 'none'}: call "
                f"loss(model, x0, {self.target}=...)"
            )
        loss: Tensor = -log_prob(draw.x_t, draw.t, target, **given)
        return loss
