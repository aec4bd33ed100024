r"""Distributions of a target given x_t: classifiers and regressors that know the noise level.

.. math::
    p(y \mid x_t), \qquad \nabla_{x_t} \log p(y \mid x_t) = \nabla_{x_t} \log p_t(x_t \mid y) - \nabla_{x_t} \log p_t(x_t)

The target y is a class or a vector that belongs to x_0. The gradient is the difference between the score of p(x | y) and that of
p(x), which classifier guidance adds to a score (Song et al. 2021; Dhariwal & Nichol 2021). A model of clean data is not enough
for it: as the noise grows, p(y | x_t) becomes p(y). ``scoresde.losses.TargetLikelihood`` trains it.

Any network works. One that returns (B, \*event, K), such as ours with ``outputs=K``, is pooled: its mean over the event's
dimensions has K numbers for each sample. One that returns (B, K) is used as it is. These numbers are the logits of K classes, or
the mean and the variance of a vector.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from scoresde._arguments import check_constructors
from scoresde._validation import check_count, check_number
from scoresde.conditions import Classes, ConditionKind, Vector
from scoresde.score.base import NoiseConditionalModel
from scoresde.score.labels import Label
from scoresde.sde.linear import LinearSDE

__all__ = ["Classifier", "Regressor", "TargetModel"]


class TargetModel(NoiseConditionalModel):
    """Base class of models of p(y | x_t).

    Args:
        network: A module that is called as ``network(input, label, **condition)``.
        sde: The process that the network is trained under.
        label: The input of the time embedding, ``LogNoiseLabel()`` by default.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.
    """

    predicts: ClassVar[type[ConditionKind]]
    """The kind of the targets."""
    kind: ConditionKind
    """The kind of this model's target, with its size."""

    @classmethod
    @abstractmethod
    def sizes(cls, kind: ConditionKind) -> dict[str, int]:
        """The sizes that a target determines.

        Args:
            kind: The kind of the target.

        Returns:
            The argument of the constructor, and ``outputs``, the number of outputs of the network for each sample.
        """

    @abstractmethod
    def distribution(self, x: Tensor, t: Tensor, **condition: Any) -> Distribution:
        """Computes the distribution of the target given x_t.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The distribution, with a batch of B.
        """

    def log_prob(self, x: Tensor, t: Tensor, target: Tensor | float, **condition: Any) -> Tensor:
        """Computes log p(y | x_t). It is differentiable in x.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            target: The targets, one row for each sample. A number holds for all samples.
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The log-probability of a class or the log-density of a vector, in nats, (B,).

        Raises:
            TypeError, ValueError: If the target is not of the model's kind, or has another number of rows than x.
        """
        if not isinstance(target, Tensor) or target.ndim == 0:
            row = self.kind.parse("target", target).to(x.device)
            target = row.expand(len(x), *row.shape)
        self.kind.check("target", target, len(x))
        found: Tensor = self.distribution(x, t, **condition).log_prob(target)
        return found

    def _pooled(self, x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The outputs of the network for each sample, (B, outputs)."""
        _, _, output, x = self._evaluated(x, t, condition)
        size = self.sizes(self.kind)["outputs"]
        if output.shape == (len(x), size):
            return output
        if output.shape == (*x.shape, size):
            return output.flatten(1, -2).mean(1)
        raise ValueError(
            f"network returned shape {tuple(output.shape)} for x of shape {tuple(x.shape)}: give a network that returns "
            f"{(len(x), size)} or {(*x.shape, size)}, such as one with outputs={size}"
        )


class Classifier(TargetModel):
    """A network as a classifier of noisy data: ``model.log_prob(x, t, y)`` is log p(y | x_t).

    The log-probabilities are the logarithms of the softmax of the logits. ``model(x, t)`` are the logits.

    Args:
        network: A module that is called as ``network(input, label, **condition)`` and returns (B, classes), or
            (B, *event, classes), whose mean over the event's dimensions are the logits.
        sde: The process that the network is trained under: a ``LinearSDE``, or a chain of one for discrete-time models.
        classes: Number of classes. In a config it is that of the data.
        label: The input of the time embedding, ``LogNoiseLabel()`` by default. It has nothing to do with the classes.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError, ValueError: See ``ScoreModel``.

    References:
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.
        Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233, section 4.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> model = Classifier(MLP((2,), outputs=3), VPSDE(), classes=3)
        >>> x, t = torch.zeros(4, 2), torch.full((4,), 0.5)
        >>> model.probabilities(x, t).shape, model.log_prob(x, t, torch.tensor([0, 2, 2, 1])).shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    predicts = Classes

    def __init__(
        self,
        network: nn.Module,
        sde: LinearSDE,
        classes: int,
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        check_count("classes", classes, least=2)
        super().__init__(network, sde, label=label, data_std=data_std)
        self.classes, self.kind = classes, Classes(classes)

    @classmethod
    def sizes(cls, kind: ConditionKind) -> dict[str, int]:
        assert isinstance(kind, Classes)
        return {"classes": kind.count, "outputs": kind.count}

    def logits(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the logits, as ``model(x, t)`` does.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The logits, (B, classes).
        """
        return self._pooled(x, t, condition)

    forward = logits

    def probabilities(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the probabilities of the classes.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The probabilities, (B, classes).
        """
        return self.logits(x, t, **condition).softmax(1)

    def distribution(self, x: Tensor, t: Tensor, **condition: Any) -> Distribution:
        return Categorical(logits=self.logits(x, t, **condition), validate_args=False)


class Regressor(TargetModel):
    r"""A network as a regressor of noisy data: a Gaussian distribution of a vector y given x_t.

    .. math::
        p(y \mid x_t) = N(\text{shift} + \text{scale} \, m, \; \text{scale}^2 \, (\text{min\_std}^2 + e^{v}))

    The network predicts m and v, for each coordinate of y. A fixed variance, or one trained number, would be wrong at almost
    every noise level. The variance of y given x_t is that of y where x_t is noise, and may be close to 0 where x_t is nearly
    x_0. The gradient of log p(y | x_t) is inversely proportional to it. ``min_std`` bounds the log-density, which otherwise
    grows without limit if x_0 determines y.

    Args:
        network: A module that is called as ``network(input, label, **condition)`` and returns (B, 2 size), or
            (B, *event, 2 size), whose mean over the event's dimensions is used: first m, then v.
        sde: The process that the network is trained under: a ``LinearSDE``, or a chain of one for discrete-time models.
        size: Number of coordinates of y. In a config it is that of the data.
        shift: Center of the targets.
        scale: Standard deviation of the targets. With shift and scale near those of the targets, m and v are of order 1.
        min_std: Smallest standard deviation, in units of ``scale``, > 0.
        label: The input of the time embedding, ``LogNoiseLabel()`` by default.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError, ValueError: See ``ScoreModel``.

    References:
        Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution", IEEE ICNN.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> model = Regressor(MLP((2,), outputs=2), VPSDE(), size=1)
        >>> x, t = torch.zeros(4, 2), torch.full((4,), 0.5)
        >>> model(x, t).shape, model.log_prob(x, t, torch.ones(4, 1)).shape
        (torch.Size([4, 1]), torch.Size([4]))
    """

    predicts = Vector

    def __init__(
        self,
        network: nn.Module,
        sde: LinearSDE,
        size: int = 1,
        *,
        shift: float = 0.0,
        scale: float = 1.0,
        min_std: float = 1e-3,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        check_count("size", size)
        check_number("shift", shift)
        check_number("scale", scale, above=0.0)
        check_number("min_std", min_std, above=0.0)
        super().__init__(network, sde, label=label, data_std=data_std)
        self.size, self.kind = size, Vector(size)
        self.shift, self.scale, self.min_std = shift, scale, min_std

    @classmethod
    def sizes(cls, kind: ConditionKind) -> dict[str, int]:
        assert isinstance(kind, Vector)
        return {"size": kind.size, "outputs": 2 * kind.size}

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the mean of y given x_t.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The mean, (B, size).
        """
        mean: Tensor = self.distribution(x, t, **condition).mean
        return mean

    def distribution(self, x: Tensor, t: Tensor, **condition: Any) -> Distribution:
        mean, log_variance = self._pooled(x, t, condition).chunk(2, 1)
        std = torch.logaddexp(log_variance, log_variance.new_tensor(2 * math.log(self.min_std))).mul(0.5).exp()
        return Independent(
            Normal(self.shift + self.scale * mean, self.scale * std, validate_args=False), 1, validate_args=False
        )


check_constructors(globals())
