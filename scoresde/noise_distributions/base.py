"""Noise n of mean 0 with independent coordinates, and the sum of the noise of the steps of a chain.

A distribution p(n) has samples (``sample``), a log-density (``log_prob``) and a score, which is the target of denoising
score matching. For x = x_0 + sigma n the target is score(n) / sigma. Its mean given x is grad log p(x), for every
distribution whose density is continuous and differentiable almost everywhere.

In a forward chain x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n_t, with abar_t = prod_{i<=t} (1 - beta_i), the noise
adds up to::

    x_t = sqrt(abar_t) x_0 + sum_{i<=t} b_i n_i,    b_i = sqrt(beta_i abar_t / abar_i),    sum_i b_i^2 = 1 - abar_t

``sum_of_steps(b)`` is the distribution of this sum if it is known in closed form (for a Gaussian,
N(0, std^2 sum_i b_i^2)). Otherwise it is a ``NoiseSum``, which draws all t terms. Cumulants add. For a distribution of
variance v and excess kurtosis kappa, the sum has::

    variance v sum_i b_i^2,    excess kurtosis kappa sum_i b_i^4 / (sum_i b_i^2)^2

Parameters are numbers, or tensors ``(B,)`` with one number for each sample. Computations are in float64; ``sample``
converts to the requested dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from scoresde._validation import check_batch, expand, shown
from scoresde.noise import NoiseSource

F64 = torch.float64
Parameter = Tensor | float


def check_parameter(name: str, value: Parameter) -> None:
    """Raise ValueError unless ``value`` is a finite number > 0 or a tensor ``()`` or ``(B,)`` of them."""
    good = isinstance(value, Real | Tensor) and not isinstance(value, bool)
    if good:
        p = torch.as_tensor(value, dtype=F64)
        # on an accelerator this check would wait for the device
        good = p.ndim <= 1 and p.numel() > 0 and (p.device.type != "cpu" or bool((torch.isfinite(p) & (p > 0)).all()))
    if not good:
        raise ValueError(f"{name}={shown(value)} is not allowed: give a finite number > 0, or a tensor (B,) of them")


def meet(name: str, value: Parameter, like: Tensor) -> Tensor:
    """Convert a parameter to float64 and reshape it to broadcast against ``like`` ``(B, *event)``."""
    p = torch.as_tensor(value, dtype=F64, device=like.device)
    if p.ndim and len(p) != len(like):
        raise ValueError(f"{name} has shape {tuple(p.shape)}: give shape () or ({len(like)},), one number per sample")
    return expand(p, like)


def check_weights(b: Tensor) -> None:
    """Raise ValueError unless ``b`` is ``(t,)`` or ``(B, t)``, finite and >= 0, with a positive number in every row."""
    if not isinstance(b, Tensor) or b.ndim not in (1, 2) or b.numel() == 0:
        what = f"has shape {tuple(b.shape)}" if isinstance(b, Tensor) else f"is a {type(b).__name__}"
        raise ValueError(f"b {what}: give a tensor (t,) or (B, t), the weights of t >= 1 steps")
    if not b.is_floating_point():
        raise ValueError(f"b has dtype {b.dtype}: give floating-point numbers")
    if b.device.type == "cpu" and not bool((torch.isfinite(b) & (b >= 0)).all() and (b > 0).any(-1).all()):
        raise ValueError(f"b={shown(b)} is not allowed: give finite weights >= 0, with at least one > 0 in every row")


class NoiseDistribution(ABC):
    """Base class of noise distributions that can be sampled."""

    def sample(
        self, source: NoiseSource, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype
    ) -> Tensor:
        """Draw samples.

        Args:
            source: Source of the random numbers of B samples.
            event_shape: Shape of one sample.
            step: Number of the draw.
            purpose: Name of the draw. Different names give independent samples.
            dtype: Data type of the samples.

        Returns:
            The samples, ``(B, *event_shape)``. Each depends only on (seed, sample index, step, purpose).
        """
        return self._draw(source, tuple(event_shape), step, purpose).to(dtype)

    @abstractmethod
    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        """Samples ``(B, *event)`` in float64."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of a coordinate, ``()`` or ``(B,)`` in float64."""

    @property
    @abstractmethod
    def excess_kurtosis(self) -> Tensor:
        """Excess kurtosis E n^4 / (E n^2)^2 - 3 of a coordinate, ``()`` or ``(B,)`` in float64."""


