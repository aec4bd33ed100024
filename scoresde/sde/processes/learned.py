"""A variance-preserving process whose noise schedule is learned (VDM; Kingma et al. 2021, arXiv:2107.00630, appendix H).

    SNR(t) = exp(-gamma(t))        gamma(t) = gamma_0 + (gamma_1 - gamma_0) (n(t) - n(0)) / (n(1) - n(0))        t in [0, 1]
    n(t) = w t + sum_k a_k sigmoid(b_k t + c_k),     w, a_k, b_k > 0

so that gamma rises whatever the parameters are. The likelihood-weighted objective depends on gamma by its ends only; the shape in
between moves the variance of its estimate, and is trained by it:

    loss = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")(model, x0)
    (loss**2).mean()           as the objective of sde.parameters(), loss.mean() as that of the network's

The ends are trained by the bound itself, with its prior and reconstruction terms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from scoresde._validation import check_count, check_number, check_rising
from scoresde.sde.processes.logsnr import LogSNRSDE


class LearnedSNRSDE(nn.Module, LogSNRSDE):
    """A process that is a module: alpha, sigma, drift and diffusion carry gradients to its parameters.

    log_snr_max, log_snr_min: -gamma(0) and -gamma(1) to begin with; in between gamma begins within 1% of linear.
    hidden: number of sigmoids.
    train_ends: whether gamma(0) and gamma(1) are parameters that train, gamma(1) staying above gamma(0).

    The parameters are float32; values come in the dtype and on the device of t. Two of these are equal only where they are one.
    """

    def __init__(
        self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, *, hidden: int = 64, train_ends: bool = False
    ) -> None:
        super().__init__()
        check_number("log_snr_min", log_snr_min)
        check_rising("log_snr_min", log_snr_min, "log_snr_max", log_snr_max)
        check_count("hidden", hidden)
        first, rise = (torch.tensor(v, dtype=torch.float32) for v in (-log_snr_max, log_snr_max - log_snr_min))
        self.gamma_0 = nn.Parameter(first, requires_grad=train_ends)
        self.log_rise = nn.Parameter(rise.log(), requires_grad=train_ends)
        ones = torch.ones(hidden, dtype=torch.float32)
        steepness, centres = 20.0, (ones.cumsum(0) - 0.5) / hidden
        self.w = nn.Parameter(_softplus_inverse(ones[0]))
        self.a = nn.Parameter(_softplus_inverse(0.1 / hidden * ones))
        self.b = nn.Parameter(_softplus_inverse(steepness * ones))
        self.c = nn.Parameter(-steepness * centres)

    def gamma(self, t: Tensor) -> Tensor:
        """-ln SNR(t), the shape of t."""
        start, end = self._network(t.new_tensor([0.0, 1.0]))
        share = (self._network(t) - start) / (end - start)
        out: Tensor = self.gamma_0.to(t) + self.log_rise.to(t).exp() * share
        return out

    forward = gamma

    def log_snr(self, t: Tensor) -> Tensor:
        return -self.gamma(t)

    def _network(self, t: Tensor) -> Tensor:
        """n(t)."""
        w, a, b = (nnf.softplus(p.to(t)) for p in (self.w, self.a, self.b))
        return w * t + (a * torch.sigmoid(b * t[..., None] + self.c.to(t))).sum(-1)


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
