"""What an exponential integrator solves exactly, and what it interpolates.

The reverse equation with noise ``eta`` (0 the probability flow, 1 the reverse SDE; all have the marginals of the process) is

    dx = [F x - (1 + eta^2) / 2 G G^T score] dt + eta G dw'

Data N(0, c^2 I) has x_t ~ N(m_t, S), S = c^2 A A^T + L L^T, and with y = x - m_t the equation splits into a linear part that
carries N(0, S) to itself, and the rest, slow where data is not far from such a Gaussian: over the clock u (`log_spread`), with
B B^T = G G^T dt / (2 du),

    dy = M y dt + (1 + eta^2) [-B B^T (score + S^-1 y)] du + eta G dw'       M = F + (1 + eta^2) / 2 G G^T S^-1

    y_s = P(s, t) y_t + (1 + eta^2) int P(s, u) K(u) N(u) du + noise of covariance  S_s - P(s, t) S_t P(s, t)^T

where P is the propagator of M and the bracket is written as K N for a prediction N, of which the integrator takes a polynomial:

    Data      c = 0          N = E[x_0 | x_t]                       K = -B B^T (L L^T)^-1 A      DPM-Solver++, SDE-DPM-Solver++
    Noise     c -> infinity  N = E[z | x_t]                         K = B B^T L^-T               DPM-Solver, DEIS, EDM
    Whitened  c between      N = -U^-1 B B^T (score + S^-1 y)       K = U,  U U^T = S            nothing moves for Gaussian data

For numbers alpha, sigma they are y_s = (sigma_s / sigma_t) y_t - sigma_s int e^-u N du, (alpha_s / alpha_t) y_t + alpha_s int e^u
N du, and sqrt(S_s / S_t) y_t + sqrt(S_s) int N du (Lu et al. 2022, arXiv:2206.00927, 2211.01095; Zhang & Chen 2023, 2204.13902).

The propagator is R(s) R(t)^-1. Where maps commute R = U (U A^-1)^(eta^2); for eta = 1 it is S A^-T for any maps, which is Bayes's
rule; with c infinite it is A; what is left, the flow of blocks, is integrated by Runge and Kutta's method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_number
from scoresde.sde import LinearMap, LinearSDE
from scoresde.sde.gaussian_flow import flow_maps

Variable = Callable[[Tensor, Tensor], Tensor]
"""(u, t) -> what the interpolating polynomials are polynomials of."""


@checked_arguments
def log_noise_to_signal(u: Tensor, t: Tensor) -> Tensor:
    """u itself, ln(sigma / alpha) where the process has numbers: the choice of DPM-Solver."""
    return u


@checked_arguments
def noise_to_signal(u: Tensor, t: Tensor) -> Tensor:
    """e^u, sigma / alpha: the choice of EDM, and of DEIS's rho-methods."""
    return u.exp()


@checked_arguments
def diffusion_time(u: Tensor, t: Tensor) -> Tensor:
    """t: the choice of DEIS's t-methods."""
    return t


