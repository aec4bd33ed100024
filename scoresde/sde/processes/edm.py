"""Process of EDM, whose time is the standard deviation of the noise (Karras et al. 2022, arXiv:2206.00364).

The process is::

    dx = sqrt(2 t) dw        alpha = 1        sigma(t) = t        t in [0, T],  T = sigma_max

    prior N(0, sigma_max^2 I)

The transition from s to t has the variance t^2 - s^2 = (t - s)(t + s). Samples that start from the prior have an error
of x_0^2 / (2 sigma_max^2) nats per coordinate, which is 8e-5 for ``|x_0| = 1`` and the default 80. The error of the
log-density of a single sample is E[x_0] x_T / sigma_max^2, of either sign, so the data should have mean 0.
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
    r"""Process of EDM: :math:`x_t = x_0 + t z`.

    .. math::
        dx = \sqrt{2 t}\, dw, \qquad \alpha(t) = 1, \qquad \sigma(t) = t, \qquad t \in [0, \sigma_{max}]

    The prior is :math:`N(0, \sigma_{max}^2 I)`. The last time is ``T = sigma_max`` and not 1: use a time grid such as
    ``grids.karras``.

    Args:
        sigma_min: Standard deviation of noise that does not change the data visibly, > 0. Samplers and likelihoods use
            it as ``t_min``. The process itself is defined down to t = 0, and does not depend on this argument: two
            processes that differ only in it are equal.
        sigma_max: Standard deviation of the noise at T, > sigma_min. Choose it well above the largest distance between
            two data points.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models, arXiv:2206.00364.
    """

    sigma_min: float = field(default=0.002, compare=False)
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_number("sigma_min", self.sigma_min, above=0.0)
        check_rising("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def T(self) -> float:  # type: ignore[override]
        """The last time, sigma_max."""
        return float(self.sigma_max)

    @property
    def t_min(self) -> float:
        """The time with noise sigma_min."""
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
        return u.to(torch.float64).exp().clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        std = ((t - s) * (t + s)).clamp(min=0.0).sqrt()
        return ScalarKernel(torch.ones_like(std), std)
