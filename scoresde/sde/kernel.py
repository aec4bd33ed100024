"""The law of a linear process between two times: x_t | x_s ~ N(A x_s, L L^T).

Predictors, bridges and Langevin steps need four things of it only, so they never ask what A and L are made of:

    mean(x) = A x        solve(x) = A^-1 x        scale(z) = L z        covariance(v) = L L^T v

`ScalarKernel` is the case A = a I, L = std I. A process whose A is a block or diagonal in a basis brings its own class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import expand


class GaussianKernel(ABC):
    """N(A x, L L^T); every method takes and returns tensors of shape (B, *event)."""

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def solve(self, x: Tensor) -> Tensor:
        """A^-1 x."""

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """L z: what a standard normal z adds."""

    @abstractmethod
    def covariance(self, v: Tensor) -> Tensor:
        """L L^T v."""

    @abstractmethod
    def contraction(self) -> Tensor:
        """|det A|^(2/d), shape () or (B,): what is left of the variance of x_s; 1 - beta_i in DDPM's notation."""

    @abstractmethod
    def bridged(self, marginal: GaussianKernel) -> GaussianKernel:
        """The same map with the bridge's noise: L L^T replaced by the covariance of x_s given x_t and x_0.

        marginal: the kernel x_t | x_0 at the end of the step.
        """

    @abstractmethod
    def to(self, x: Tensor) -> GaussianKernel:
        """The same kernel in the dtype and on the device of x."""

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

    def scale(self, z: Tensor) -> Tensor:
        return expand(self.std, z) * z

    def covariance(self, v: Tensor) -> Tensor:
        return expand(self.std, v) ** 2 * v

    def contraction(self) -> Tensor:
        return self.a**2

    def bridged(self, marginal: GaussianKernel) -> ScalarKernel:
        """std -> std sigma_s / sigma_t, with sigma_t^2 = a^2 sigma_s^2 + std^2."""
        assert isinstance(marginal, ScalarKernel)
        before = (marginal.std**2 - self.std**2).clamp(min=0.0).sqrt() / self.a
        return ScalarKernel(self.a, self.std * before / marginal.std)

    def to(self, x: Tensor) -> ScalarKernel:
        return ScalarKernel(self.a.to(x), self.std.to(x))

    def __getitem__(self, k: int) -> ScalarKernel:
        return ScalarKernel(self.a[k], self.std[k])


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, summed over all but the first dimension: (B, *event) -> (B,)."""
    z = z.flatten(1) if z.ndim > 1 else z[:, None]
    return -0.5 * (z**2).sum(dim=1) - 0.5 * z.shape[1] * torch.log(torch.tensor(2 * torch.pi, dtype=z.dtype))
