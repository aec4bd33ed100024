"""The law of a linear process between two times: x_t | x_s ~ N(A x_s, L L^T), or N(m_t + A (x_s - m_s), L L^T).

Objectives, predictors, posteriors and Langevin steps need a few things of it only, and never ask what A and L are made of:

    mean(x) = A x        scale(z) = L z              covariance(v) = L L^T v
    solve(x) = A^-1 x    scale_transposed(v) = L^T v    whiten_transposed(z) = L^-T z

`ScalarKernel` is the case A = a I, L = std I, `MapKernel` any pair of linear maps. `ShiftedKernel` sees states from an origin
that may move, m: mean(x) = m_t + A (x - m_s), solve(y) = m_s + A^-1 (y - m_t), all else as without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.linalg.maps import LinearMap, ScalarMap


class GaussianKernel(ABC):
    """N(A x, L L^T); every method takes and returns tensors of shape (B, *event)."""

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """A x; affine in x where the kernel is shifted."""

    @abstractmethod
    def solve(self, x: Tensor) -> Tensor:
        """A^-1 x: the state whose mean is x."""

    @abstractmethod
    def signal_map(self) -> LinearMap:
        """A."""

    @property
    def centred(self) -> GaussianKernel:
        """The kernel without its shift, N(A x, L L^T)."""
        return self

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """L z: what a standard normal z adds."""

    @abstractmethod
    def covariance(self, v: Tensor) -> Tensor:
        """L L^T v."""

    @abstractmethod
    def scale_transposed(self, v: Tensor) -> Tensor:
        """L^T v: minus the noise that a score v stands for."""

    @abstractmethod
    def whiten_transposed(self, z: Tensor) -> Tensor:
        """L^-T z: minus the score of the kernel at mean + L z."""

    @abstractmethod
    def whiten(self, v: Tensor) -> Tensor:
        """L^-1 v."""

    @abstractmethod
    def signal(self) -> Tensor:
        """||A||_F / sqrt d, shape () or (B,)."""

    @abstractmethod
    def level(self) -> Tensor:
        """||L||_F / sqrt d, shape () or (B,): the root mean square of the noise over coordinates."""

    # one quantity by its names, at a state x (B, *state) of x_t = A x_0 + L z given x_0; all but x are expectations given x

    def noise_from_score(self, score: Tensor) -> Tensor:
        """E[z | x] = -L^T score."""
        return -self.scale_transposed(score)

    def score_from_noise(self, noise: Tensor) -> Tensor:
        """-L^-T noise."""
        return -self.whiten_transposed(noise)

    def data_from_score(self, x: Tensor, score: Tensor) -> Tensor:
        """E[x_0 | x] = A^-1 (x + L L^T score)."""
        return self.solve(x + self.covariance(score))

    def score_from_data(self, x: Tensor, data: Tensor) -> Tensor:
        """-(L L^T)^-1 (x - A data)."""
        return -self.whiten_transposed(self.noise_from_data(x, data))

    def noise_from_data(self, x: Tensor, data: Tensor) -> Tensor:
        """L^-1 (x - A data)."""
        return self.whiten(x - self.mean(data))

    def data_from_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """A^-1 (x - L noise)."""
        return self.solve(x - self.scale(noise))

    def velocity_from_score(self, x: Tensor, score: Tensor) -> Tensor:
        """Defined for scalar coefficients."""
        raise TypeError(
            f"a {type(self).__name__} has no velocity: x_t = alpha x_0 + sigma z with scalar coefficients has one"
        )

    noise_from_velocity = velocity_from_score

    def standardised(self, x: Tensor, data_std: float) -> Tensor:
        """x less its mean for data about 0, over its root mean square for data of standard deviation ``data_std``."""
        return x / expand((self.signal() * data_std).hypot(self.level()), x)

    def log_det(self) -> Tensor:
        """ln |det L| per coordinate, (1/d) ln |det L|, shape () or (B,)."""
        return self.noise_map().log_det()

    @abstractmethod
    def contraction(self) -> Tensor:
        """|det A|^(2/d), shape () or (B,): what is left of the variance of x_s; 1 - beta_i in DDPM's notation."""

    @abstractmethod
    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> GaussianKernel:
        """The same map with the noise of q(x_s | x_t, x_0): L L^T is replaced by the covariance of x_s given x_t and x_0.

        marginal, before: the kernels x_t | x_0 and x_s | x_0 at the end and the start of the step; where the second is not
            given it follows from the others, with some cancellation.
        """

    @abstractmethod
    def gaussian_score(self, x: Tensor, root: LinearMap) -> Tensor:
        """-(A R R^T A^T + L L^T)^-1 x, R = root: the score of x_t where x_s ~ N(0, R R^T)."""

    @abstractmethod
    def to(self, x: Tensor) -> GaussianKernel:
        """The same kernel in the dtype and on the device of x."""

    @abstractmethod
    def noise_map(self) -> LinearMap:
        """L."""

    @abstractmethod
    def __getitem__(self, k: int) -> GaussianKernel:
        """The k-th of a batch of kernels."""


@dataclass(frozen=True)
class ScalarKernel(GaussianKernel):
    """N(a x, std^2 I); a and std have shape () or (B,)."""

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
        """alpha E[z | x] - sigma E[x_0 | x] (Salimans & Ho 2022, arXiv:2202.00512)."""
        noise, data = self.noise_from_score(score), self.data_from_score(x, score)
        return expand(self.a, x) * noise - expand(self.std, x) * data

    def noise_from_velocity(self, x: Tensor, velocity: Tensor) -> Tensor:
        """(alpha velocity + sigma x) / (alpha^2 + sigma^2)."""
        alpha, sigma = expand(self.a, x), expand(self.std, x)
        return (alpha * velocity + sigma * x) / (alpha**2 + sigma**2)

    def signal(self) -> Tensor:
        return self.a.abs()

    def level(self) -> Tensor:
        return self.std

    def contraction(self) -> Tensor:
        return self.a**2

    def with_posterior_noise(self, marginal: GaussianKernel, before: GaussianKernel | None = None) -> ScalarKernel:
        """std -> std sigma_s / sigma_t, with sigma_t^2 = a^2 sigma_s^2 + std^2."""
        marginal = marginal.centred
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
    """N(A x, L L^T) for linear maps A and L = noise."""

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
        """With C = L L^T, S the covariance at the end and B = A^-1 (S - C) A^-T that at the start: B - B A^T S^-1 A B."""
        marginal, before = marginal.centred, None if before is None else before.centred
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
    """N(after + A (x - before), L L^T) for a kernel N(A x, L L^T).

    before, after: the origins at the start and the end; (1, ...), one for all, or (B, ...), followed by the leading dimensions of
        the state.
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
    def centred(self) -> GaussianKernel:
        return self.kernel.centred

    def standardised(self, x: Tensor, data_std: float) -> Tensor:
        return super().standardised(x - self.mean(torch.zeros_like(x)), data_std)

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
    """The k-th of a batch of origins, (1, ...); the only one where one serves all."""
    return origin if len(origin) == 1 else origin[k][None]


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, summed over all but the first dimension: (B, *event) -> (B,)."""
    z = z.flatten(1) if z.ndim > 1 else z[:, None]
    return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=z.dtype))
