r"""The variance of x_0 given x_t, which a score does not give, as a function of the noise level.

A reverse step is q(x_s | x_t, x_0) averaged over x_0 given x_t. With a Gaussian of mean x_hat and variance V for x_0,

.. math::
    p(x_s \mid x_t) = N\left(E[x_s \mid x_t, \hat x], \; \lambda^2 + c^2 V\right),

where lambda^2 and c are the variance of q(x_s | x_t, x_0) and its coefficient of x_0. For scalar coefficients the mean of V over
coordinates and data depends only on the level r = sigma / alpha::

    GaussianVariance(s)     V = r^2 s^2 / (r^2 + s^2)     data of standard deviation s in each direction
    AnalyticVariance        V = E ||x_0 - x_hat||^2 / d, measured once

DDPM's two fixed variances are those of a `GaussianVariance`: 0 (data at a point) gives the lower one, and 1 the upper one, beta_t
of a VP process. The upper one of a VE process is the limit of large s.

The optimal V for a given x_hat is its mean squared error, which `AnalyticVariance` uses. For the exact score it equals that of
Bao et al. 2022 (arXiv:2201.06503), r^2 (1 - Gamma_t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_number, check_output, shown
from scoresde.score.denoising import DenoisingErrors, check_scalar
from scoresde.sde import ScalarSDE

__all__ = ["AnalyticVariance", "DataVariance", "GaussianVariance"]

DataVariance = Callable[[Tensor], Tensor]
"""A function of noise levels sigma / alpha, of any shape, that returns V >= 0 in units of the data squared, in this shape."""
OwnVariance = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""The method score_and_variance(x, t, delta) of a score, as of a ``LearnedVarianceModel``."""
MODEL = "model"
"""In place of a ``DataVariance``: the variance that the score itself has."""


@dataclass(frozen=True)
class GaussianVariance:
    """The variance of x_0 given x_t for data with the covariance std^2 I.

    Args:
        std: Standard deviation s of the data, >= 0.

    Example:
        >>> import torch
        >>> GaussianVariance(1.0)(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.5000])
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        check_number("std", self.std, least=0.0)

    def __call__(self, level: Tensor) -> Tensor:
        """V at noise levels.

        Args:
            level: The levels sigma / alpha, of any shape.

        Returns:
            The variance, in the shape of ``level``.
        """
        return level**2 / (1.0 + (level / self.std) ** 2) if self.std else torch.zeros_like(level)


@dataclass(frozen=True, eq=False)
class AnalyticVariance:
    """The measured variance of x_0 given x_t, optimal for variational bounds.

    V / r^2 is interpolated linearly in ln r between the measured times, and is constant outside of them.

    Args:
        levels: Ascending noise levels sigma / alpha, (M,), > 0.
        shares: V / r^2 at each level, (M,), in [0, 1] for an exact score.
        origin: The process and a digest of the weights of the score that was measured, by which ``variational_bound`` refuses
            other ones. Empty texts if they are not known.

    Raises:
        ValueError: If the levels do not ascend, or a value is not allowed.

    References:
        Bao, Li, Zhu, Zhang 2022, "Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion probabilistic
        models", arXiv:2201.06503.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.score.denoising import DenoisingErrors
        >>> errors = DenoisingErrors.of_gaussian(VPSDE(), torch.linspace(0.01, 1.0, 100), std=0.5)
        >>> variance = AnalyticVariance.of(VPSDE(), errors)
        >>> round(float(variance(torch.tensor(0.5))), 3), float(GaussianVariance(0.5)(torch.tensor(0.5)))
        (0.125, 0.125)
    """

    levels: Tensor
    shares: Tensor
    origin: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        for name in ("levels", "shares"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).detach().to("cpu", torch.float64))
        if self.levels.ndim != 1 or len(self.levels) < 2 or self.shares.shape != self.levels.shape:
            raise ValueError(
                f"levels has shape {tuple(self.levels.shape)} and shares {tuple(self.shares.shape)}: give (M,) both, M >= 2"
            )
        if not bool(self.levels.isfinite().all() and (self.levels > 0).all() and (self.levels.diff() > 0).all()):
            raise ValueError(f"levels={shown(self.levels)} is not allowed: give positive numbers that ascend")
        if not bool(self.shares.isfinite().all() and (self.shares >= 0).all()):
            raise ValueError(f"shares={shown(self.shares)} is not allowed: give finite numbers >= 0")

    @classmethod
    def of(cls, sde: ScalarSDE, errors: DenoisingErrors) -> AnalyticVariance:
        """The variance from measured errors of a score.

        Args:
            sde: The process of the score, or a chain of it.
            errors: The result of ``denoising_errors`` at two or more times.

        Returns:
            The variance as a function of the level.

        Raises:
            TypeError: If the process does not have scalar coefficients.
            ValueError: If a time is not allowed.
        """
        check_scalar(sde)
        levels = sde.sigma(errors.times) / sde.alpha(errors.times)
        return cls(levels, errors.data_error / levels**2, errors.origin)

    def __call__(self, level: Tensor) -> Tensor:
        """V at noise levels.

        Args:
            level: The levels sigma / alpha, of any shape.

        Returns:
            The variance, in the shape of ``level``.
        """
        x, y = self.levels.log().to(level.device), self.shares.to(level.device)
        u = level.double().log().clamp(x[0], x[-1])
        k = torch.searchsorted(x, u).clamp(1, len(x) - 1)
        share = y[k - 1] + (y[k] - y[k - 1]) * (u - x[k - 1]) / (x[k] - x[k - 1])
        return (share * level.double() ** 2).to(level.dtype)


def check_variance(name: str, variance: object) -> None:
    """Raise ValueError unless ``variance``, the argument ``name``, is a function of the noise level or "model"."""
    if not callable(variance) and variance != MODEL:
        raise ValueError(
            f"{name}={shown(variance)} is not allowed: give {MODEL!r}, or a function of sigma / alpha, such as "
            "GaussianVariance(1.0)"
        )


def has_variance(score: object) -> bool:
    """Whether a score has a variance of x_0 given x_t: the method ``score_and_variance``, and not a false ``has_variance``."""
    return callable(getattr(score, "score_and_variance", None)) and bool(getattr(score, "has_variance", True))


def variance_method(score: object) -> OwnVariance:
    """The method ``score_and_variance`` of a score.

    Raises:
        TypeError: If it has none.
    """
    if not has_variance(score):
        raise TypeError(
            f"variance={MODEL!r} needs a score with a variance, and score={shown(score)} has no variance: give a "
            "LearnedVarianceModel, a ScoreModel with the prediction Levels or the score of a GaussianMixture, or a variance that "
            "is a function of the noise level"
        )
    method: OwnVariance = score.score_and_variance  # type: ignore[attr-defined]
    return method


def with_variance(
    evaluate: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor], method: OwnVariance, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """The score and the variance of x_0 given x_t, by one evaluation.

    Args:
        evaluate: A function that calls the score it is given, (x, t) -> score, once, and returns the result.
        method: The method ``score_and_variance`` of the score.
        delta: The difference of (alpha / sigma)^2 in the step, () or (B,).

    Returns:
        The result of ``evaluate``, and V of the same shape and dtype.

    Raises:
        ValueError: If V has another shape than the score.
    """
    found: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        value, variance = method(x, t, delta)
        check_output("the variance of score_and_variance", variance, value)
        found.append(variance)
        return value

    value = evaluate(score)
    return value, found[0].to(value.dtype)


check_constructors(globals())