@dataclass(frozen=True, repr=False)
class Parameterization(ABC):
    """A linear part and a prediction.

    variable: what the polynomials are of: `log_noise_to_signal`, `noise_to_signal` or `diffusion_time`.
    """

    variable: Variable = log_noise_to_signal

    @abstractmethod
    def covariance(self, sde: LinearSDE, t: Tensor) -> LinearMap | None:
        """S at times (n,); None where it is infinite."""

    @abstractmethod
    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        """(p, q) with N = p y + q score; None for 0."""

    @abstractmethod
    def slope(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        """K."""

    def propagators(self, sde: LinearSDE, eta: float, times: Sequence[Tensor]) -> list[LinearMap]:
        """P(last, k) for each but the last of a sequence of falling times, each (n,)."""
        roots = [self._root(sde, eta, t) for t in times]
        if roots[-1] is not None:
            return [roots[-1].compose(root.inverse()) for root in roots[:-1]]  # type: ignore[union-attr]
        if eta != 0.0:
            raise ValueError(f"eta={eta!r} is not allowed for {sde!r}, whose maps do not commute: give 0 or 1")

        def precision(t: Tensor) -> LinearMap:
            covariance = self.covariance(sde, t)
            assert covariance is not None
            return covariance.inverse()

        whole = [flow_maps(sde, times[-2], times[-1], precision)]
        for k in range(len(times) - 3, -1, -1):
            whole.insert(0, whole[0].compose(flow_maps(sde, times[k], times[k + 1], precision)))
        return whole

    def noise(self, sde: LinearSDE, eta: float, t: Tensor, s: Tensor, propagator: LinearMap) -> LinearMap | None:
        """A root of the covariance of the step's noise; None for the flow."""
        if eta == 0.0:
            return None
        end, start = self.covariance(sde, s), self.covariance(sde, t)
        if end is None or start is None:  # eta^2 A_st^-1 C A_st^-T, C the forward step's
            kernel = sde.transition(s, t)
            return kernel.signal_map().inverse().compose(kernel.noise_map()).times(torch.full_like(t, eta))
        carried = propagator.compose(start).compose(propagator.transpose())
        square = end.add(carried.times(torch.full_like(t, -1.0)))
        return square.add(square.transpose()).times(torch.full_like(t, 0.5)).root()

    def _root(self, sde: LinearSDE, eta: float, t: Tensor) -> LinearMap | None:
        """R, or None where it has no closed form."""
        signal, covariance = sde.kernel(t).signal_map(), self.covariance(sde, t)
        if covariance is None:
            return signal
        if eta == 1.0:
            return covariance.compose(signal.transpose().inverse())
        if not covariance.commutes:
            return None
        root = covariance.root()
        return root if eta == 0.0 else root.compose(_power(root.compose(signal.inverse()), eta**2))


def spread_square(sde: LinearSDE, t: Tensor) -> LinearMap:
    """B B^T = G G^T / (2 du/dt)."""
    g = sde.diffusion_map(t)
    return g.compose(g.transpose()).times(0.5 / sde.log_spread_slope(t))


def noise_square(sde: LinearSDE, t: Tensor) -> LinearMap:
    """L L^T."""
    noise = sde.kernel(t).noise_map()
    return noise.compose(noise.transpose())


def _power(positive: LinearMap, exponent: float) -> LinearMap:
    """A power of a map that is numbers, one or one for each mode."""
    return replace(positive, c=positive.c**exponent)  # type: ignore[type-var, attr-defined]


@dataclass(frozen=True, repr=False)
class DataParameterization(Parameterization):
    """The data's mean given x_t; exact for data in one point."""

    def covariance(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return noise_square(sde, t)

    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        back = sde.kernel(t).signal_map().inverse()
        return back, back.compose(noise_square(sde, t))

    def slope(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        pull = spread_square(sde, t).compose(noise_square(sde, t).inverse()).compose(sde.kernel(t).signal_map())
        return pull.times(torch.full_like(t, -1.0))


@dataclass(frozen=True, repr=False)
class NoiseParameterization(Parameterization):
    """The noise's mean given x_t; exact where the score is constant."""

    def covariance(self, sde: LinearSDE, t: Tensor) -> None:
        return None

    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        return None, sde.kernel(t).noise_map().transpose().times(torch.full_like(t, -1.0))

    def slope(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return spread_square(sde, t).compose(sde.kernel(t).noise_map().transpose().inverse())


@dataclass(frozen=True, repr=False)
class Whitened(Parameterization):
    """By how much the score differs from that of data N(0, data_std^2 I), in whitened coordinates; exact for such data.

    data_std: of the data, about zero, > 0.
    """

    data_std: float = 0.5

    def __post_init__(self) -> None:
        check_number("data_std", self.data_std, above=0.0)

    def covariance(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        signal = sde.kernel(t).signal_map()
        return noise_square(sde, t).add(signal.compose(signal.transpose()).times(torch.full_like(t, self.data_std**2)))

    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        covariance = self.covariance(sde, t)
        on_score = covariance.root().inverse().compose(spread_square(sde, t)).times(torch.full_like(t, -1.0))
        return on_score.compose(covariance.inverse()), on_score

    def slope(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return self.covariance(sde, t).root()


def check_parameterization(parameterization: object) -> None:
    """Raise TypeError unless it is a `Parameterization`."""
    if not isinstance(parameterization, Parameterization):
        raise TypeError(
            f"parameterization={parameterization!r} is not a Parameterization: give DataParameterization(), "
            "NoiseParameterization() or Whitened()"
        )
