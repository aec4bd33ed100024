"""Variance-preserving (VP) process, DDPM in continuous time, and the linear noise schedule that sub-VP shares.

The process is::

    beta(t) = beta_min + t (beta_max - beta_min)
    B(t) = int_0^t beta(s) ds = beta_min t + (beta_max - beta_min) t^2 / 2

    dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw          t in [0, T], T = 1

    alpha = exp(-B / 2)          sigma^2 = 1 - exp(-B)          prior N(0, I)

(Song et al. 2021, arXiv:2011.13456, eq. 11.) Differences 1 - exp(-B) are computed by expm1, which is exact in float32
down to t = 0.
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
    """Base class of VP and sub-VP: beta(t) linear in t, its integral, the drift, the mean and the prior N(0, I)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_number("T", self.T, above=0.0)
        check_number("beta_min", self.beta_min, above=0.0)
        check_number("beta_max", self.beta_max, above=0.0)

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The rate, in the shape of t.
        """
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """Integral B(t) of beta from 0 to t.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The integral, in the shape of t.
        """
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        """Integral of beta from s to t, without cancellation for s close to t.

        Args:
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            B(t) - B(s).
        """
        return (t - s) * (self.beta_min + 0.5 * (t + s) * (self.beta_max - self.beta_min))

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.exp(-0.5 * self.beta_integral(t))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def time_of_beta_integral(self, b: Tensor) -> Tensor:
        """Inverse of B(t): t = 2 b / (beta_min + sqrt(beta_min^2 + 2 b (beta_max - beta_min))).

        Args:
            b: Values of B.

        Returns:
            The times t with B(t) = b, clamped to [0, T], in float64 and in the shape of b.
        """
        end = torch.tensor(self.T, dtype=torch.float64, device=b.device)
        b = torch.minimum(b.to(torch.float64), self.beta_integral(end))  # also where b is infinite
        root = (self.beta_min**2 + 2.0 * b * (self.beta_max - self.beta_min)).clamp(min=0.0).sqrt()
        return (2.0 * b / (self.beta_min + root)).clamp(0.0, self.T)

    def prior_std(self) -> float:
        """Standard deviation 1 of the prior, the limit of large beta as in the paper.

        The variance of the kernel at T differs from it by exp(-B(T)).
        """
        return 1.0


@dataclass(frozen=True, repr=False)
class VPSDE(LinearBeta):
    r"""Variance-preserving (VP) process, DDPM in continuous time.

    .. math::
        dx = -\tfrac{1}{2} \beta(t)\, x\, dt + \sqrt{\beta(t)}\, dw, \qquad \beta(t) = \beta_{min} + t\, (\beta_{max} -
        \beta_{min})

    .. math::
        \alpha(t) = e^{-B(t)/2}, \qquad \sigma(t)^2 = 1 - e^{-B(t)}, \qquad
        B(t) = \int_0^t \beta(s)\, ds = \beta_{min} t + \tfrac{1}{2} (\beta_{max} - \beta_{min}) t^2

    The prior is :math:`N(0, I)`.

    Args:
        beta_min: Noise rate at t = 0, > 0.
        beta_max: Noise rate at t = 1, > 0.
        T: The last time, > 0. beta(t) does not depend on it.

    References:
        - Song et al. 2021, arXiv:2011.13456, eq. 11.
        - Ho et al. 2020, Denoising diffusion probabilistic models, arXiv:2006.11239: its chain, see ``discretize``.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> sde = VPSDE(beta_min=0.1, beta_max=20.0)
        >>> mean, std = sde.marginal(torch.zeros(4, 2), torch.full((4,), 0.5))
        >>> mean.shape, std.shape
        (torch.Size([4, 2]), torch.Size([4]))
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
        self.check_time(t)  # ln(sigma / alpha) = ln(exp(B) - 1) / 2
        b = self.beta_integral(t)
        return 0.5 * (b + (-torch.expm1(-b)).clamp(min=0.0).log())

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        # log_noise = u at B = ln(1 + exp(2 u))
        return self.time_of_beta_integral(nnf.softplus(2.0 * u.to(torch.float64), threshold=40.0))

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        b = self.beta_between(s, t)
        return ScalarKernel(torch.exp(-0.5 * b), (-torch.expm1(-b)).clamp(min=0.0).sqrt())

    def discretize(self, steps: int) -> Chain:
        """Markov chain of DDPM: x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) z.

        The rates are beta_i = linspace(beta(0) T / N, beta(T) T / N, N).

        Args:
            steps: Number of steps N, > beta(t) T.

        Returns:
            The chain, which is a process as well.

        Raises:
            ValueError: If a beta_i is not below 1.
        """
        check_count("steps", steps, least=2)
        first, last = self.beta_min * self.T, float(self.beta(torch.tensor(self.T, dtype=torch.float64))) * self.T
        if max(first, last) >= steps:
            raise ValueError(
                f"steps={steps} is too few: beta T / steps must stay below 1, beta T is up to {max(first, last)}"
            )
        betas = torch.linspace(first / steps, last / steps, steps, dtype=torch.float64)
        a = (1.0 - betas).sqrt()
        alpha = a.cumprod(0)
        # 1 - prod(1 - beta) as a sum of logarithms, which does not cancel at the first steps
        sigma = (-torch.expm1(torch.log1p(-betas).cumsum(0))).sqrt()
        return TableChain(self, steps, alpha=alpha, sigma=sigma, step_a=a, step_std=betas.sqrt())
