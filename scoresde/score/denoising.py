r"""Mean squared errors of a score as a denoiser, at each of some times.

A score predicts the data and the noise of x_t = alpha_t x_0 + sigma_t z::

    z_hat = -sigma_t score(x_t, t)        x_hat = (x_t + sigma_t^2 score(x_t, t)) / alpha_t

Two averages over data of d coordinates and noise contain all that variational bounds, analytic reverse variances and the
search for time grids use::

    data_error:    E ||x_0 - x_hat||^2 / d = (sigma_t / alpha_t)^2 E ||z - z_hat||^2 / d
    noise_square:  E ||z_hat||^2 / d                               sigma_t^2 Gamma_t of Bao et al.

The noise of the data and that of z make the second hard to measure where it is close to 1, and 1 - noise_square is what is
needed there. For Gaussian data of mean m and covariance s^2 I, z_hat = k (x_t - alpha m) with k = sigma / (alpha^2 s^2 +
sigma^2). So the control variate::

    k^2 (2 alpha sigma (x_0 - m) . z + sigma^2 (||z||^2 - d)) / d

is subtracted from ||z_hat||^2 / d, with m and s of the given data. Its expectation is 0 for any data.

For the exact score data_error = (sigma_t / alpha_t)^2 (1 - noise_square), and both are properties of the data alone. The
first is then the mean variance of x_0 given x_t. For any other score data_error is larger than this variance.

References:
    Bao, Li, Zhu, Zhang 2022, "Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion
    probabilistic models", arXiv:2201.06503.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number, check_times, expand, shown
from scoresde.conditions import given, rows_of
from scoresde.noise import NoiseSource
from scoresde.score.origin import origin_of
from scoresde.sde import ScalarSDE, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide

__all__ = ["DenoisingErrors", "denoising_errors"]


@dataclass(frozen=True, repr=False, eq=False)
class DenoisingErrors:
    """Mean squares of a denoiser at M times, in units of the data squared and of the noise squared.

    Args:
        times: Ascending times, (M,) float64.
        data_error: E ||x_0 - x_hat||^2 / d at each time, (M,), >= 0.
        noise_square: E ||z_hat||^2 / d at each time, (M,), >= 0.
        data_standard_error: Standard error of ``data_error``, (M,). None if the values are exact.
        noise_standard_error: Standard error of ``noise_square``, (M,). None if the values are exact.
        samples: Number of samples that were averaged; 0 if the values are exact.
        data_spread: Standard deviation over samples of ||x_0 - x_hat||^2 / d, less its part from the length of the noise, (M,).
            It says which steps of a variational bound need many draws. None if it is not known.
        origin: The process, and a digest of the weights of the score, for checks. Empty texts if they are not known.

    Raises:
        ValueError: The times do not ascend, or a value is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> DenoisingErrors.of_gaussian(VPSDE(), torch.tensor([0.1, 1.0]), std=0.5).noise_square
        tensor([0.3164, 1.0000], dtype=torch.float64)
    """

    times: Tensor
    data_error: Tensor
    noise_square: Tensor
    data_standard_error: Tensor | None = None
    noise_standard_error: Tensor | None = None
    samples: int = 0
    data_spread: Tensor | None = None
    origin: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        check_count("samples", self.samples, least=0)
        object.__setattr__(self, "times", ascending_times("times", self.times))
        for name in ("data_error", "noise_square", "data_standard_error", "noise_standard_error", "data_spread"):
            value = getattr(self, name)
            if value is None:
                continue
            value = torch.as_tensor(value, dtype=torch.float64)
            if value.shape != self.times.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}: give {tuple(self.times.shape)}, one per time")
            if not bool((value.isfinite() & (value >= 0)).all()):
                raise ValueError(f"{name}={shown(value)} is not allowed: give finite numbers >= 0")
            object.__setattr__(self, name, value)

    @classmethod
    def of_gaussian(cls, sde: ScalarSDE, times: Tensor, std: float = 1.0) -> DenoisingErrors:
        """The exact values for data with the covariance std^2 I.

        Args:
            sde: The process, or a chain of one.
            times: Ascending times, (M,).
            std: Standard deviation of each coordinate of the data, > 0.

        Returns:
            The errors of the exact score.

        Raises:
            TypeError: The process does not have scalar coefficients.
            ValueError: A time is not allowed.
        """
        check_scalar(sde)
        check_number("std", std, above=0.0)
        times = ascending_times("times", times)
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        share = sigma**2 / ((alpha * std) ** 2 + sigma**2)
        return cls(times, share * std**2, share)


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def denoising_errors(
    sde: ScalarSDE,
    score: Callable[..., Tensor],
    x: Tensor,
    times: Tensor,
    *,
    batch_size: int = 1024,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> DenoisingErrors:
    """Measure a score as a denoiser of data, with one evaluation of each sample at each time.

    A sample has the same noise at all times, so that the results are smooth functions of t. They do not depend on
    ``batch_size``, up to rounding.

    Args:
        sde: The process of the score, or a chain of it.
        score: The score, (x, t) -> a tensor with the shape of x.
        x: Data, (B, *event), at least two samples.
        times: Ascending times with sigma > 0, (M,), for a chain those of its instants.
        batch_size: Largest number of samples in one evaluation.
        seed: Seed of the noise.
        first: Index of the first sample: sample i of the batch uses the noise with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        condition: Conditions of the score by name, with one row for each sample.

    Returns:
        The errors, with standard errors over the B samples.

    Raises:
        TypeError: The process does not have scalar coefficients.
        ValueError: An argument is not allowed, or the score is not finite.

    References:
        Bao et al. 2022, arXiv:2201.06503.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
        >>> errors = denoising_errors(sde, data.score(sde), data.sample(64), torch.linspace(0.01, 1.0, 5))
        >>> errors.data_error.shape
        torch.Size([5])
    """
    check_scalar(sde)
    check_batch("x", x)
    if len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: give at least two samples, for standard errors")
    check_finite("x", x)
    check_same_process(sde, score)
    check_count("batch_size", batch_size)
    times = noisy_times(sde, times)
    center = _Center.of(x)
    origin = origin_of(sde, score)
    score, source = given(score, condition), NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    rows = torch.arange(len(x), device=x.device)
    parts = []
    for part in rows.split(batch_size):
        some = NoiseSource(source.seed, source.indices[part])
        checked = CheckedScore(rows_of(score, part), len(part), x.dtype)
        parts.append(_squares(sde, checked, wide(x[part]), times, some, center))
    squares = torch.cat(parts, dim=2).cpu()  # (3, M, B)
    scale = torch.stack(((sde.sigma(times) / sde.alpha(times)) ** 2, torch.ones_like(times)))
    means, spreads = scale * squares[:2].mean(2), scale * squares[:2].std(2) / len(x) ** 0.5
    own = squares[0] - (means[0] / scale[0]).clamp(max=1.0)[:, None] ** 2 * squares[2]
    spread = scale[0] * own.std(1)
    return DenoisingErrors(times, means[0], means[1].clamp(min=0.0), spreads[0], spreads[1], len(x), spread, origin)


@dataclass(frozen=True)
class _Center:
    """Mean of the data, of the shape of an event, and the mean variance of a coordinate, float64."""

    mean: Tensor
    variance: float

    @classmethod
    def of(cls, x: Tensor) -> _Center:
        x = x.to(torch.float64)
        mean = x.mean(0)
        return cls(mean, float((x - mean).square().mean()))

    def control(self, x0: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The control variate of ||z_hat||^2 / d, (B,)."""
        k = sigma / (alpha**2 * self.variance + sigma**2)
        found = k**2 * (2.0 * alpha * sigma * (x0 - self.mean) * z + sigma**2 * (z.square() - 1.0))
        return found.reshape(len(z), -1).mean(1)


