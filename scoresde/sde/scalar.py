"""Linear processes with a number for every time: all coordinates alike (VP, sub-VP, VE, ...).

    dx = F(t) x dt + g(t) dw        x_t = alpha(t) x_0 + sigma(t) z,   z ~ N(0, I)

With score = grad log p_t(x) each of noise, data and velocity says the same thing:

    noise = -sigma score        data = (x + sigma^2 score) / alpha        velocity = alpha noise - sigma data
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.linear import LinearSDE
from scoresde.sde.maps import ScalarMap

if TYPE_CHECKING:
    from scoresde.sde.chain import Chain


class ScalarSDE(LinearSDE):
    """A process with f(x, t) = F(t) x and the kernel x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I).

    A subclass gives `alpha`, `sigma`, `drift_coefficient` (F) and `diffusion` (g); the rest follows.

    A class may give `kernel`, `log_noise` and the inverse `time_of_log_noise` in closed form. They belong to that class's
    coefficients: a subclass that overrides a coefficient gets the general ones back, unless it gives its own.
    """

    special: ClassVar[str] = "numbers alpha(t), sigma(t)"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = vars(cls).keys()
        if own & {"alpha", "sigma"}:
            for name in {"log_noise", "kernel"} - own:
                setattr(cls, name, vars(ScalarSDE)[name])
        if own & {"alpha", "sigma", "beta", "beta_integral", "log_snr"} and "time_of_log_noise" not in own:
            cls.time_of_log_noise = LinearSDE.time_of_log_noise  # type: ignore[method-assign]

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The mean's coefficient, the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation given x_0, the shape of t."""

    @abstractmethod
    def drift_coefficient(self, t: Tensor) -> Tensor:
        """F(t), the shape of t."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the shape of t."""

    def drift_map(self, t: Tensor) -> ScalarMap:
        return ScalarMap(self.drift_coefficient(t))

    def diffusion_map(self, t: Tensor) -> ScalarMap:
        return ScalarMap(self.diffusion(t))

    def kernel(self, t: Tensor) -> ScalarKernel:
        return ScalarKernel(self.alpha(t), self.sigma(t))

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

    def prior_root(self) -> ScalarMap:
        return ScalarMap(torch.tensor(self.prior_std(), dtype=torch.float64))

    def log_noise(self, t: Tensor) -> Tensor:
        """ln(sigma / alpha), the shape of t."""
        return (self.sigma(t) / self.alpha(t)).log()

    def log_noise_slope(self, t: Tensor) -> Tensor:
        """d ln(sigma / alpha) / dt = g^2 / (2 sigma^2)."""
        return 0.5 * (self.diffusion(t) / self.sigma(t)) ** 2

    # for scalar coefficients |det L| / |det A| is (sigma / alpha)^d, so the two clocks are one

    def log_spread(self, t: Tensor) -> Tensor:
        """`log_noise`, the shape of t."""
        return self.log_noise(t)

    def log_spread_slope(self, t: Tensor) -> Tensor:
        """`log_noise_slope`, the shape of t."""
        return self.log_noise_slope(t)

    def time_of_log_spread(self, u: Tensor) -> Tensor:
        """`time_of_log_noise`."""
        return self.time_of_log_noise(u)

    def discretize(self, steps: int) -> Chain:
        """The process as a Markov chain of ``steps`` steps, by Euler and Maruyama: f = F(t) x / N, G = g(t) / sqrt N.

        A process that the literature discretises otherwise overrides this.
        """
        from scoresde.sde.chain import EulerChain

        return EulerChain(self, steps)
