"""Mixtures of normal distributions as the noise of a step (Nachmani, San-Roman, Wolf 2021, arXiv:2106.07582).

Density, score and kurtosis of a coordinate::

    p(n) = sum_j w_j N(n; m_j, s_j^2),    sum_j w_j m_j = 0,    sum_j w_j (m_j^2 + s_j^2) = 1
    score = sum_j r_j(n) (m_j - n) / s_j^2,    r_j(n) = w_j N(n; m_j, s_j^2) / p(n)
    kurtosis  E n^4 = sum_j w_j (m_j^4 + 6 m_j^2 s_j^2 + 3 s_j^4)

Given the components c_1, ..., c_t of its terms, a sum is normal::

    sum_i b_i n_i | c ~ N( sum_i b_i m_{c_i},  sum_i b_i^2 s_{c_i}^2 )

It is therefore sampled exactly from t indices and one normal number. Its density is a mixture of K^t normal densities
and is not available.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers
from scoresde.noise import NoiseSource
from scoresde.noise_distributions.base import F64, DensityNoise, NoiseSum, meet, numbered

_SLACK = 1e-6
"""Largest deviation of the mean from 0 and of the variance from 1."""


@dataclass(frozen=True)
class NormalMixture(DensityNoise):
    r"""Mixture of K normal distributions with mean 0 and variance 1. ``standardized`` shifts and scales any mixture to these.

    .. math::
        p(n) = \sum_j w_j\, N(n; m_j, s_j^2), \qquad \sum_j w_j m_j = 0, \qquad \sum_j w_j (m_j^2 + s_j^2) = 1

    The arguments are stored as tuples.

    Args:
        weights: Weights w_j, ``(K,)``, >= 0 and not all 0. They are normalized.
        means: Means m_j, ``(K,)``, finite.
        stds: Standard deviations s_j, ``(K,)``, > 0.

    Raises:
        ValueError: If an argument is not allowed, or the mean or variance differs from 0 or 1 by more than 1e-6.

    References:
        Nachmani, San-Roman, Wolf 2021, Non Gaussian denoising diffusion models, arXiv:2106.07582.
    """

    weights: Numbers
    means: Numbers
    stds: Numbers

    def __post_init__(self) -> None:
        parts = _checked(self.weights, self.means, self.stds)
        mean, variance = _moments(*parts)
        if abs(mean) > _SLACK or abs(variance - 1.0) > _SLACK:
            raise ValueError(
                f"the mixture of weights, means and stds has mean {mean:g} and variance {variance:g}: give one of mean 0 and "
                "variance 1, or NormalMixture.standardized(weights, means, stds)"
            )
        for name, part in zip(("weights", "means", "stds"), parts, strict=True):
            object.__setattr__(self, name, tuple(part.tolist()))

    @classmethod
    def standardized(cls, weights: Numbers, means: Numbers, stds: Numbers) -> NormalMixture:
        """Mixture that is shifted to mean 0 and scaled to variance 1.

        Args:
            weights: Weights, ``(K,)``, >= 0 and not all 0.
            means: Means, ``(K,)``, finite.
            stds: Standard deviations, ``(K,)``, > 0.

        Returns:
            The standardized mixture.
        """
        w, m, s = _checked(weights, means, stds)
        mean, variance = _moments(w, m, s)
        return cls(w, (m - mean) / variance**0.5, s / variance**0.5)

    @property
    def variance(self) -> Tensor:
        return torch.tensor(_moments(*self.parts())[1], dtype=F64)

    @property
    def excess_kurtosis(self) -> Tensor:
        w, m, s = self.parts()
        return (w * (m**4 + 6.0 * m**2 * s**2 + 3.0 * s**4)).sum() / self.variance**2 - 3.0

    def sum_of_steps(self, b: Tensor) -> MixtureSum:
        return MixtureSum(self, b)

    def parts(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of the components.

        Args:
            device: Device of the tensors.

        Returns:
            Weights, means and standard deviations, each ``(K,)`` in float64.
        """
        w, m, s = (torch.as_tensor(v, dtype=F64, device=device) for v in (self.weights, self.means, self.stds))
        return w, m, s

    def components(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        """Draw the component of each coordinate.

        Args:
            source: Source of the random numbers of B samples.
            event: Shape of one sample.
            step: Number of the draw.
            purpose: Name of the draw.

        Returns:
            Integers in 0 .. K - 1, ``(B, *event)``.
        """
        u = source.uniform(event, step=step, purpose=f"{purpose}, component", dtype=F64)
        edges = self.parts(u.device)[0].cumsum(0)
        return torch.searchsorted(edges, u).clamp(max=len(edges) - 1)

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        _, m, s = self.parts(source.indices.device)
        c = self.components(source, event, step, purpose)
        return m[c] + s[c] * source.normal(event, step=step, purpose=f"{purpose}, normal", dtype=F64)

    def _log_joint(self, n: Tensor) -> Tensor:
        """ln [w_j N(n; m_j, s_j^2)], ``(B, *event, K)``."""
        w, m, s = self.parts(n.device)
        return w.log() - 0.5 * ((n[..., None] - m) / s).square() - s.log() - 0.5 * math.log(2.0 * math.pi)

    def _log_density(self, n: Tensor) -> Tensor:
        return self._log_joint(n).logsumexp(-1)

    def _slope(self, n: Tensor) -> Tensor:
        _, m, s = self.parts(n.device)
        return (self._log_joint(n).softmax(-1) * (m - n[..., None]) / s.square()).sum(-1)


@dataclass(frozen=True, eq=False)
class MixtureSum(NoiseSum):
    """Sum sum_i b_i n_i of noise from a ``NormalMixture``, sampled by t indices and one normal number.

    Args:
        noise: Distribution of each n_i.
        b: Weights, ``(t,)`` or ``(B, t)``, see ``DensityNoise.sum_of_steps``.
    """

    noise: NormalMixture

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        _, m, s = self.noise.parts(source.indices.device)
        z = source.normal(event, step=step, purpose=f"{purpose}, normal", dtype=F64)
        mean, variance = torch.zeros_like(z), torch.zeros_like(z)
        for i, b in enumerate(self.b.unbind(-1)):
            c = self.noise.components(source, event, step, numbered(purpose, i))
            weight = meet("b", b, z)
            mean += weight * m[c]
            variance += (weight * s[c]).square()
        return mean + variance.sqrt() * z


def _checked(weights: Numbers, means: Numbers, stds: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """Convert the arguments to float64 tensors ``(K,)`` with normalized weights, or raise ValueError."""
    given = {"weights": weights, "means": means, "stds": stds}
    w, m, s = (as_numbers(name, value).cpu() for name, value in given.items())
    for name, value in (("weights", w), ("means", m), ("stds", s)):
        if value.ndim != 1 or len(value) == 0 or len(value) != len(w):
            raise ValueError(f"{name} has shape {tuple(value.shape)}: give weights, means and stds of one shape (K,)")
    if bool((w < 0).any()) or not float(w.sum()) > 0:
        raise ValueError(f"weights={w.tolist()} is not allowed: give numbers >= 0, not all 0")
    if not bool((s > 0).all()):
        raise ValueError(f"stds={s.tolist()} is not allowed: give numbers > 0")
    return w / w.sum(), m, s


def _moments(w: Tensor, m: Tensor, s: Tensor) -> tuple[float, float]:
    """Mean and variance of a mixture."""
    mean = float((w * m).sum())
    return mean, float((w * (s.square() + (m - mean).square())).sum())
