"""A process looked at on N instants: the Markov chains of DDPM and SMLD, and Euler-Maruyama's for any other.

    x_i = A_i x_(i-1) + L_i z,   i = 0, ..., N-1,   x_(-1) = x_0 the data;      t = i / (N - 1),   i(t) = floor(t (N - 1))

A chain is a process too: alpha(t) and sigma(t) are read from its tables at i(t), so that an objective or a model made
for the chain is an objective or a model like any other. `step(t)` is the kernel that ends in x_(i(t)); what differs
from the process's own transition is of order 1/N. Drift, diffusion and prior are the process's.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, check_sizes
from scoresde.sde.kernel import ScalarKernel
from scoresde.sde.scalar import ScalarSDE

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
