"""Processes that destroy data, x_0 at t = 0, by noise up to t = T (Song et al. 2021, arXiv:2011.13456).

    SDE         dx = f(x, t) dt + g(t) dw
    reverse     dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw'         run from T down to 0      (their eq. 6)
    flow        dx = [f(x, t) - g(t)^2 score(x, t) / 2] dt                the same marginals        (their eq. 13)

    LinearSDE   f(x, t) = F(t) x, so that   x_t = alpha(t) x_0 + sigma(t) z,   z ~ N(0, I)

and with score = grad log p_t(x) each of noise, data and velocity says the same thing:

    noise = -sigma score        data = (x + sigma^2 score) / alpha        velocity = alpha noise - sigma data

Shapes: x is (B, *event) with any event shape; t is (B,), or () where one time serves all; results follow x. Times lie
in [0, T]; a time outside raises ValueError. Coefficients are computed in the dtype of t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_times, expand
from scoresde.noise import NoiseSource
from scoresde.sde.kernel import GaussianKernel, ScalarKernel, standard_normal_log_prob

if TYPE_CHECKING:
    from scoresde.sde.chain import Chain

Score = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> grad log p_t(x), the shape of x. t is (B,)."""


class SDE(ABC):
    """A process dx = f(x, t) dt + g(t) dw on [0, T]."""

    T: float = 1.0

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), the shape of x."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the shape of t."""

    @abstractmethod
    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A draw of ``shape`` (B, *event) from the prior p_T; sample i depends on (seed, i) alone."""

    @abstractmethod
    def prior_log_prob(self, x: Tensor) -> Tensor:
        """log p_T(x) in nats, (B, *event) -> (B,)."""

    def diffuse(self, z: Tensor, t: Tensor) -> Tensor:
        """g(t) z."""
        return expand(self.diffusion(t), z) * z

    def diffuse_twice(self, v: Tensor, t: Tensor) -> Tensor:
        """g(t) g(t)^T v: what multiplies the score."""
        return expand(self.diffusion(t), v) ** 2 * v

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - g^2 score, the drift of the reverse-time SDE, for a score already evaluated at (x, t)."""
        return self.drift(x, t) - self.diffuse_twice(score, t)

    def flow_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - g^2 score / 2, the drift of the probability-flow ODE."""
        return self.drift(x, t) - 0.5 * self.diffuse_twice(score, t)

    def reverse(self, score: Score) -> ReverseSDE:
        """The reverse-time SDE under ``score``."""
        return ReverseSDE(self, score)

    def probability_flow(self, score: Score) -> ProbabilityFlow:
        """The deterministic flow with the same marginals under ``score``."""
        return ProbabilityFlow(self, score)

    def check_time(self, t: Tensor, batch: int | None = None) -> None:
        """Raise ValueError unless all of ``t`` lies in [0, T] and its shape is () or (batch,)."""
        check_times("t", t, self.T, batch)


def check_same_process(sde: SDE, score: object) -> None:
    """Raise ValueError where ``score`` says that it was made for another process than ``sde``.

    A model or a closed form has its process as ``score.sde``; a bare function does not say. A chain fits its process.
    """
    other = getattr(score, "sde", None)
    if not isinstance(other, SDE):
        return
    here, there = (p.continuous if isinstance(p, LinearSDE) else p for p in (sde, other))
    same = here is there or here == there or (type(here) is type(there) and not is_dataclass(here))
    if not same:
        raise ValueError(f"the score was made for {other!r}, and sde={sde!r}: give the score's own process, score.sde")


@dataclass(frozen=True)
class ReverseSDE:
    """dx = [f - g^2 score] dt + g dw', run from T down to 0."""

    sde: SDE
    score: Score

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) - g(t)^2 score(x, t)."""
        return self.sde.reverse_drift(x, t, self.score(x, t))

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t)."""
        return self.sde.diffusion(t)


@dataclass(frozen=True)
class ProbabilityFlow:
    """dx = [f - g^2 score / 2] dt."""

    sde: SDE
    score: Score

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) - g(t)^2 score(x, t) / 2."""
        return self.sde.flow_drift(x, t, self.score(x, t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Zero, the shape of t."""
        return torch.zeros_like(t)


