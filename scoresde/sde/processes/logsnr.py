"""Variance-preserving processes by their log signal-to-noise ratio (Kingma et al. 2021, arXiv:2107.00630, section 3).

    lambda(t) = ln(alpha^2 / sigma^2), falling        alpha^2 = sigmoid(lambda)        sigma^2 = sigmoid(-lambda)

    dx = -beta x / 2 dt + sqrt(beta) dw,     beta = -lambda' sigmoid(-lambda),     prior N(0, I)

Between two times a = alpha_t / alpha_s and std^2 = sigma_t^2 (1 - exp(lambda_t - lambda_s)). With likelihood weighting the
objective is -1/2 int lambda' E||z - z_hat||^2 dt, in which lambda is a change of variables: only lambda(0) and lambda(T) matter.

As in VE the noise at t = 0 is small and not 0: x_0 counts as data before any noise.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_number, check_rising
from scoresde.sde.autodiff import value_and_slope
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import ScalarSDE


class LogSNRSDE(ScalarSDE):
    """A variance-preserving process whose subclass gives `log_snr`."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), the shape of t."""

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """d lambda / dt <= 0, the shape of t; by automatic differentiation unless a subclass knows it."""
        return value_and_slope(self.log_snr, t)[1]

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.exp(0.5 * nnf.logsigmoid(self.log_snr(t)))

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.exp(0.5 * nnf.logsigmoid(-self.log_snr(t)))

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), the shape of t."""
        return -self.log_snr_slope(t) * torch.sigmoid(-self.log_snr(t))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.beta(t).clamp(min=0.0).sqrt()

    def log_noise(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return -0.5 * self.log_snr(t)

    def log_noise_slope(self, t: Tensor) -> Tensor:
        return -0.5 * self.log_snr_slope(t)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        fall = self.log_snr(t) - self.log_snr(s)
        return ScalarKernel(self.alpha(t) / self.alpha(s), self.sigma(t) * (-torch.expm1(fall)).clamp(min=0.0).sqrt())

    def prior_std(self) -> float:
        """1: the limit of small lambda; the kernel at T differs from it by alpha(T)^2 = sigmoid(lambda(T))."""
        return 1.0


@dataclass(frozen=True)
class LogSNRLinearSDE(LogSNRSDE):
    """lambda falls linearly from log_snr_max at t = 0 to log_snr_min at t = 1.

    log_snr_max, log_snr_min: the defaults are those at which VDM starts. To start from the prior costs alpha(1)^2 / 2 nats a
        coordinate for |x_0| = 1, which at -5 is 3.3e-3 and at -10 2.3e-5; for N(0, 1) data nothing.
    """

    log_snr_max: float = 13.3
    log_snr_min: float = -5.0

    def __post_init__(self) -> None:
        check_number("log_snr_min", self.log_snr_min)
        check_rising("log_snr_min", self.log_snr_min, "log_snr_max", self.log_snr_max)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.log_snr_max + t * (self.log_snr_min - self.log_snr_max)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.log_snr_min - self.log_snr_max)

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """The t in [0, T] at which lambda(t) = -2 u, float64."""
        fall = self.log_snr_max + 2.0 * u.to(torch.float64)
        return (fall / (self.log_snr_max - self.log_snr_min)).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        fall = (t - s) * (self.log_snr_min - self.log_snr_max)
        return ScalarKernel(self.alpha(t) / self.alpha(s), self.sigma(t) * (-torch.expm1(fall)).clamp(min=0.0).sqrt())
