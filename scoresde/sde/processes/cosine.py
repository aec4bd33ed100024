"""The cosine schedule as a variance-preserving process (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    alpha = cos(theta) / cos(theta_0),     theta(t) = (pi / 2) (t + s) / (1 + s),  theta_0 = theta(0),     t in [0, 1]

    dx = -beta x / 2 dt + sqrt(beta) dw,     beta = (pi / (1 + s)) tan(theta),     sigma^2 = 1 - alpha^2,     prior N(0, I)

alpha(1) = 0 and beta has a pole there. The paper's chain clips each beta_i at 0.999, which touches its last step alone and
leaves it a little signal. Here the rate is clipped: beta <= beta_max = 999, a thousand times 0.999, from the time t_c on at which
it is reached (1 - t_c = 0.002), so that

    alpha(t) = alpha(t_c) exp(-beta_max (t - t_c) / 2),   t > t_c

and T stays 1. What is left is alpha(1)^2 = 1.3e-6: to start from N(0, I) costs alpha(1)^2 / 2 = 7e-7 nats a coordinate for
|x_0| = 1. Without cancellation at small noise or for close times, and where cos(theta) is small,

    1 - (alpha_t / alpha_s)^2 = sin(theta_t - theta_s) sin(theta_t + theta_s) / cos(theta_s)^2   for t <= t_c
    cos(theta) = sin((pi / 2) (1 - t) / (1 + s))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import Chain, ScalarSDE, TableChain


@dataclass(frozen=True)
class CosineVPSDE(ScalarSDE):
    """Variance-preserving process with the cosine schedule.

    s: offset that keeps noise from vanishing too fast at t = 0, >= 0.
    beta_max: bound on the noise rate, > beta(0) = (pi / (1 + s)) tan(theta_0), which is 0.04 for s = 0.008.
    """

    s: float = 0.008
    beta_max: float = 999.0

    def __post_init__(self) -> None:
        check_number("s", self.s, least=0.0)
        check_number("beta_max", self.beta_max, above=2.0 * self._speed * math.tan(self._speed * self.s))

    @property
    def _speed(self) -> float:
        """d theta / dt."""
        return 0.5 * math.pi / (1.0 + self.s)

    @property
    def clipped_from(self) -> float:
        """t_c, the time at which beta reaches beta_max."""
        return 1.0 - math.atan(2.0 * self._speed / self.beta_max) / self._speed

    def _cosine(self, t: Tensor) -> Tensor:
        """cos(theta(t))."""
        return torch.sin(self._speed * (1.0 - t))

    def _split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """min(t, t_c), and what is left of t."""
        before = t.clamp(max=self.clipped_from)
        return before, t - before

    def beta(self, t: Tensor) -> Tensor:
        """beta(t), the shape of t."""
        before, _ = self._split(t)
        tangent = torch.sin(self._speed * (before + self.s)) / self._cosine(before)
        return (2.0 * self._speed * tangent).clamp(0.0, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        before, after = self._split(t)
        return self._cosine(before) / math.cos(self._speed * self.s) * torch.exp(-0.5 * self.beta_max * after)

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self._variance_between(torch.zeros_like(t), t).sqrt()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.beta(t).sqrt()

    def _variance_between(self, s: Tensor, t: Tensor) -> Tensor:
        """1 - (alpha_t / alpha_s)^2."""
        (s, s_after), (t, t_after) = self._split(s), self._split(t)
        both = self._speed * (s + t + 2.0 * self.s)
        gained = torch.sin(self._speed * (t - s)) * torch.sin(both) / self._cosine(s) ** 2
        return (gained - (1.0 - gained) * torch.expm1(-self.beta_max * (t_after - s_after))).clamp(min=0.0)

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """The t in [0, T] at which log_noise = u, float64.

        Before the clip 1 / alpha^2 = 1 + exp(2 u) gives tan^2(theta) = tan^2(theta_0) + exp(2 u) / cos^2(theta_0); after it
        ln alpha falls with the rate beta_max / 2.
        """
        u = u.to(torch.float64).clamp(-350.0, 350.0)  # exp(2 u) neither 0 nor infinite
        start, edge = self._speed * self.s, torch.tensor(self.clipped_from, dtype=torch.float64)
        gained = (2.0 * u).exp() / math.cos(start) ** 2
        tangent = (math.tan(start) ** 2 + gained).sqrt()
        # tan(theta - theta_0), without the difference of the two angles
        turn = (gained / (tangent + math.tan(start)) / (1.0 + tangent * math.tan(start))).atan()
        log_alpha = 0.5 * nnf.logsigmoid(-2.0 * u)
        after = edge + 2.0 / self.beta_max * (self.alpha(edge).log() - log_alpha).clamp(min=0.0)
        return torch.where(u > self.log_noise(edge), after, turn / self._speed).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        return ScalarKernel(self.alpha(t) / self.alpha(s), self._variance_between(s, t).sqrt())

    def prior_std(self) -> float:
        """1: the limit without a clip."""
        return 1.0

    def discretize(self, steps: int) -> Chain:
        """The paper's chain: beta_i = min(1 - h(i / N) / h((i - 1) / N), 0.999), h = cos^2(theta), i = 1 .. N; no beta_max."""
        check_count("steps", steps, least=2)
        i = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        before = i - 1.0 / steps
        # 1 - h(t) / h(s), by the same identity as above; h(1) = 0 up to rounding
        both = torch.sin(self._speed * (i + before + 2.0 * self.s))
        betas = (math.sin(self._speed / steps) * both / self._cosine(before) ** 2).clamp(max=0.999)
        a = (1.0 - betas).sqrt()
        sigma = (-torch.expm1(torch.log1p(-betas).cumsum(0))).sqrt()
        return TableChain(self, steps, alpha=a.cumprod(0), sigma=sigma, step_a=a, step_std=betas.sqrt())
