"""Linear processes with a number for every time: all coordinates alike (VP, sub-VP, VE, ...).

    dx = F(t) x dt + g(t) dw        x_t = alpha(t) x_0 + sigma(t) z,   z ~ N(0, I)

With score = grad log p_t(x) each of noise, data and velocity says the same thing:

    noise = -sigma score        data = (x + sigma^2 score) / alpha        velocity = alpha noise - sigma data

A process looked at on N instants: the Markov chains of DDPM and SMLD, and Euler-Maruyama's for any other.

    x_i = A_i x_(i-1) + L_i z,   i = 0, ..., N-1,   x_(-1) = x_0 the data;      t = i / (N - 1),   i(t) = floor(t (N - 1))

A chain is a process too: alpha(t) and sigma(t) are read from its tables at i(t), so that an objective or a model made
for the chain is an objective or a model like any other. `step(t)` is the kernel that ends in x_(i(t)); what differs
from the process's own transition is of order 1/N. Drift, diffusion and prior are the process's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, check_sizes, expand
from scoresde.sde.linalg.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.linalg.maps import ScalarMap
from scoresde.sde.linear import LinearSDE


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

    def posterior(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
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
        return EulerChain(self, steps)


_INDEX_SLACK = 1e-4
"""t (N-1) may fall this much short of a whole number, or by four roundings of t where that is more."""


class Chain(ScalarSDE):
    """A linear process on ``steps`` instants. Subclasses give `alpha`, `sigma` and `step`."""

    def __init__(self, sde: ScalarSDE, steps: int) -> None:
        check_count("steps", steps, least=2)
        self.sde, self.steps, self.T = sde, steps, sde.T

    def index(self, t: Tensor) -> Tensor:
        """i(t) in 0 .. N-1, the shape of t."""
        self.check_time(t)
        slack = max(_INDEX_SLACK, 4.0 * torch.finfo(t.dtype).eps * self.steps)
        i = torch.floor(t.to(torch.float64) / self.T * (self.steps - 1) + slack).long()
        return i.clamp(0, self.steps - 1)

    def time(self, index: Tensor) -> Tensor:
        """t of a 0-based index, float64."""
        return index.to(torch.float64) / (self.steps - 1) * self.T

    @abstractmethod
    def step(self, t: Tensor) -> ScalarKernel:
        """The kernel of the chain's step that ends at t; coefficients in float64, the shape of t."""

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return self.sde.drift_coefficient(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sde.diffusion(t)

    def prior_std(self) -> float:
        return self.sde.prior_std()

    @property
    def continuous(self) -> ScalarSDE:
        return self.sde

    def discretize(self, steps: int) -> Chain:
        """The chain itself where the number of steps agrees."""
        return self if steps == self.steps else self.sde.discretize(steps)


class TableChain(Chain):
    """A chain by its tables, each (N,) in float64: marginals alpha_i, sigma_i and steps A_i = step_a, L_i = step_std."""

    def __init__(
        self, sde: ScalarSDE, steps: int, *, alpha: Tensor, sigma: Tensor, step_a: Tensor, step_std: Tensor
    ) -> None:
        super().__init__(sde, steps)
        for name, value in (("alpha", alpha), ("sigma", sigma), ("step_a", step_a), ("step_std", step_std)):
            check_sizes(name, value, steps)
            check_finite(name, value[:, None])
        self.alphas, self.sigmas, self.step_a, self.step_std = alpha, sigma, step_a, step_std

    def alpha(self, t: Tensor) -> Tensor:
        return self.alphas.to(t.device)[self.index(t)].to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigmas.to(t.device)[self.index(t)].to(t.dtype)

    def step(self, t: Tensor) -> ScalarKernel:
        i = self.index(t)
        return ScalarKernel(self.step_a.to(t.device)[i], self.step_std.to(t.device)[i])


class EulerChain(Chain):
    """Euler-Maruyama with step T / N: A = 1 + F(t) T / N, L = g(t) sqrt(T / N); marginals are the process's own."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.sde.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)

    def step(self, t: Tensor) -> ScalarKernel:
        t = t.to(torch.float64)
        h = self.T / self.steps
        return ScalarKernel(1.0 + h * self.sde.drift_coefficient(t), self.sde.diffusion(t) * h**0.5)
