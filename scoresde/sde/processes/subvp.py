"""Sub-variance-preserving (sub-VP) process (Song et al. 2021, arXiv:2011.13456, section 3.4).

It has the mean of VP and a smaller variance at every time. With B(t) = int_0^t beta(s) ds::

    dx = -beta(t) x / 2 dt + sqrt(beta(t) (1 - exp(-2 B(t)))) dw

    alpha = exp(-B / 2)          sigma = 1 - exp(-B)          prior N(0, I)

Between two times the variance is::

    e^{-B_t} int_{B_s}^{B_t} (e^b - e^{-b}) db = (1 - e^{-(B_t - B_s)}) (1 - e^{-(B_t + B_s)})
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.processes.vp import LinearBeta


@dataclass(frozen=True, repr=False)
class SubVPSDE(LinearBeta):
    r"""Sub-variance-preserving (sub-VP) process.

    .. math::
        dx = -\tfrac{1}{2} \beta(t)\, x\, dt + \sqrt{\beta(t) \left(1 - e^{-2 B(t)}\right)}\, dw, \qquad
        \beta(t) = \beta_{min} + t\, (\beta_{max} - \beta_{min})

    .. math::
        \alpha(t) = e^{-B(t)/2}, \qquad \sigma(t) = 1 - e^{-B(t)}, \qquad
        B(t) = \int_0^t \beta(s)\, ds = \beta_{min} t + \tfrac{1}{2} (\beta_{max} - \beta_{min}) t^2

    The prior is :math:`N(0, I)`.

    Args:
        beta_min: Noise rate at t = 0, > 0.
        beta_max: Noise rate at t = 1, > 0.
        T: The last time, > 0. beta(t) does not depend on it.

    References:
        Song et al. 2021, arXiv:2011.13456, section 3.4.
    """

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return (-torch.expm1(-self.beta_integral(t))).clamp(min=0.0)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return (self.beta(t) * -torch.expm1(-2.0 * self.beta_integral(t))).clamp(min=0.0).sqrt()

    def kernel(self, t: Tensor) -> ScalarKernel:
        self.check_time(t)
        b = self.beta_integral(t)
        return ScalarKernel(torch.exp(-0.5 * b), (-torch.expm1(-b)).clamp(min=0.0))

    def log_noise(self, t: Tensor) -> Tensor:
        self.check_time(t)  # ln(sigma / alpha) = ln(2 sinh(B / 2)) = B / 2 + ln(1 - exp(-B))
        b = self.beta_integral(t)
        return 0.5 * b + (-torch.expm1(-b)).clamp(min=0.0).log()

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        # log_noise = u at B = 2 asinh(exp(u) / 2)
        return self.time_of_beta_integral(2.0 * (0.5 * u.to(torch.float64).exp()).asinh())

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        difference, total = self.beta_between(s, t), self.beta_integral(s) + self.beta_integral(t)
        variance = torch.expm1(-difference) * torch.expm1(-total)
        return ScalarKernel(torch.exp(-0.5 * difference), variance.clamp(min=0.0).sqrt())