class DensityNoise(NoiseDistribution):
    """Base class of noise distributions with a density.

    A subclass implements the log-density of a coordinate and its derivative, in float64.
    """

    @abstractmethod
    def _log_density(self, n: Tensor) -> Tensor: ...

    @abstractmethod
    def _slope(self, n: Tensor) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, summed over the coordinates.

        Args:
            z: Noise, ``(B, *event)``.

        Returns:
            log p(z) in nats, ``(B,)`` in the dtype of z.
        """
        check_batch("z", z)
        return self._log_density(z.to(F64)).reshape(len(z), -1).sum(1).to(z.dtype)

    def score(self, z: Tensor) -> Tensor:
        """Score grad log p(z).

        Args:
            z: Noise, ``(B, *event)``.

        Returns:
            The score, in the shape and dtype of z.
        """
        check_batch("z", z)
        return self._slope(z.to(F64)).to(z.dtype)

    def sum_of_steps(self, b: Tensor) -> NoiseDistribution:
        """Distribution of the sum sum_i b_i n_i of independent n_i.

        Args:
            b: Weights, ``(t,)`` or ``(B, t)``, finite and >= 0, with a positive number in every row. Samples with fewer
                steps than others have zeros.

        Returns:
            The distribution. It is a ``DensityNoise`` if it is known in closed form.

        Raises:
            ValueError: If the weights are not allowed.
        """
        return NoiseSum(self, b)


@dataclass(frozen=True, eq=False)
class NoiseSum(NoiseDistribution):
    """Sum sum_i b_i n_i, sampled by t draws of ``noise``. It works for every distribution, at t times the cost of one draw.

    Args:
        noise: Distribution of each n_i.
        b: Weights, ``(t,)`` or ``(B, t)``, see ``DensityNoise.sum_of_steps``.
    """

    noise: DensityNoise
    b: Tensor

    def __post_init__(self) -> None:
        check_weights(self.b)
        object.__setattr__(self, "b", self.b.to(F64))

    @property
    def variance(self) -> Tensor:
        return self.noise.variance * self.b.square().sum(-1)

    @property
    def excess_kurtosis(self) -> Tensor:
        return self.noise.excess_kurtosis * self.b.pow(4).sum(-1) / self.b.square().sum(-1).square()

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        total = torch.zeros((len(source.indices), *event), dtype=F64, device=source.indices.device)
        for i, b in enumerate(self.b.unbind(-1)):
            total += meet("b", b, total) * self.noise._draw(source, event, step, numbered(purpose, i))
        return total


def numbered(purpose: str, i: int) -> str:
    """Key of step i. Texts of equal length that differ only within four bytes have different CRC-32 checksums."""
    return f"{purpose}, step {i:04d}"


@dataclass(frozen=True)
class Gaussian(DensityNoise):
    """Gaussian distribution N(0, std^2).

    Args:
        std: Standard deviation, > 0: a number or ``(B,)``.
    """

    std: Parameter = 1.0

    def __post_init__(self) -> None:
        check_parameter("std", self.std)

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.std, dtype=F64).square()

    @property
    def excess_kurtosis(self) -> Tensor:
        return torch.zeros((), dtype=F64)

    def sum_of_steps(self, b: Tensor) -> Gaussian:
        return Gaussian(NoiseSum(self, b).variance.sqrt())

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        z = source.normal(event, step=step, purpose=purpose, dtype=F64)
        return meet("std", self.std, z) * z

    def _log_density(self, n: Tensor) -> Tensor:
        std = meet("std", self.std, n)
        return -0.5 * (n / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)

    def _slope(self, n: Tensor) -> Tensor:
        return -n / meet("std", self.std, n).square()
