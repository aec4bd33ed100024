r"""A score model whose network also predicts the variance V of x_0 given x_t (Nichol & Dhariwal 2021).

A reverse step from t to s is q(x_s | x_t, x_0) averaged over N(x_hat, V) in place of x_0. With r = sigma / alpha and

.. math::
    \Delta = r_s^{-2} - r_t^{-2}, \qquad \tilde\beta = \text{the variance of } q(x_s \mid x_t, x_0),

its variance is beta_tilde (1 + Delta V) for each coordinate. A step to the data has an infinite Delta, and the variance V itself.
The network has two outputs for each coordinate. One is the prediction of a `ScoreModel`; the other, o, is the variance's::

    InterpolatedVariance   1 + Delta V = (1 + Delta V_up)^v,   v = (o + 1) / 2
    FreeVariance           V = V_up exp(o)

V_up is the variance of x_0 given x_t for Gaussian data of a given standard deviation, by default 1. For a VP process and this
standard deviation, beta_tilde (1 + Delta V_up) is the variance beta of the forward step. The interpolated variance is then
that of the paper, exp(v log beta + (1 - v) log beta_tilde), where o is the output of the network of its implementation. It
depends on s too, also for a sub-sequence of the instants that the model was trained for.

A step to the data has no beta_tilde. The paper uses that of the next step, which is beta / 2 for equal betas. So the interpolated
variance of this step is V_up 2^(v - 1).

References:
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, section 3.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._validation import check_number, expand
from scoresde.score.data_variance import GaussianVariance
from scoresde.score.labels import Label
from scoresde.score.model import ScoreModel
from scoresde.score.predictions import Prediction
from scoresde.score.quantized import Levels
from scoresde.sde import ScalarSDE
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.scores import HALF

__all__ = ["FreeVariance", "InterpolatedVariance", "LearnedVariance", "LearnedVarianceModel"]


@dataclass(frozen=True)
class LearnedVariance(ABC):
    """The meaning of a network's output for the variance V of x_0 given x_t.

    Args:
        std: Standard deviation of the Gaussian data that defines V_up, > 0: 1 for beta of a VP process. That of a VE process is
            the limit of large values.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        check_number("std", self.std, above=0.0)

    def upper(self, level: Tensor) -> Tensor:
        """V_up, the variance of x_0 given x_t for Gaussian data.

        Args:
            level: Noise levels sigma / alpha, of any shape.

        Returns:
            The variance, in the shape of ``level``.
        """
        return GaussianVariance(self.std)(level)

    @abstractmethod
    def __call__(self, output: Tensor, level: Tensor, delta: Tensor) -> Tensor:
        """The variance V in a step from t to s.

        Args:
            output: The output of the network, (B, *event).
            level: Noise level sigma / alpha at t, (B,).
            delta: Difference (alpha_s / sigma_s)^2 - (alpha_t / sigma_t)^2, () or (B,), infinite for a step to the data.

        Returns:
            V in units of the data squared, (B, *event).
        """


@dataclass(frozen=True)
class InterpolatedVariance(LearnedVariance):
    """1 + Delta V = (1 + Delta V_up)^v with v = (output + 1) / 2, the interpolation of log beta and log beta_tilde.

    V is below 0 where v is, that is, where the reverse variance is below beta_tilde.

    Args:
        std: Standard deviation of the Gaussian data that defines V_up, > 0: 1 for beta of a VP process. That of a VE process is
            the limit of large values.

    References:
        Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 15.

    Example:
        >>> import torch
        >>> beta, beta_tilde = InterpolatedVariance()(torch.tensor([[1.0], [-1.0]]), torch.ones(2), torch.tensor(3.0))
        >>> beta, beta_tilde
        (tensor([0.5000]), tensor([0.]))
    """

    def __call__(self, output: Tensor, level: Tensor, delta: Tensor) -> Tensor:
        v, upper, delta = 0.5 * (output + 1.0), expand(self.upper(level), output), expand(delta, output)
        step = delta.isfinite()
        finite = torch.where(step, delta, 1.0).clamp(min=1e-20)
        return torch.where(step, torch.expm1(v * torch.log1p(finite * upper)) / finite, upper * torch.exp2(v - 1.0))


@dataclass(frozen=True)
class FreeVariance(LearnedVariance):
    """V = V_up exp(output): the same variance of x_0 for every s.

    Args:
        std: Standard deviation of the Gaussian data that defines V_up, > 0. The output 0 is right for such data.

    Example:
        >>> import torch
        >>> FreeVariance()(torch.zeros(1, 1), torch.ones(1), torch.tensor(3.0))
        tensor([[0.5000]])
    """

    def __call__(self, output: Tensor, level: Tensor, delta: Tensor) -> Tensor:
        return expand(self.upper(level), output) * output.exp()


