"""Variance-preserving process with the cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

With theta(t) = (pi / 2) (t + s) / (1 + s) and theta_0 = theta(0)::

    dx = -beta x / 2 dt + sqrt(beta) dw,     beta = (pi / (1 + s)) tan(theta)          t in [0, 1]

    alpha = cos(theta) / cos(theta_0)          sigma^2 = 1 - alpha^2          prior N(0, I)

alpha(1) = 0, and beta has a pole at t = 1. The chain of the paper clips each beta_i at 0.999. This changes only the
last step, and leaves a small coefficient of the data. Here the rate is clipped, beta <= beta_max = 999, a thousand
times 0.999. It is reached at the time t_c (1 - t_c = 0.002), after which::

    alpha(t) = alpha(t_c) exp(-beta_max (t - t_c) / 2),   t > t_c

T stays 1. The remaining coefficient is alpha(1)^2 = 1.3e-6. Samples that start from N(0, I) have an error of
alpha(1)^2 / 2 = 7e-7 nats per coordinate for ``|x_0| = 1``. These forms do not cancel at small noise, for close times
or for small cos(theta)::

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
    r"""Variance-preserving process with the cosine schedule.

    .. math::
        dx = -\tfrac{1}{2} \beta(t)\, x\, dt + \sqrt{\beta(t)}\, dw, \qquad
        \beta(t) = \min\left(\frac{\pi}{1 + s} \tan\theta(t),\, \beta_{max}\right), \qquad
        \theta(t) = \frac{\pi}{2} \frac{t + s}{1 + s}

    .. math::
        \alpha(t) = \frac{\cos\theta(t)}{\cos\theta(0)} \text{ where } \beta < \beta_{max}, \qquad
        \sigma(t)^2 = 1 - \alpha(t)^2, \qquad t \in [0, 1]

    The prior is :math:`N(0, I)`.

    Args:
        s: Offset of the schedule, >= 0. It prevents the noise from being too small near t = 0.
        beta_max: Upper bound of the noise rate, > beta(0) = (pi / (1 + s)) tan(theta(0)), which is 0.04 for s = 0.008.

    References:
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, arXiv:2102.09672, eq. 17.
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
        """Time t_c at which beta reaches beta_max."""
        return 1.0 - math.atan(2.0 * self._speed / self.beta_max) / self._speed

    def _cosine(self, t: Tensor) -> Tensor:
        """cos(theta(t))."""
        return torch.sin(self._speed * (1.0 - t))

    def _split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Split t into min(t, t_c) and the remainder."""
        before = t.clamp(max=self.clipped_from)
        return before, t - before

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The rate, in the shape of t.
        """
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
        # for t < t_c, 1 / alpha^2 = 1 + exp(2 u) gives tan^2(theta) = tan^2(theta_0) + exp(2 u) / cos^2(theta_0);
        # for t > t_c, ln alpha decreases with the rate beta_max / 2
        u = u.to(torch.float64).clamp(-350.0, 350.0)  # exp(2 u) neither 0 nor infinite
        start, edge = self._speed * self.s, torch.tensor(min(self.clipped_from, self.T), dtype=torch.float64)
        gained = (2.0 * u).exp() / math.cos(start) ** 2
        tangent = (math.tan(start) ** 2 + gained).sqrt()
        # arctan of tan(theta - theta_0), without the difference of the two angles
        turn = (gained / (tangent + math.tan(start)) / (1.0 + tangent * math.tan(start))).atan()
        log_alpha = 0.5 * nnf.logsigmoid(-2.0 * u)
        after = edge + 2.0 / self.beta_max * (self.alpha(edge).log() - log_alpha).clamp(min=0.0)
        return torch.where(u > self.log_noise(edge), after, turn / self._speed).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        return ScalarKernel(self.alpha(t) / self.alpha(s), self._variance_between(s, t).sqrt())

    def prior_std(self) -> float:
        """Standard deviation 1 of the prior, the limit without the clip."""
        return 1.0

    def discretize(self, steps: int) -> Chain:
        """Markov chain of the paper: x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) z.

        The rates are beta_i = min(1 - h(i / N) / h((i - 1) / N), 0.999) with h = cos^2(theta), i = 1 .. N. ``beta_max``
        is not used.

        Args:
            steps: Number of steps N, >= 2.

        Returns:
            The chain, which is a process as well.
        """
        check_count("steps", steps, least=2)
        i = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        before = i - 1.0 / steps
        # 1 - h(t) / h(s), by the identity of the module docstring; h(1) = 0 up to rounding
        both = torch.sin(self._speed * (i + before + 2.0 * self.s))
        betas = (math.sin(self._speed / steps) * both / self._cosine(before) ** 2).clamp(max=0.999)
        a = (1.0 - betas).sqrt()
        sigma = (-torch.expm1(torch.log1p(-betas).cumsum(0))).sqrt()
        return TableChain(self, steps, alpha=a.cumprod(0), sigma=sigma, step_a=a, step_std=betas.sqrt())
