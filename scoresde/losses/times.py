"""How the time of a training example is drawn: a distribution on [t_min, T] with its density.

An objective is an integral over t; drawing t from a distribution of density p and dividing by p leaves the integral as it is
and changes only the variance of its estimate.

    UniformTime       p = 1 / (T - t_min)                     the paper's
    UniformLogNoise   uniform in u = ln(sigma / alpha) over a range; p(t) = (du / dt) / (u_max - u_min)
    ChainTimes        the N instants of a chain, each alike   DDPM, SMLD
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number, check_rising
from scoresde.sde import SDE, Chain, LinearSDE


class TimeDistribution(ABC):
    """A distribution of t. It is given one uniform number per example, so that draws stay keyed by sample."""

    @abstractmethod
    def times(self, sde: SDE, u: Tensor) -> Tensor:
        """t (B,) from uniform numbers u (B,) in (0, 1): the inverse of the distribution's distribution function."""

    @abstractmethod
    def density(self, sde: SDE, t: Tensor) -> Tensor:
        """p(t) times (T - t_min), (B,): 1 everywhere for the uniform distribution."""


@dataclass(frozen=True)
class UniformTime(TimeDistribution):
    """t ~ U(t_min, T).

    t_min: in (0, T); the paper trains with 1e-5.
    """

    t_min: float = 1e-5

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, above=0.0)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        check_number("t_min", self.t_min, most=sde.T)
        return u * (sde.T - self.t_min) + self.t_min

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class UniformLogNoise(TimeDistribution):
    """ln(sigma / alpha) uniform between ln ``low`` and ln ``high``, cut to what the process reaches in [t_min, T].

    low, high: noise-to-signal ratios sigma / alpha, 0 < low < high.
    t_min: in (0, T).

    With likelihood weighting, g^2 / sigma^2 = d ln(sigma / alpha)^2 / dt for every linear process: under this
    distribution every
    example has the same weight. Times outside the range are not trained: choose it wider than where the network has
    anything to say (for quantised data from a tenth of a level's width to a hundred times the data's spread).
    """

    low: float = 1e-3
    high: float = 1e2
    t_min: float = 1e-5

    def __post_init__(self) -> None:
        check_number("low", self.low, above=0.0)
        check_rising("low", self.low, "high", self.high)
        check_number("t_min", self.t_min, least=0.0)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        sde = _linear(sde)
        first, last = self._range(sde, u)
        return sde.time_of_log_noise(first + u.to(torch.float64) * (last - first)).to(u.dtype)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        sde = _linear(sde)
        first, last = self._range(sde, t)
        slope = sde.log_noise_slope(t)
        return (slope / (last - first)).to(t.dtype) * (sde.T - self.t_min)

    def _range(self, sde: LinearSDE, like: Tensor) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([self.t_min, sde.T], dtype=torch.float64, device=like.device)
        reached = sde.log_noise(ends)
        wanted = torch.tensor([self.low, self.high], dtype=torch.float64, device=like.device).log()
        first, last = torch.maximum(reached[0], wanted[0]), torch.minimum(reached[1], wanted[1])
        if not bool(first < last):
            low, high = reached.exp().tolist()
            raise ValueError(
                f"low={self.low}, high={self.high} do not meet the process: sigma/alpha runs from {low:g} to {high:g}"
            )
        return first, last


def _linear(sde: SDE) -> LinearSDE:
    """``sde`` where it is linear, and has a ln(sigma / alpha)."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"UniformLogNoise needs a kernel's ln(sigma / alpha): sde={sde!r} has none, use UniformTime")
    return sde


@dataclass(frozen=True)
class ChainTimes(TimeDistribution):
    """One of the N instants i / (N - 1) of a `Chain`, each with probability 1 / N."""

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        if not isinstance(sde, Chain):
            raise TypeError(f"ChainTimes needs a chain, e.g. sde.discretize(1000): sde={sde!r} is continuous")
        return sde.time((u * sde.steps).long()).to(u.dtype)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)
