"""Variance-preserving process (Song et al. 2021, eq. 11): DDPM in continuous time.

    dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw,     beta(t) = beta_min + t (beta_max - beta_min),     t in [0, T], T = 1

With B(t) = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2:

    alpha = exp(-B / 2)          sigma^2 = 1 - exp(-B)          prior N(0, I)

The differences 1 - exp(-B) are taken by expm1, exact in float32 down to t = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import Chain, ScalarSDE, TableChain


@dataclass(frozen=True, repr=False)
class LinearBeta(ScalarSDE):
    """What VP and sub-VP share: beta(t) linear in t, its integral, the drift and the mean. N(0, I) is the prior."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_number("T", self.T, above=0.0)
        check_number("beta_min", self.beta_min, above=0.0)
        check_number("beta_max", self.beta_max, above=0.0)

    def beta(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t)."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        """B(t) - B(s), without cancellation for s close to t."""
        return (t - s) * (self.beta_min + 0.5 * (t + s) * (self.beta_max - self.beta_min))

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.exp(-0.5 * self.beta_integral(t))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def time_of_beta_integral(self, b: Tensor) -> Tensor:
        """The t in [0, T] at which B(t) = b, float64: 2 b / (beta_min + sqrt(beta_min^2 + 2 b (beta_max - beta_min)))."""
        end = torch.tensor(self.T, dtype=torch.float64, device=b.device)
        b = torch.minimum(b.to(torch.float64), self.beta_integral(end))  # also where b is infinite
        root = (self.beta_min**2 + 2.0 * b * (self.beta_max - self.beta_min)).clamp(min=0.0).sqrt()
        return (2.0 * b / (self.beta_min + root)).clamp(0.0, self.T)

    def prior_std(self) -> float:
        """1: the limit of large beta, as in the paper; the kernel at T differs from it by exp(-B(T)) at most."""
        return 1.0


@dataclass(frozen=True, repr=False)
class VPSDE(LinearBeta):
    """Variance-preserving process.

    Args:
        beta_min: Noise rate at t = 0, > 0.
        beta_max: Noise rate at t = 1, > 0.
        T: The last time, > 0. beta(t) does not depend on it.
    """

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return (-torch.expm1(-self.beta_integral(t))).clamp(min=0.0).sqrt()

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.beta(t).sqrt()

    def kernel(self, t: Tensor) -> ScalarKernel:
        self.check_time(t)
        b = self.beta_integral(t)
        return ScalarKernel(torch.exp(-0.5 * b), (-torch.expm1(-b)).clamp(min=0.0).sqrt())

    def log_noise(self, t: Tensor) -> Tensor:
        """ln(sigma / alpha) = ln(exp(B) - 1) / 2."""
        self.check_time(t)
        b = self.beta_integral(t)
        return 0.5 * (b + (-torch.expm1(-b)).clamp(min=0.0).log())

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """The t in [0, T] at which log_noise = u, float64, from B = ln(1 + exp(2 u))."""
        return self.time_of_beta_integral(nnf.softplus(2.0 * u.to(torch.float64), threshold=40.0))

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        b = self.beta_between(s, t)
        return ScalarKernel(torch.exp(-0.5 * b), (-torch.expm1(-b)).clamp(min=0.0).sqrt())

    def discretize(self, steps: int) -> Chain:
        """DDPM's chain (Ho et al. 2020): beta_i = linspace(beta(0) T / N, beta(T) T / N, N), x_i = sqrt(1 - beta_i)
        x_(i-1) + sqrt(beta_i) z."""
        check_count("steps", steps, least=2)
        first, last = self.beta_min * self.T, float(self.beta(torch.tensor(self.T, dtype=torch.float64))) * self.T
        if max(first, last) >= steps:
            raise ValueError(
                f"steps={steps} is too few: beta T / steps must stay below 1, beta T is up to {max(first, last)}"
            )
        betas = torch.linspace(first / steps, last / steps, steps, dtype=torch.float64)
        a = (1.0 - betas).sqrt()
        alpha = a.cumprod(0)
        # 1 - prod(1 - beta), by the sum of logarithms: no cancellation at the first steps
        sigma = (-torch.expm1(torch.log1p(-betas).cumsum(0))).sqrt()
        return TableChain(self, steps, alpha=alpha, sigma=sigma, step_a=a, step_std=betas.sqrt())
