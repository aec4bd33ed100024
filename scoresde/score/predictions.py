"""The meaning of a network's output: noise, score, data, velocity, and others.

The predictions, and the scores that they give, are ::

    noise        E[z | x_t]                             score = -output / sigma                (DDPM)
    score        grad log p_t                           score = output
    data         E[x_0 | x_t]                           score = (alpha output - x) / sigma^2   (Tweedie)
    velocity     alpha E[z | x_t] - sigma E[x_0 | x_t]                                         (Salimans & Ho 2022)
    scaled score sigma grad log p_t = -E[z | x_t]       score = output / sigma                 (NCSN++, NCSNv2)
    mixed        E[z | x_t] minus its value for Gaussian data                                  (Vahdat et al. 2021)
    preconditioned      the same in units of its standard deviation for Gaussian data         (EDM, Karras et al. 2022)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_number, expand
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.linalg.maps import BlockMap, LinearMap, ScalarMap


@dataclass(frozen=True)
class DataPosterior:
    """A model's posterior over x_0 given x_t.

    Attributes:
        mean: E[x_0 | x_t], (B, *event).
        logits: Logits over the levels of each coordinate, (B, *event, levels), if the model has them, else None.
    """

    mean: Tensor
    logits: Tensor | None = None


class Prediction(ABC):
    """The meaning of a network's output.

    A subclass implements ``score``. It overrides the other methods if they have a more direct formula.
    """

    needs_kernel: ClassVar[bool] = True
    """Whether ``score`` uses the kernel, so that the process must have one in closed form."""
    has_variance: ClassVar[bool] = False
    """Whether the output also determines the variance of x_0 given x_t, by ``score_and_variance``."""

    @abstractmethod
    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """Computes the score grad log p_t(x).

        Args:
            sde: The process.
            kernel: The kernel of the process at the times of the batch.
            output: The output of the network, with the shape of x.
            x: The states, (B, *state).

        Returns:
            The score, with the shape of x.
        """

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """Computes the expected noise E[z | x_t].

        Args:
            sde: The process.
            kernel: The kernel of the process at the times of the batch.
            output: The output of the network, with the shape of x.
            x: The states, (B, *state).

        Returns:
            The expected noise, with the shape of x.
        """
        return kernel.noise_from_score(self.score(sde, kernel, output, x))

    def velocity(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """Computes the velocity alpha E[z | x_t] - sigma E[x_0 | x_t].

        Args:
            sde: The process.
            kernel: The kernel of the process at the times of the batch.
            output: The output of the network, with the shape of x.
            x: The states, (B, *state).

        Returns:
            The velocity, with the shape of x.
        """
        return kernel.velocity_from_score(x, self.score(sde, kernel, output, x))

    def posterior(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        """Computes the posterior over x_0 given x_t.

        Args:
            sde: The process.
            kernel: The kernel of the process at the times of the batch.
            output: The output of the network, with the shape of x.
            x: The states, (B, *state).

        Returns:
            The posterior mean, and the logits if there are any.
        """
        return DataPosterior(kernel.data_from_score(x, self.score(sde, kernel, output, x)))

    def score_and_variance(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the score, and the variance of each coordinate of x_0 given x_t.

        Args:
            sde: The process.
            kernel: The kernel of the process at the times of the batch.
            output: The output of the network, with the shape of x.
            x: The states, (B, *state).

        Returns:
            The score, and the variance in units of the data squared, both with the shape of x.

        Raises:
            TypeError: If the output does not determine a variance.
        """
        raise TypeError(
            f"{self!r} has no variance of x_0 given x_t: give the prediction Levels, a LearnedVarianceModel, or a variance that "
            "is a function of the noise level"
        )


@checked_arguments
def like(x: Tensor, output: Tensor) -> Tensor:
    """Checks that the network's output has the shape of x, to prevent silent broadcasting.

    Args:
        x: The states, (B, *state).
        output: The output of the network.

    Returns:
        ``output``.

    Raises:
        ValueError: The shapes differ.
    """
    if output.shape != x.shape:
        raise ValueError(
            f"the network's output has shape {tuple(output.shape)} for x of shape {tuple(x.shape)}: "
            "it must return one value for every coordinate of x"
        )
    return output


class NoisePrediction(Prediction):
    """The output is the expected noise E[z | x_t]."""

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(like(x, output))

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)

    def posterior(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        return DataPosterior(kernel.data_from_noise(x, like(x, output)))


class ScorePrediction(Prediction):
    """The output is the score."""

    needs_kernel = False

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)


