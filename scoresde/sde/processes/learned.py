"""Variance-preserving process with a learned noise schedule (VDM; Kingma et al. 2021, arXiv:2107.00630, appendix H).

The schedule is a monotone network n(t)::

    SNR(t) = exp(-gamma(t))        gamma(t) = gamma_0 + (gamma_1 - gamma_0) (n(t) - n(0)) / (n(1) - n(0))

    n(t) = w t + sum_k a_k sigmoid(b_k t + c_k),     w, a_k, b_k > 0,     t in [0, 1]

gamma increases with t for all parameters. The likelihood-weighted loss depends only on the end points of gamma. The
shape in between changes the variance of its estimate, and is trained to minimize it::

    DenoisingScoreMatching(sde, "likelihood")      the objective of the network
    ScheduleVariance(sde)                          the objective of the process: the loss squared

``configs/vp/digits_learned_snr.py`` trains both. The end points are trained by the variational bound, including its prior and
reconstruction terms::

    VariationalDiffusionLoss(sde, transform)       the objective of the network: the bound in bits/dim
    VariationalSchedule(sde, transform)            the objective of the process: the bound for its end points, the
                                                   variance for its shape
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from scoresde._validation import check_count, check_number, check_rising
from scoresde.sde.processes.logsnr import LogSNRSDE


class LearnedSNRSDE(nn.Module, LogSNRSDE):
    r"""Variance-preserving process with a learned log signal-to-noise ratio.

    .. math::
        \alpha(t)^2 = \mathrm{sigmoid}(-\gamma(t)), \qquad \sigma(t)^2 = \mathrm{sigmoid}(\gamma(t)), \qquad
        \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{n(t) - n(0)}{n(1) - n(0)}

    .. math::
        n(t) = w t + \sum_k a_k\, \mathrm{sigmoid}(b_k t + c_k), \qquad w, a_k, b_k > 0

    The SDE is that of ``LogSNRSDE`` with :math:`\lambda = -\gamma`, and the prior is :math:`N(0, I)`.

    The process is an ``nn.Module``: alpha, sigma, drift and diffusion have gradients with respect to its parameters.
    The parameters are float32; values have the dtype and device of t. Two objects of this class are equal only if they
    are the same object.

    Args:
        log_snr_max: Initial value of -gamma(0).
        log_snr_min: Initial value of -gamma(1), < log_snr_max. In between, the initial gamma is linear to 1%.
        hidden: Number of sigmoids, >= 1.
        train_ends: Whether gamma(0) and gamma(1) are trained. gamma(1) stays above gamma(0).

    References:
        Kingma et al. 2021, Variational diffusion models, arXiv:2107.00630, appendix H.
    """

    def __init__(
        self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, *, hidden: int = 64, train_ends: bool = False
    ) -> None:
        super().__init__()
        check_number("log_snr_min", log_snr_min)
        check_rising("log_snr_min", log_snr_min, "log_snr_max", log_snr_max)
        check_count("hidden", hidden)
        self.train_ends = train_ends
        first, rise = (torch.tensor(v, dtype=torch.float32) for v in (-log_snr_max, log_snr_max - log_snr_min))
        self.gamma_0 = nn.Parameter(first, requires_grad=train_ends)
        self.log_rise = nn.Parameter(rise.log(), requires_grad=train_ends)
        ones = torch.ones(hidden, dtype=torch.float32)
        steepness, centers = 20.0, (ones.cumsum(0) - 0.5) / hidden
        self.w = nn.Parameter(_softplus_inverse(ones[0]))
        self.a = nn.Parameter(_softplus_inverse(0.1 / hidden * ones))
        self.b = nn.Parameter(_softplus_inverse(steepness * ones))
        self.c = nn.Parameter(-steepness * centers)

    def gamma(self, t: Tensor) -> Tensor:
        """Negative log signal-to-noise ratio gamma(t) = -ln SNR(t).

        Args:
            t: Times in [0, 1], ``()`` or ``(B,)``.

        Returns:
            gamma, in the shape of t.
        """
        out: Tensor = self.gamma_0.to(t) + self.log_rise.to(t).exp() * self.share(t)
        return out

    def share(self, t: Tensor) -> Tensor:
        """Share of the rise of gamma up to t, (n(t) - n(0)) / (n(1) - n(0)), which does not depend on the end points.

        Args:
            t: Times in [0, 1], ``()`` or ``(B,)``.

        Returns:
            Values in [0, 1], in the shape of t.
        """
        start, end = self._network(t.new_tensor([0.0, 1.0]))
        out: Tensor = (self._network(t) - start) / (end - start)
        return out

    forward = gamma

    def log_snr(self, t: Tensor) -> Tensor:
        return -self.gamma(t)

    def _network(self, t: Tensor) -> Tensor:
        """The monotone network n(t)."""
        w, a, b = (nnf.softplus(p.to(t)) for p in (self.w, self.a, self.b))
        return w * t + (a * torch.sigmoid(b * t[..., None] + self.c.to(t))).sum(-1)


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
