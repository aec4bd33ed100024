r"""Gaussian transition kernels of linear processes: x_t | x_s ~ N(A x_s, L L^T).

Losses, predictors, posteriors and Langevin steps use a kernel only by these operations, so they do not depend on the
kind of A and L::

    mean(x) = A x        scale(z) = L z                  covariance(v) = L L^T v
    solve(x) = A^-1 x    scale_transposed(v) = L^T v     whiten_transposed(z) = L^-T z

``ScalarKernel`` is the case A = a I, L = std I. ``MapKernel`` has any pair of linear maps. ``ShiftedKernel`` is a
kernel in coordinates x - m, where the origin m can depend on time: mean(x) = m_t + A (x - m_s) and solve(y) = m_s +
A^-1 (y - m_t). All other operations are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.linalg.maps import LinearMap, ScalarMap


class GaussianKernel(ABC):
    """Base class of Gaussian kernels N(A x, L L^T).

    Vectors have the shape ``(B, *state)`` and d coordinates. Coefficients have the shape ``()``, one for all samples,
    or ``(B,)``.
    """

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """Mean A x of the kernel, affine in x if the kernel is shifted.

        Args:
            x: States at the start, ``(B, *state)``.

        Returns:
            The mean, in the shape of x.
        """

    @abstractmethod
    def solve(self, x: Tensor) -> Tensor:
        """State whose mean is x: A^-1 x.

        Args:
            x: Means, ``(B, *state)``.

        Returns:
            The states at the start, in the shape of x.
        """

    @abstractmethod
    def signal_map(self) -> LinearMap:
        """Linear map A of the mean."""

    @property
    def centered(self) -> GaussianKernel:
        """The kernel without its shift, N(A x, L L^T)."""
        return self

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """Noise L z for standard normal z.

        Args:
            z: Standard normal noise, ``(B, *state)``.

        Returns:
            L z, in the shape of z.
        """

    @abstractmethod
    def covariance(self, v: Tensor) -> Tensor:
        """Product with the covariance: L L^T v.

        Args:
            v: Vectors, ``(B, *state)``.

        Returns:
            L L^T v, in the shape of v.
        """

    @abstractmethod
    def scale_transposed(self, v: Tensor) -> Tensor:
        """Product L^T v. For a score v it is minus the expected noise.

        Args:
            v: Vectors, ``(B, *state)``.

        Returns:
            L^T v, in the shape of v.
        """

    @abstractmethod
    def whiten_transposed(self, z: Tensor) -> Tensor:
        """Product L^-T z, which is minus the score of the kernel at mean + L z.

        Args:
            z: Vectors, ``(B, *state)``.

        Returns:
            L^-T z, in the shape of z.
        """

    @abstractmethod
    def whiten(self, v: Tensor) -> Tensor:
        """Product L^-1 v.

        Args:
            v: Vectors, ``(B, *state)``.

        Returns:
            L^-1 v, in the shape of v.
        """

    @abstractmethod
    def signal(self) -> Tensor:
        """Root mean square of A: ||A||_F / sqrt(d), ``()`` or ``(B,)``."""

    @abstractmethod
    def level(self) -> Tensor:
        """Noise level, the root mean square of the noise over coordinates: ||L||_F / sqrt(d), ``()`` or ``(B,)``."""

    # conversions at a state x of x_t = A x_0 + L z; score, noise, data and velocity are expectations given x

    def noise_from_score(self, score: Tensor) -> Tensor:
        """Expected noise E[z | x] = -L^T score.

        Args:
            score: Score at x, ``(B, *state)``.

        Returns:
            The noise, in the shape of ``score``.
        """
        return -self.scale_transposed(score)

    def score_from_noise(self, noise: Tensor) -> Tensor:
        """Score -L^-T noise.

        Args:
            noise: Expected noise E[z | x], ``(B, *state)``.

        Returns:
            The score, in the shape of ``noise``.
        """
        return -self.whiten_transposed(noise)

    def data_from_score(self, x: Tensor, score: Tensor) -> Tensor:
        """Expected data E[x_0 | x] = A^-1 (x + L L^T score), by Tweedie's formula.

        Args:
            x: States x_t, ``(B, *state)``.
            score: Score at x, ``(B, *state)``.

        Returns:
            The data, in the shape of x.
        """
        return self.solve(x + self.covariance(score))

    def score_from_data(self, x: Tensor, data: Tensor) -> Tensor:
        """Score -(L L^T)^-1 (x - A data).

        Args:
            x: States x_t, ``(B, *state)``.
            data: Expected data E[x_0 | x], ``(B, *state)``.

        Returns:
            The score, in the shape of x.
        """
        return -self.whiten_transposed(self.noise_from_data(x, data))

    def noise_from_data(self, x: Tensor, data: Tensor) -> Tensor:
        """Expected noise E[z | x] = L^-1 (x - A data).

        Args:
            x: States x_t, ``(B, *state)``.
            data: Expected data E[x_0 | x], ``(B, *state)``.

        Returns:
            The noise, in the shape of x.
        """
        return self.whiten(x - self.mean(data))

    def data_from_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """Expected data E[x_0 | x] = A^-1 (x - L noise).

        Args:
            x: States x_t, ``(B, *state)``.
            noise: Expected noise E[z | x], ``(B, *state)``.

        Returns:
            The data, in the shape of x.
        """
        return self.solve(x - self.scale(noise))

    def velocity_from_score(self, x: Tensor, score: Tensor) -> Tensor:
        """Velocity a E[z | x] - std E[x_0 | x], defined for scalar coefficients.

        Args:
            x: States x_t, ``(B, *state)``.
            score: Score at x, ``(B, *state)``.

        Returns:
            The velocity, in the shape of x.

        Raises:
            TypeError: If the coefficients are not scalar.

        References:
            Salimans & Ho 2022, Progressive distillation for fast sampling of diffusion models, arXiv:2202.00512.
        """
        raise TypeError(
            f"a {type(self).__name__} has no velocity: it is defined for x_t = alpha x_0 + sigma z with scalar coefficients"
        )

    noise_from_velocity = velocity_from_score

    def standardized(self, x: Tensor, data_std: float) -> Tensor:
        """Standardized state: x minus its mean for data of mean 0, divided by its root mean square.

        Args:
            x: States x_t, ``(B, *state)``.
            data_std: Standard deviation of the data.

        Returns:
            The standardized states, in the shape of x.
        """
        return x / expand((self.signal() * data_std).hypot(self.level()), x)

    def log_det(self) -> Tensor:
        """Log-determinant of L per coordinate: ``ln |det L| / d``, ``()`` or ``(B,)``."""
        return self.noise_map().log_det()

    @abstractmethod
    def contraction(self) -> Tensor:
        """Factor by which the mean scales the variance of x_s: ``|det A|^(2/d)``, ``()`` or ``(B,)``.

        It is 1 - beta_i in the notation of DDPM.
        """

    @abstractmethod
    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> GaussianKernel:
        """Kernel with the same map A and the covariance of the posterior q(x_s | x_t, x_0) in place of L L^T.

        Args:
            marginal: The kernel x_t | x_0 at the end of the step.
            before: The kernel x_s | x_0 at the start of the step. None: it is computed from the other two, with some
                cancellation.

        Returns:
            The kernel N(A x, posterior covariance).
        """

    @abstractmethod
    def gaussian_score(self, x: Tensor, root: LinearMap) -> Tensor:
        """Score of x_t if x_s ~ N(0, R R^T): -(A R R^T A^T + L L^T)^-1 x.

        Args:
            x: States x_t, ``(B, *state)``.
            root: Linear map R.

        Returns:
            The score, in the shape of x.
        """

    @abstractmethod
    def to(self, x: Tensor) -> GaussianKernel:
        """Convert the kernel to the dtype and device of x.

        Args:
            x: A tensor.

        Returns:
            The converted kernel.
        """

    @abstractmethod
    def noise_map(self) -> LinearMap:
        """Linear map L of the noise."""

    @abstractmethod
    def __getitem__(self, k: int) -> GaussianKernel:
        """Kernel number k of a batch of kernels."""


@dataclass(frozen=True)
class ScalarKernel(GaussianKernel):
    """Gaussian kernel with scalar coefficients: N(a x, std^2 I).

    Args:
        a: Coefficient of the mean, ``()`` or ``(B,)``.
        std: Standard deviation, ``()`` or ``(B,)``.
    """

    a: Tensor
    std: Tensor

    def mean(self, x: Tensor) -> Tensor:
        return expand(self.a, x) * x

    def solve(self, x: Tensor) -> Tensor:
        return x / expand(self.a, x)

    def signal_map(self) -> ScalarMap:
        return ScalarMap(self.a)

    def scale(self, z: Tensor) -> Tensor:
        return expand(self.std, z) * z

    def covariance(self, v: Tensor) -> Tensor:
        return expand(self.std, v) ** 2 * v

    def scale_transposed(self, v: Tensor) -> Tensor:
        return expand(self.std, v) * v

    def whiten_transposed(self, z: Tensor) -> Tensor:
        return z / expand(self.std, z)

    def whiten(self, v: Tensor) -> Tensor:
        return v / expand(self.std, v)

    def velocity_from_score(self, x: Tensor, score: Tensor) -> Tensor:
        noise, data = self.noise_from_score(score), self.data_from_score(x, score)
        return expand(self.a, x) * noise - expand(self.std, x) * data

    def noise_from_velocity(self, x: Tensor, velocity: Tensor) -> Tensor:
        """Expected noise (alpha velocity + sigma x) / (alpha^2 + sigma^2), with alpha = a and sigma = std.

        Args:
            x: States x_t, ``(B, *state)``.
            velocity: Velocity at x, ``(B, *state)``.

        Returns:
            The noise, in the shape of x.
        """
        alpha, sigma = expand(self.a, x), expand(self.std, x)
        return (alpha * velocity + sigma * x) / (alpha**2 + sigma**2)

    def signal(self) -> Tensor:
        return self.a.abs()

    def level(self) -> Tensor:
        return self.std

    def contraction(self) -> Tensor:
        return self.a**2

    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> ScalarKernel:
        # the posterior has std sigma_s / sigma_t, with sigma_t^2 = a^2 sigma_s^2 + std^2
        marginal = marginal.centered
        assert isinstance(marginal, ScalarKernel)
        sigma_s = (marginal.std**2 - self.std**2).clamp(min=0.0).sqrt() / self.a if before is None else before.level()
        return ScalarKernel(self.a, self.std * sigma_s / marginal.std)

    def gaussian_score(self, x: Tensor, root: LinearMap) -> Tensor:
        reached = root.compose(root.transpose()).times(self.a**2)
        return -reached.add(ScalarMap(self.std**2)).inverse()(x)

    def to(self, x: Tensor) -> ScalarKernel:
        return ScalarKernel(self.a.to(x), self.std.to(x))

    def noise_map(self) -> LinearMap:
        return ScalarMap(self.std)

    def __getitem__(self, k: int) -> ScalarKernel:
        return ScalarKernel(self.a[k], self.std[k])


@dataclass(frozen=True)
class MapKernel(GaussianKernel):
    """Gaussian kernel with linear maps: N(A x, L L^T).

    Args:
        a: Linear map A of the mean.
        noise: Linear map L of the noise.
    """

    a: LinearMap
    noise: LinearMap

    def mean(self, x: Tensor) -> Tensor:
        return self.a(x)

    def solve(self, x: Tensor) -> Tensor:
        return self.a.inverse()(x)

    def signal_map(self) -> LinearMap:
        return self.a

    def scale(self, z: Tensor) -> Tensor:
        return self.noise(z)

    def covariance(self, v: Tensor) -> Tensor:
        return self.noise(self.noise.transpose()(v))

    def scale_transposed(self, v: Tensor) -> Tensor:
        return self.noise.transpose()(v)

    def whiten_transposed(self, z: Tensor) -> Tensor:
        return self.noise.inverse().transpose()(z)

    def whiten(self, v: Tensor) -> Tensor:
        return self.noise.inverse()(v)

    def signal(self) -> Tensor:
        return self.a.mean_square().sqrt()

    def level(self) -> Tensor:
        return self.noise.mean_square().sqrt()

    def contraction(self) -> Tensor:
        return (2.0 * self.a.log_det()).exp()

    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> MapKernel:
        # with C = L L^T, S the covariance at the end and B = A^-1 (S - C) A^-T that at the start: B - B A^T S^-1 A B
        marginal, before = marginal.centered, None if before is None else before.centered
        assert isinstance(marginal, MapKernel)
        after = marginal.noise.compose(marginal.noise.transpose())
        minus = torch.tensor(-1.0, dtype=torch.float64)
        if isinstance(before, MapKernel):
            start = before.noise.compose(before.noise.transpose())
        else:
            own = self.noise.compose(self.noise.transpose())
            back = self.a.inverse()
            start = back.compose(after.add(own.times(minus))).compose(back.transpose())
        gain = start.compose(self.a.transpose()).compose(after.inverse()).compose(self.a).compose(start)
        covariance = start.add(gain.times(minus))
        symmetric = covariance.add(covariance.transpose()).times(torch.tensor(0.5, dtype=torch.float64))
        return MapKernel(self.a, symmetric.root())

    def gaussian_score(self, x: Tensor, root: LinearMap) -> Tensor:
        reached = self.a.compose(root)
        own = self.noise.compose(self.noise.transpose())
        return -reached.compose(reached.transpose()).add(own).inverse()(x)

    def to(self, x: Tensor) -> MapKernel:
        return MapKernel(self.a.to(x), self.noise.to(x))

    def noise_map(self) -> LinearMap:
        return self.noise

    def __getitem__(self, k: int) -> MapKernel:
        return MapKernel(self.a[k], self.noise[k])


@dataclass(frozen=True)
class ShiftedKernel(GaussianKernel):
    """Gaussian kernel in shifted coordinates: N(after + A (x - before), L L^T).

    Args:
        kernel: The kernel N(A x, L L^T).
        before: Origin at the start, ``(1, ...)`` for one that all samples share or ``(B, ...)``, followed by the
            leading dimensions of the state.
        after: Origin at the end, of such a shape.
    """

    kernel: GaussianKernel
    before: Tensor
    after: Tensor

    def mean(self, x: Tensor) -> Tensor:
        return self.kernel.mean(x - expand(self.before, x).to(x)) + expand(self.after, x).to(x)

    def solve(self, x: Tensor) -> Tensor:
        return self.kernel.solve(x - expand(self.after, x).to(x)) + expand(self.before, x).to(x)

    def signal_map(self) -> LinearMap:
        return self.kernel.signal_map()

    def noise_map(self) -> LinearMap:
        return self.kernel.noise_map()

    @property
    def centered(self) -> GaussianKernel:
        return self.kernel.centered

    def standardized(self, x: Tensor, data_std: float) -> Tensor:
        return super().standardized(x - self.mean(torch.zeros_like(x)), data_std)

    def scale(self, z: Tensor) -> Tensor:
        return self.kernel.scale(z)

    def covariance(self, v: Tensor) -> Tensor:
        return self.kernel.covariance(v)

    def scale_transposed(self, v: Tensor) -> Tensor:
        return self.kernel.scale_transposed(v)

    def whiten_transposed(self, z: Tensor) -> Tensor:
        return self.kernel.whiten_transposed(z)

    def whiten(self, v: Tensor) -> Tensor:
        return self.kernel.whiten(v)

    def signal(self) -> Tensor:
        return self.kernel.signal()

    def level(self) -> Tensor:
        return self.kernel.level()

    def contraction(self) -> Tensor:
        return self.kernel.contraction()

    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> ShiftedKernel:
        return ShiftedKernel(self.kernel.with_posterior_noise(marginal, before), self.before, self.after)

    def gaussian_score(self, x: Tensor, root: LinearMap) -> Tensor:
        return self.kernel.gaussian_score(x - self.mean(torch.zeros_like(x)), root)

    def to(self, x: Tensor) -> ShiftedKernel:
        return ShiftedKernel(self.kernel.to(x), self.before.to(x), self.after.to(x))

    def __getitem__(self, k: int) -> ShiftedKernel:
        return ShiftedKernel(self.kernel[k], _one(self.before, k), _one(self.after, k))


def _one(origin: Tensor, k: int) -> Tensor:
    """Origin number k of a batch, ``(1, ...)``, or the only one if all samples share it."""
    return origin if len(origin) == 1 else origin[k][None]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, summed over all but the first dimension, ``(B, *event)`` -> ``(B,)``."""
    z = z.flatten(1) if z.ndim > 1 else z[:, None]
    return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=z.dtype))