class DataPrediction(Prediction):
    """The output is the denoised data E[x_0 | x_t]."""

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_data(x, like(x, output))

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_data(x, like(x, output))

    def posterior(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        return DataPosterior(like(x, output))


class VelocityPrediction(Prediction):
    """The output is the velocity alpha E[z | x_t] - sigma E[x_0 | x_t]."""

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(self.noise(sde, kernel, output, x))

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.noise_from_velocity(x, like(x, output))

    def velocity(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return like(x, output)

    def posterior(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> DataPosterior:
        return DataPosterior(kernel.data_from_noise(x, self.noise(sde, kernel, output, x)))


@dataclass(frozen=True)
class MixedPrediction(Prediction):
    """The output corrects the score of Gaussian data N(0, data_std^2 I), in units of noise.

    The mixed score of Vahdat et al. 2021 and Dockhorn et al. 2022 is ::

        score = -(data_std^2 A P A^T + L L^T)^-1 x - L^-T output

    where P projects a state on the data in it. A network that returns 0 is exact for Gaussian data. For Langevin diffusion,
    the velocity's part equals -v / Sigma_vv - l output of Dockhorn et al. if x and v are uncorrelated under the Gaussian's
    distribution of x_t. Otherwise they leave that correlation to the network.

    Args:
        data_std: Standard deviation of the Gaussian data, > 0.

    References:
        Vahdat, Kreis, Kautz 2021, "Score-based generative modeling in latent space", arXiv:2106.05931.
        Dockhorn, Vahdat, Kreis 2022, "Score-based generative modeling with critically-damped Langevin diffusion",
        arXiv:2112.07068.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        check_number("data_std", self.data_std, above=0.0)

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.gaussian_score(x, self._root(sde, x)) + kernel.score_from_noise(like(x, output))

    def _root(self, sde: SDE, x: Tensor) -> LinearMap:
        """data_std P; a number if the state is the data."""
        std = torch.tensor(self.data_std, dtype=x.dtype, device=x.device)
        if sde.extract_data(x).shape == x.shape:
            return ScalarMap(std)
        fields = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        fields = fields.reshape(*fields.shape, *(1,) * (x.ndim - 2)).expand(-1, *x.shape[1:])
        of_data = sde.embed_data(sde.extract_data(fields)).reshape(*fields.shape[:2], -1)[..., 0]
        return BlockMap(std * of_data.mT)


@dataclass(frozen=True)
class PreconditionedPrediction(MixedPrediction):
    r"""The output corrects the score of Gaussian data N(0, data_std^2 I), in units of the correction's standard deviation.

    .. math::
        E[z | x_t] = \frac{\sigma\, x_t}{\alpha^2 s^2 + \sigma^2} - \frac{\alpha s}{\sqrt{\alpha^2 s^2 + \sigma^2}}\, F,
        \qquad
        E[x_0 | x_t] = \frac{\alpha s^2\, x_t}{\alpha^2 s^2 + \sigma^2} + \frac{\sigma s}{\sqrt{\alpha^2 s^2 + \sigma^2}}\, F

    with the output F and s = ``data_std``. This is the preconditioning of EDM for any linear process: with ``data_std``
    of the `ScoreModel` equal to s, input and target of the network have variance 1 at every t for data of this standard
    deviation. For ``VPSDE`` and s = 1 it is the velocity up to its sign.

    At high noise the factor of F goes to 0 and the linear term is exact. The network therefore cannot move a state that is
    further out than the states of the training, such as a rare start of the prior, where a network that predicts the noise
    itself would have to continue this linear function. Without scalar coefficients, alpha and sigma in the factor of F are
    root mean squares.

    Args:
        data_std: Standard deviation s of the data, > 0.

    References:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364, table 1.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel, VESDE
        >>> from scoresde.networks import MLP
        >>> model = ScoreModel(MLP((2,)), VESDE(), PreconditionedPrediction(0.5), data_std=0.5)
        >>> model.denoised(torch.full((1, 2), 100.0), torch.ones(1)).abs().max() < 0.1
        tensor(True)
    """

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        signal = kernel.signal() * self.data_std
        factor = expand(signal / signal.hypot(kernel.level()), x)
        return super().score(sde, kernel, -factor * like(x, output), x)


PREDICTIONS: dict[str, type[Prediction]] = {
    "noise": NoisePrediction,
    "score": ScorePrediction,
    "data": DataPrediction,
    "velocity": VelocityPrediction,
}


class ScaledScorePrediction(Prediction):
    """The output is sigma times the score."""

    def score(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return kernel.score_from_noise(self.noise(sde, kernel, output, x))

    def noise(self, sde: SDE, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        return -like(x, output)


check_constructors(globals(), records=(DataPosterior,))
