"""A linear process written as functions, and samples, for the tests of `NonlinearSDE`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scoresde.noise import NoiseSource
from scoresde.sde import NonlinearSDE

F32, F64 = torch.float32, torch.float64


EVENTS = [(), (2,), (2, 3)]


def normal(shape, purpose="x", dtype=F64, seed=2):
    return NoiseSource.of(seed, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


def per_event(coefficient, x):
    return coefficient.reshape(-1, *[1] * (x.ndim - 1))


CUBIC = NonlinearSDE(lambda x, t: -(x**3), lambda t: torch.ones_like(t), steps=50)


MU, NU, M0, S0 = 0.3, 0.5, 0.2, 0.4


@dataclass(frozen=True)
class LogNormal:
    """The distribution of x_t for dx = MU x dt + NU x dw and ln x_0 ~ N(M0, S0^2), coordinates independent; a `Prior` too."""

    t: torch.Tensor
    event: tuple[int, ...] = (1,)

    def moments(self):
        return M0 + (MU - 0.5 * NU**2) * self.t, S0**2 + NU**2 * self.t

    def score(self, x):
        m, v = (per_event(torch.as_tensor(k, dtype=x.dtype), x) for k in self.moments())
        return -(1 + (x.log() - m) / v) / x

    def log_prob(self, x):
        m, v = (per_event(torch.as_tensor(k, dtype=x.dtype), x) for k in self.moments())
        each = -0.5 * (x.log() - m) ** 2 / v - 0.5 * (2 * math.pi * v).log() - x.log()
        return each.reshape(len(x), -1).sum(1)

    def at(self, z):
        m, v = (per_event(torch.as_tensor(k, dtype=z.dtype), z) for k in self.moments())
        return (m + v.sqrt() * z).exp()

    def sample(self, n, seed=0, dtype=F32, first=0):
        return self.at(NoiseSource.of(seed, n, first).normal(self.event, step=0, purpose="log-normal", dtype=dtype))


def geometric(event=(1,), **given):
    """T = 1, with the distribution at T as the prior."""
    prior = LogNormal(torch.tensor(1.0, dtype=F64), event)
    return NonlinearSDE(lambda x, t: MU * x, lambda x, t: NU * x, prior=prior, **given)