def _squares(
    sde: ScalarSDE, score: CheckedScore, x: Tensor, times: Tensor, noise: NoiseSource, center: _Center
) -> Tensor:
    """For each sample at each time, (3, M, B) float64: ||z - z_hat||^2 / d; ||z_hat||^2 / d less its control variate; and
    ||z||^2 / d - 1, the same at all times."""
    x0 = x.to(torch.float64)
    z = noise.normal(x.shape[1:], step=0, purpose="denoising errors", dtype=torch.float64)
    length, found = z.square().reshape(len(x), -1).mean(1) - 1.0, []
    for t in times.tolist():
        t_of_score = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        at = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
        alpha, sigma = expand(sde.alpha(at), x0), expand(sde.sigma(at), x0)
        value = score((alpha * x0 + sigma * z).to(x.dtype), t_of_score)
        check_finite("score", value, f" at t={t:g}")
        z_hat = -sigma * value.to(torch.float64)
        error, square = (v.square().reshape(len(x), -1).mean(1) for v in (z - z_hat, z_hat))
        found.append(torch.stack((error, square - center.control(x0, z, alpha, sigma), length)))
    return torch.stack(found, dim=1)


def check_scalar(sde: ScalarSDE) -> None:
    """Raise TypeError unless the process has scalar coefficients."""
    if not isinstance(sde, ScalarSDE):
        raise TypeError(f"sde={sde!r} does not have scalar coefficients: give a ScalarSDE, such as VPSDE(), or a chain")
    check_gaussian(sde, "the variance of x_0 given x_t")


def ascending_times(name: str, times: Tensor) -> Tensor:
    """``times`` in float64 on the CPU.

    Raises:
        ValueError: If they are not a tensor (M,) of finite numbers that ascend.
    """
    times = torch.as_tensor(times).detach().to("cpu", torch.float64)
    if times.ndim != 1 or len(times) < 1:
        raise ValueError(f"{name} has shape {tuple(times.shape)}: give (M,), one or more times")
    if not bool(times.isfinite().all()) or bool((times.diff() <= 0).any()):
        raise ValueError(f"{name}={shown(times)} is not allowed: give finite times that ascend, each once")
    return times


def noisy_times(sde: ScalarSDE, times: Tensor) -> Tensor:
    """``times`` as by `ascending_times`.

    Raises:
        ValueError: If a time is outside [0, T], or sigma is 0 at a time.
    """
    times = ascending_times("times", times)
    check_times("times", times, sde.T)
    if not bool((sde.sigma(times) > 0).all()):
        raise ValueError(f"times begin at {float(times[0]):g}, where {sde!r} has no noise: give times with sigma > 0")
    return times


check_constructors(globals())
