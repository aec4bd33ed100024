"""The process of EDM (Karras et al. 2022, arXiv:2206.00364): time is the noise.

    dx = sqrt(2 t) dw        alpha = 1        sigma(t) = t        t in [0, T],  T = sigma_max        prior N(0, sigma_max^2 I)

Between two times the variance is t^2 - s^2 = (t - s)(t + s). To start from the prior costs x_0^2 / (2 sigma_max^2) nats a
coordinate: 8e-5 for |x_0| = 1 at the default 80. The log-density of a single sample is off by E[x_0] x_T / sigma_max^2, of
either sign: centre the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde._validation import check_number, check_rising
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import ScalarSDE


@dataclass(frozen=True)
class EDMSDE(ScalarSDE):
    """x_t = x_0 + t z. Times run to T = sigma_max, not to 1: give samplers a grid such as `grids.karras`.

    sigma_min: noise below which data has no detail, > 0: the `t_min` of samplers and likelihoods. The process goes down to 0
        whatever it is, and processes that differ in it alone are equal.
    sigma_max: noise at T, > sigma_min; well above the largest distance between two data points.
    """

    sigma_min: float = field(default=0.002, compare=False)
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, above=0.0)
        check_rising("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def T(self) -> float:  # type: ignore[override]
        """sigma_max."""
        return float(self.sigma_max)

    @property
    def t_min(self) -> float:
        """The time at which the noise is sigma_min."""
        return self.sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return t.clamp(min=0.0)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return math.sqrt(2.0) * self.sigma(t).sqrt()

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """exp(u), clamped to [0, T], float64."""
        return u.to(torch.float64).exp().clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        std = ((t - s) * (t + s)).clamp(min=0.0).sqrt()
        return ScalarKernel(torch.ones_like(std), std)