class LinearSDE(SDE):
    """A process with f(x, t) = F(t) x and the kernel x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I).

    A subclass gives `alpha`, `sigma`, `drift_coefficient` (F) and `diffusion` (g); the rest follows.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The mean's coefficient, the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation given x_0, the shape of t."""

    @abstractmethod
    def drift_coefficient(self, t: Tensor) -> Tensor:
        """F(t), the shape of t."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        return expand(self.drift_coefficient(t), x) * x

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, *event) and standard deviation (the shape of t) of x_t given x_0."""
        check_batch("x0", x0)
        self.check_time(t, len(x0))
        return expand(self.alpha(t), x0) * x0, self.sigma(t)

    def kernel(self, t: Tensor) -> GaussianKernel:
        """The kernel x_t | x_0."""
        return ScalarKernel(self.alpha(t), self.sigma(t))

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """alpha(t) x_0 + sigma(t) noise."""
        mean, std = self.marginal(x0, t)
        return mean + expand(std, noise) * noise

    def transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """The kernel x_t | x_s for s <= t in [0, T]; shapes () or (B,). Raises ValueError for other times."""
        self.check_time(s)
        self.check_time(t)
        if s.device.type == "cpu" and not bool((s <= t).all()):
            raise ValueError(f"s={s.tolist()}, t={t.tolist()}: a transition goes from s up to t, s <= t")
        return self._transition(s, t)

    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """a = alpha_t / alpha_s and std^2 = sigma_t^2 - a^2 sigma_s^2. A subclass with a closed form that does not cancel
        for s close to t overrides this."""
        a = self.alpha(t) / self.alpha(s)
        return ScalarKernel(a, (self.sigma(t) ** 2 - (a * self.sigma(s)) ** 2).clamp(min=0.0).sqrt())

    def bridge(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_s given x_t and x_0, s <= t (Ho et al. 2020, eq. 6-7, any process).

        q(x_s | x_t, x_0) = N(a sigma_s^2 / sigma_t^2 x_t + alpha_s v / sigma_t^2 x_0, sigma_s^2 v / sigma_t^2 I),
        where N(a x_s, v I) is the transition from s to t.
        """
        kernel = self.transition(s, t)
        assert isinstance(kernel, ScalarKernel)
        a, std = kernel.a, kernel.std
        sigma_s, sigma_t = self.sigma(s), (a * self.sigma(s)).hypot(std)
        on_x_t, on_x0 = a * (sigma_s / sigma_t) ** 2, self.alpha(s) * (std / sigma_t) ** 2
        return expand(on_x_t, x_t) * x_t + expand(on_x0, x0) * x0, sigma_s * std / sigma_t

    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I): sigma(T)."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        noise = noise or NoiseSource.of(seed, shape[0], device=device)
        return self.prior_std() * noise.normal(tuple(shape[1:]), step=0, purpose="prior", dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        std = torch.tensor(self.prior_std(), dtype=x.dtype)
        return standard_normal_log_prob(x / std) - x[0].numel() * std.log()

    @property
    def continuous(self) -> LinearSDE:
        """The process in continuous time: itself, unless it is a chain."""
        return self

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """The t at which ln(sigma / alpha) = u, float64, by bisection to 2^-60 T; clamped to [0, T]."""
        u = u.to(torch.float64)
        low, high = torch.zeros_like(u), torch.full_like(u, self.T)
        for _ in range(60):
            middle = 0.5 * (low + high)
            quiet = (self.sigma(middle) / self.alpha(middle)).log() < u
            low, high = torch.where(quiet, middle, low), torch.where(quiet, high, middle)
        return 0.5 * (low + high)

    def discretize(self, steps: int) -> Chain:
        """The process as a Markov chain of ``steps`` steps, by Euler and Maruyama: f = F(t) x / N, G = g(t) / sqrt N.

        A process that the literature discretises otherwise overrides this.
        """
        from scoresde.sde.chain import EulerChain

        return EulerChain(self, steps)

    # One quantity, four names. Each takes x where it needs it, so that all are called alike.

    def noise_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """E[z | x_t] = -sigma score."""
        return -expand(self.sigma(t), x) * score

    def data_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """E[x_0 | x_t] = (x + sigma^2 score) / alpha (Tweedie)."""
        return (x + expand(self.sigma(t), x) ** 2 * score) / expand(self.alpha(t), x)

    def velocity_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """alpha E[z | x_t] - sigma E[x_0 | x_t] (Salimans & Ho 2022, arXiv:2202.00512)."""
        alpha, sigma = expand(self.alpha(t), x), expand(self.sigma(t), x)
        return alpha * self.noise_from_score(x, t, score) - sigma * self.data_from_score(x, t, score)

    def score_from_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """-noise / sigma."""
        return -noise / expand(self.sigma(t), x)

    def score_from_data(self, x: Tensor, t: Tensor, data: Tensor) -> Tensor:
        """(alpha x_0 - x) / sigma^2."""
        return (expand(self.alpha(t), x) * data - x) / expand(self.sigma(t), x) ** 2

    def score_from_velocity(self, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """-noise / sigma with noise = (alpha velocity + sigma x) / (alpha^2 + sigma^2)."""
        alpha, sigma = expand(self.alpha(t), x), expand(self.sigma(t), x)
        return -(alpha * velocity + sigma * x) / (sigma * (alpha**2 + sigma**2))
