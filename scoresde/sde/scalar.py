r"""Linear processes with scalar coefficients, the same for all coordinates: VP, sub-VP, VE and others.

The process and its marginal given the data are::

    dx = F(t) x dt + g(t) dw        x_t = alpha(t) x_0 + sigma(t) z,   z ~ N(0, I)

Score, noise, data and velocity are equivalent descriptions of score = grad log p_t(x)::

    noise = -sigma score        data = (x + sigma^2 score) / alpha        velocity = alpha noise - sigma data

The module also has discrete-time Markov chains on N instants: those of DDPM and SMLD, and the Euler-Maruyama
discretization of any other process::

    x_i = A_i x_(i-1) + L_i z,   i = 0, ..., N-1,   x_(-1) = x_0 the data;      t = i / (N - 1),   i(t) = floor(t (N -
    1))

A chain is also a process: alpha(t) and sigma(t) are read from its tables at i(t), so losses and models accept a chain
in place of a process. ``step(t)`` is the transition kernel that ends in x_(i(t)). It differs from the transition of the
process by terms of order 1/N. Drift, diffusion and prior are those of the process.
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
    r"""Base class of linear processes with scalar coefficients.

    .. math::
        dx = F(t)\, x\, dt + g(t)\, dw, \qquad x_t \mid x_0 \sim N(\alpha(t) x_0, \sigma(t)^2 I)

    A subclass implements ``alpha``, ``sigma``, ``drift_coefficient`` (F) and ``diffusion`` (g). All other methods are
    derived from these. The four functions must satisfy

    .. math::
        F = \frac{d \ln \alpha}{dt}, \qquad g^2 = \frac{d \sigma^2}{dt} - 2 F \sigma^2

    A subclass can also implement ``kernel``, ``log_noise`` and its inverse ``time_of_log_noise`` in closed form. If a
    class derived from it overrides a coefficient, it inherits the general implementations of these three instead,
    unless it has its own.

    Args:
        T: The last time, > 0. The default is the class attribute ``T``, which is 1 unless a subclass sets it.
    """

    special: ClassVar[str] = "scalar coefficients alpha(t), sigma(t)"

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
        """Coefficient of the mean of x_t given x_0.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of x_t given x_0.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """

    @abstractmethod
    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Coefficient F(t) of the drift F(t) x.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion coefficient g(t).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """

    def drift_map(self, t: Tensor) -> ScalarMap:
        return ScalarMap(self.drift_coefficient(t))

    def diffusion_map(self, t: Tensor) -> ScalarMap:
        return ScalarMap(self.diffusion(t))

    def kernel(self, t: Tensor) -> ScalarKernel:
        return ScalarKernel(self.alpha(t), self.sigma(t))

    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """Transition kernel with a = alpha_t / alpha_s and std^2 = sigma_t^2 - a^2 sigma_s^2.

        A subclass overrides this if it has a closed form without cancellation for s close to t.
        """
        a = self.alpha(t) / self.alpha(s)
        return ScalarKernel(a, (self.sigma(t) ** 2 - (a * self.sigma(s)) ** 2).clamp(min=0.0).sqrt())

    def posterior(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and standard deviation of the posterior q(x_s | x_t, x_0).

        With the transition :math:`N(a x_s, v I)` from s to t,

        .. math::
            q(x_s \mid x_t, x_0) = N\left(a \frac{\sigma_s^2}{\sigma_t^2} x_t + \alpha_s \frac{v}{\sigma_t^2} x_0,\;
            \sigma_s^2 \frac{v}{\sigma_t^2} I\right)

        Args:
            x_t: States at t, ``(B, *event)``.
            x0: Data, ``(B, *event)``.
            s: Earlier times in [0, T], ``()`` or ``(B,)``.
            t: Later times in (0, T], ``()`` or ``(B,)``, with s <= t.

        Returns:
            The mean ``(B, *event)`` and the standard deviation, in the shape of s and t.

        Raises:
            ValueError: If s > t, or a time is outside [0, T].

        References:
            Ho et al. 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, eq. 6-7, here for any process.
        """
        kernel = self.transition(s, t)
        assert isinstance(kernel, ScalarKernel)
        a, std = kernel.a, kernel.std
        sigma_s, sigma_t = self.sigma(s), (a * self.sigma(s)).hypot(std)
        on_x_t, on_x0 = a * (sigma_s / sigma_t) ** 2, self.alpha(s) * (std / sigma_t) ** 2
        return expand(on_x_t, x_t) * x_t + expand(on_x0, x0) * x0, sigma_s * std / sigma_t

    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I), by default sigma(T)."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    def prior_root(self) -> ScalarMap:
        return ScalarMap(torch.tensor(self.prior_std(), dtype=torch.float64))

    def log_noise(self, t: Tensor) -> Tensor:
        """Log noise-to-signal ratio ln(sigma / alpha).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithm, in the shape of t.
        """
        return (self.sigma(t) / self.alpha(t)).log()

    def log_noise_slope(self, t: Tensor) -> Tensor:
        return 0.5 * (self.diffusion(t) / self.sigma(t)) ** 2  # d ln(sigma / alpha) / dt

    # for scalar coefficients |det L| / |det A| is (sigma / alpha)^d, so log_spread equals log_noise

    def log_spread(self, t: Tensor) -> Tensor:
        return self.log_noise(t)

    def log_spread_slope(self, t: Tensor) -> Tensor:
        return self.log_noise_slope(t)

    def time_of_log_spread(self, u: Tensor) -> Tensor:
        return self.time_of_log_noise(u)

    def discretize(self, steps: int) -> Chain:
        """Discrete-time Markov chain of this process, by the Euler-Maruyama method.

        A process with another discretization in the literature, such as DDPM's for VP, overrides this method.

        Args:
            steps: Number of steps N, >= 2.

        Returns:
            The chain, which is a process as well.
        """
        return EulerChain(self, steps)


_INDEX_SLACK = 1e-4
"""t (N-1) counts as an integer if it is below it by at most this much, or by four rounding errors of t if that is more."""


class Chain(ScalarSDE):
    """Discrete-time Markov chain of a process with scalar coefficients.

    The chain has N instants t = i T / (N - 1), i = 0, ..., N - 1. Subclasses implement ``alpha``, ``sigma`` and
    ``step``.

    Args:
        sde: The process in continuous time.
        steps: Number of steps N, >= 2.
    """

    def __init__(self, sde: ScalarSDE, steps: int) -> None:
        check_count("steps", steps, least=2)
        self.sde, self.steps, self.T = sde, steps, sde.T

    def index(self, t: Tensor) -> Tensor:
        """Index i(t) = floor(t (N - 1) / T) of the instant at time t.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            Integers in 0 .. N - 1, in the shape of t.
        """
        self.check_time(t)
        slack = max(_INDEX_SLACK, 4.0 * torch.finfo(t.dtype).eps * self.steps)
        i = torch.floor(t.to(torch.float64) / self.T * (self.steps - 1) + slack).long()
        return i.clamp(0, self.steps - 1)

    def time(self, index: Tensor) -> Tensor:
        """Time of an instant.

        Args:
            index: Indices in 0 .. N - 1, of any shape.

        Returns:
            The times in float64, in the shape of ``index``.
        """
        return index.to(torch.float64) / (self.steps - 1) * self.T

    @abstractmethod
    def step(self, t: Tensor) -> ScalarKernel:
        """Transition kernel of the step that ends at t.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The kernel x_i | x_(i-1) with i = i(t). Its coefficients are float64 and have the shape of t.
        """

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
        return self if steps == self.steps else self.sde.discretize(steps)


class TableChain(Chain):
    """Markov chain whose coefficients are tables, each ``(N,)`` in float64.

    Args:
        sde: The process in continuous time.
        steps: Number of steps N, >= 2.
        alpha: alpha_i of the marginals x_i | x_0.
        sigma: sigma_i of the marginals x_i | x_0.
        step_a: A_i of the steps x_i = A_i x_(i-1) + L_i z.
        step_std: L_i of the steps.
    """

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
    """Markov chain of the Euler-Maruyama method with step size h = T / N.

    The steps are x_i = (1 + h F(t)) x_(i-1) + sqrt(h) g(t) z. The marginals are those of the process.

    Args:
        sde: The process in continuous time.
        steps: Number of steps N, >= 2.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return self.sde.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)

    def step(self, t: Tensor) -> ScalarKernel:
        t = t.to(torch.float64)
        h = self.T / self.steps
        return ScalarKernel(1.0 + h * self.sde.drift_coefficient(t), self.sde.diffusion(t) * h**0.5)
