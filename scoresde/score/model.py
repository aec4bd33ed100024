"""A score model: a network, a process, and the meaning of the network's output::

    model(x, t) = grad log p_t(x)

The network is any module ``network(x, label, **condition) -> output``. A ``Prediction`` defines what the output means::

    noise      E[z | x_t]                          score = -output / sigma                   (DDPM)
    score      grad log p_t                        score = output                            (NCSN, the paper's VE)
    data       E[x_0 | x_t]                        score = (alpha output - x) / sigma^2      (Tweedie)
    velocity   alpha E[z | x_t] - sigma E[x_0 | x_t]                                         (Salimans & Ho 2022)
    MixedPrediction     E[z | x_t] minus its value for Gaussian data                         (Vahdat et al. 2021)
    PreconditionedPrediction    the same, scaled to unit variance                            (EDM, Karras et al. 2022)
    Levels              logits over the levels of quantized data, see scoresde.score.quantized

The input of the time embedding is a ``label``. The default is ln(sigma / alpha), which has the same scale for every linear
process. The paper's labels are ``TimeLabel(999.0)`` (VP, sub-VP) and ``SigmaLabel()`` (VE). The network's input is x divided
by its standard deviation sqrt(alpha^2 data_std^2 + sigma^2), or x itself with ``data_std=None``, as in the paper. Both are
the same for VP and data_std = 1. Under a process with a shift, the mean of x_t for data with mean 0 is subtracted first.

A process without a closed-form kernel needs the prediction "score". Its label is ln t by default, and the network's input is
x / data_std. The model then has a score only: ``noise``, ``denoised`` and ``velocity`` raise TypeError.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._validation import check_choice, shown
from scoresde.score.base import NoiseConditionalModel
from scoresde.score.kernels import check_prediction
from scoresde.score.labels import Label
from scoresde.score.predictions import PREDICTIONS, DataPosterior, Prediction
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.scores import HALF


class ScoreModel(NoiseConditionalModel):
    """A network as a score: ``model(x, t, **condition)``, whatever the network predicts.

    A network of half precision takes x in its own dtype, and t in that dtype or in float32. The coefficients are then
    computed in float32, and the score has the wider dtype of x and t.

    Args:
        network: A module that is called as ``network(input, label, **condition)``. A condition that is a tensor has one row
            for each sample, or no dimension.
        sde: The process that the network is trained under, or a chain of one for discrete-time models.
        prediction: "noise", "score", "data", "velocity", or a ``Prediction``, e.g. ``MixedPrediction(0.5)``. A process
            without a closed-form kernel needs "score".
        label: The input of the time embedding: by default ``LogNoiseLabel()``, or ``LogTimeLabel()`` for a process without a
            closed-form kernel.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError: If the prediction or the label needs a closed-form kernel and the process has none. When called, if x has
            another dtype or device than the network, or if a required condition is missing.
        ValueError: When called, if t is outside [0, T] or does not have the shape (B,), if a condition has another number of
            rows than x, or if the network's output has the wrong shape.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> model = ScoreModel(MLP((2,)), VPSDE(), prediction="velocity")
        >>> model(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    outputs_per_coordinate: ClassVar[int] = 1
    """Numbers that the network predicts for each coordinate, for predictions of one number."""

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        prediction: str | Prediction = "noise",
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        super().__init__(network, sde, label=label, data_std=data_std)
        if isinstance(prediction, str):
            check_choice("prediction", prediction, PREDICTIONS)
            prediction = PREDICTIONS[prediction]()
        if not isinstance(prediction, Prediction):
            raise TypeError(
                f"prediction={shown(prediction)} is not a Prediction: give {sorted(PREDICTIONS)} or an instance"
            )
        check_prediction(prediction, sde)
        self.prediction = prediction

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the score grad log p_t(x).

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The score, with the shape of x.
        """
        score = self.prediction.score(*self._evaluated(x, t, condition))
        return score if x.dtype not in HALF else score.to(torch.promote_types(x.dtype, t.dtype))

    def noise(self, x: Tensor, t: Tensor, *, kernel: GaussianKernel | None = None, **condition: Any) -> Tensor:
        """Computes the expected noise E[z | x_t].

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            kernel: ``sde.kernel(t)``, if it is already known.
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The expected noise, with the shape of x.
        """
        return self.prediction.noise(*self._evaluated(x, t, condition, kernel))

    def denoised(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the denoised data E[x_0 | x_t].

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The expected data, with the shape of x.
        """
        return self.posterior(x, t, **condition).mean

    def velocity(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the velocity alpha E[z | x_t] - sigma E[x_0 | x_t].

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The velocity, with the shape of x.
        """
        return self.prediction.velocity(*self._evaluated(x, t, condition))

    @property
    def has_variance(self) -> bool:
        """Whether the model has a variance of x_0 given x_t, by ``score_and_variance``."""
        return self.prediction.has_variance

    def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor, **condition: Any) -> tuple[Tensor, Tensor]:
        """Computes the score, and the variance V of each coordinate of x_0 given x_t, by one evaluation of the network.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            delta: Difference of (alpha / sigma)^2 in the step for which the variance is used, () or (B,). Not used: V depends on
                x_t only.
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The score, with the shape of x, and V in units of the data squared, (B, *event).

        Raises:
            TypeError: If the prediction has no variance. ``Levels`` has one.
        """
        score, variance = self.prediction.score_and_variance(*self._evaluated(x, t, condition))
        return (score if x.dtype not in HALF else score.to(torch.promote_types(x.dtype, t.dtype))), variance

    def posterior(self, x: Tensor, t: Tensor, **condition: Any) -> DataPosterior:
        """Computes the model's posterior over x_0 given x_t.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The mean of x_0, and the logits over its levels if the prediction has them.
        """
        return self.prediction.posterior(*self._evaluated(x, t, condition))


check_constructors(globals())
