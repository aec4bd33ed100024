"""Variance-exploding (VE) process, NCSN / SMLD in continuous time (Song et al. 2021, arXiv:2011.13456, eq. 9).

With sigma(t) = sigma_min (sigma_max / sigma_min)^t::

    dx = sigma(t) sqrt(2 ln(sigma_max / sigma_min)) dw          t in [0, T], T = 1

    alpha = 1          x_t | x_0 ~ N(x_0, sigma(t)^2 I)          prior N(0, sigma(T)^2 I)

As in the paper, sigma(0) is sigma_min and not 0: x_0 is the data without noise, and the state at t = 0 is the data with
noise sigma_min. The transition from s to t has the variance sigma_t^2 - sigma_s^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, check_rising
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import Chain, ScalarSDE, TableChain


@dataclass(frozen=True, repr=False)
class VESDE(ScalarSDE):
    r"""Variance-exploding (VE) process, NCSN / SMLD in continuous time.

    .. math::
        dx = \sigma(t) \sqrt{2 \ln(\sigma_{max} / \sigma_{min})}\, dw, \qquad
        \alpha(t) = 1, \qquad \sigma(t) = \sigma_{min} \left(\sigma_{max} / \sigma_{min}\right)^t

    The prior is :math:`N(0, \sigma(T)^2 I)`.

    Args:
        sigma_min: Standard deviation of the noise at t = 0, > 0. Choose it well below the finest detail of the data.
        sigma_max: Standard deviation of the noise at t = 1, > sigma_min. Choose it about as large as the largest
            distance between two data points.
        T: The last time, > 0. sigma(t) does not depend on it.

    References:
        Song et al. 2021, arXiv:2011.13456, eq. 9.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    T: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_number("T", self.T, above=0.0)
        check_number("sigma_min", self.sigma_min, above=0.0)
        check_rising("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.sigma_min * torch.exp(t * self._log_ratio)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2.0 * self._log_ratio)

    def log_noise(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return math.log(self.sigma_min) + t * self._log_ratio

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        return ((u.to(torch.float64) - math.log(self.sigma_min)) / self._log_ratio).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        std = self.sigma(s) * torch.expm1(2.0 * self._log_ratio * (t - s)).clamp(min=0.0).sqrt()
        return ScalarKernel(torch.ones_like(std), std)

    def discretize(self, steps: int) -> Chain:
        """Markov chain of SMLD: x_i = x_(i-1) + sqrt(sigma_i^2 - sigma_(i-1)^2) z, with sigma_(-1) = 0.

        The sigma_i form a geometric sequence from sigma(0) to sigma(T).

        Args:
            steps: Number of steps N, >= 2.

        Returns:
            The chain, which is a process as well.
        """
        check_count("steps", steps, least=2)
        first = math.log(self.sigma_min)
        last = first + self.T * self._log_ratio
        sigma = torch.linspace(first, last, steps, dtype=torch.float64).exp()
        before = torch.cat([torch.zeros(1, dtype=torch.float64), sigma[:-1]])
        ones = torch.ones_like(sigma)
        return TableChain(self, steps, alpha=ones, sigma=sigma, step_a=ones, step_std=(sigma**2 - before**2).sqrt())