class LearnedVarianceModel(ScoreModel):
    """A ``ScoreModel`` whose network has two outputs for each coordinate: a prediction, and a variance of x_0 given x_t.

    It is a score as every other ``ScoreModel``. ``score_and_variance`` returns the variance too, by the same evaluation. Samplers
    and bounds use it with ``variance="model"``.

    Args:
        network: A module that is called as ``network(input, label, **condition)``. For an input (B, *event) its output is (B,
            *event, 2), as that of the networks of this library with ``outputs=2``, with the variance's last. Or it is (B, 2 C,
            ...) for an input (B, C, ...), with the variance's channels last, as that of improved-diffusion.
        sde: A process with scalar coefficients that the network is trained under, or a chain of one.
        prediction: The meaning of the first output: "noise", "score", "data", "velocity", or a ``Prediction``.
        variance: The meaning of the second output.
        label: The input of the time embedding, by default ``LogNoiseLabel()``.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError: If the process does not have scalar coefficients, or the prediction is ``Levels``.
        ValueError: If the output of the network does not hold a variance: for networks with an attribute ``outputs`` at once,
            for others when called.

    References:
        Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> model = LearnedVarianceModel(MLP((2,), outputs=2), VPSDE())
        >>> x, t = torch.zeros(4, 2), torch.full((4,), 0.5)
        >>> score, variance = model.score_and_variance(x, t, torch.tensor(3.0))
        >>> model(x, t).shape, score.shape, variance.shape
        (torch.Size([4, 2]), torch.Size([4, 2]), torch.Size([4, 2]))
    """

    outputs_per_coordinate: ClassVar[int] = 2

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        prediction: str | Prediction = "noise",
        variance: LearnedVariance = InterpolatedVariance(),
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        if isinstance(sde, SDE) and not isinstance(sde, ScalarSDE):
            raise TypeError(
                f"sde={sde!r} does not have scalar coefficients, which a learned variance needs: give a ScalarSDE, such as "
                "VPSDE(), or a chain"
            )
        super().__init__(network, sde, prediction, label=label, data_std=data_std)
        if isinstance(prediction, Levels):
            raise TypeError(
                f"prediction={prediction!r} is not allowed: its logits already have a variance; give a ScoreModel, or another "
                "prediction"
            )
        if getattr(network, "outputs", None) == 1:
            raise ValueError(
                f"network is a {type(network).__name__} with outputs=1, which do not hold a variance: give outputs=2"
            )
        self.variance = variance

    @property
    def has_variance(self) -> bool:
        """True."""
        return True

    def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """Computes the score and the variance V of x_0 given x_t in a step from t to s, by one evaluation of the network.

        Args:
            x: The states, (B, *event).
            t: The times t, (B,).
            delta: Difference (alpha_s / sigma_s)^2 - (alpha_t / sigma_t)^2 >= 0 of the signal-to-noise ratios, () or (B,),
                infinite for a step to the data.
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The score, with the shape of x, and V in units of the data squared, (B, *event).
        """
        arguments, variance = self._with_variance(x, t, delta, condition, None)
        score = self.prediction.score(*arguments)
        return (score if x.dtype not in HALF else score.to(torch.promote_types(x.dtype, t.dtype))), variance

    def noise_and_variance(
        self, x: Tensor, t: Tensor, delta: Tensor, *, kernel: GaussianKernel | None = None, **condition: Any
    ) -> tuple[Tensor, Tensor]:
        """Computes the expected noise E[z | x_t] and the variance V, as ``score_and_variance``.

        Args:
            x: The states, (B, *event).
            t: The times t, (B,).
            delta: Difference (alpha_s / sigma_s)^2 - (alpha_t / sigma_t)^2 >= 0 of the signal-to-noise ratios, () or (B,),
                infinite for a step to the data.
            kernel: ``sde.kernel(t)``, if it is already known.
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The noise, with the shape of x, and V in units of the data squared, (B, *event).
        """
        arguments, variance = self._with_variance(x, t, delta, condition, kernel)
        return self.prediction.noise(*arguments), variance

    def _with_variance(
        self, x: Tensor, t: Tensor, delta: Tensor, condition: dict[str, Any], kernel: GaussianKernel | None
    ) -> tuple[tuple[SDE, GaussianKernel, Tensor, Tensor], Tensor]:
        """The arguments of the prediction, and V, by one evaluation of the network."""
        sde, kernel, output, state = super()._evaluated(x, t, condition, kernel)
        mean, spread = self._parts(output, state)
        return (sde, kernel, mean, state), self.variance(spread, kernel.level() / kernel.signal(), delta)

    def _evaluated(
        self, x: Tensor, t: Tensor, condition: dict[str, Any], kernel: GaussianKernel | None = None
    ) -> tuple[SDE, GaussianKernel, Tensor, Tensor]:
        sde, kernel, output, state = super()._evaluated(x, t, condition, kernel)
        return sde, kernel, self._parts(output, state)[0], state

    @staticmethod
    def _parts(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs for the prediction and the variance, each with the shape of x."""
        if output.shape == (*x.shape, 2):
            return output[..., 0], output[..., 1]
        if x.ndim > 1 and output.shape == (len(x), 2 * x.shape[1], *x.shape[2:]):
            mean, spread = output.chunk(2, dim=1)
            return mean, spread
        twice = "" if x.ndim < 2 else f", or {(len(x), 2 * x.shape[1], *x.shape[2:])} with the variance's values last"
        raise ValueError(
            f"the network's output has shape {tuple(output.shape)} for x of shape {tuple(x.shape)}, which does not hold a "
            f"variance: give a network with output {(*x.shape, 2)}{twice}"
        )


check_constructors(globals())
