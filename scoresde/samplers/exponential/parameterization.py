r"""What an exponential integrator solves exactly, and what it interpolates.

The equations

.. math:: dx = \left[F x - \frac{1 + \eta^2}{2} G G^T \nabla \log p_t(x)\right] dt + \eta\, G\, dw

have the marginals of the process for every eta. The probability flow has eta = 0, the reverse SDE has eta = 1.

Gaussian data N(0, c^2 I) would have the marginals N(m_t, S_t) with S = c^2 A A^T + L L^T, for the signal map A and the
noise map L of the kernel. Let y = x - m_t. The score of this Gaussian is -S^-1 y, and its part of the equation is
linear. The rest changes slowly if the data are similar to such a Gaussian. Over u, the log spread of the process, with
B B^T = G G^T dt / (2 du),

.. math::

    dy &= M y\, dt - (1 + \eta^2) B B^T (\nabla \log p_t(x) + S^{-1} y)\, du + \eta\, G\, dw,
    \qquad M = F + \frac{1 + \eta^2}{2} G G^T S^{-1},

    y_s &= P(s, t)\, y_t + (1 + \eta^2) \int_{u_t}^{u_s} P(s, u)\, K(u)\, N(u)\, du + z,
    \qquad \mathrm{Cov}\, z = S_s - P(s, t)\, S_t\, P(s, t)^T.

Here P is the propagator of M: it solves the linear part exactly. K N is the integrand -B B^T (score + S^-1 y), written
as a coefficient K times a prediction N. The integrator replaces N by a polynomial. A parameterization chooses c and K:

=========================  ============  =============================  =====================  =====================
parameterization           c             N                              K                      used by
=========================  ============  =============================  =====================  =====================
``DataParameterization``   0             E[x_0 | x_t]                   -B B^T (L L^T)^-1 A    DPM-Solver++, UniPC
``NoiseParameterization``  infinite      E[z | x_t]                     B B^T L^-T             DPM-Solver, DEIS, EDM
``Whitened``               ``data_std``  -U^-1 B B^T (score + S^-1 y)   U, with U U^T = S      Adams-Bashforth
=========================  ============  =============================  =====================  =====================

With ``Whitened`` the prediction N is zero for data N(0, data_std^2 I).

For scalar alpha and sigma the flow is, in this order,

.. math::

    x_s &= \frac{\sigma_s}{\sigma_t} x_t - \sigma_s \int e^{-u} N\, du, \qquad
    x_s = \frac{\alpha_s}{\alpha_t} x_t + \alpha_s \int e^{u} N\, du,

    x_s &= \sqrt{S_s / S_t}\, x_t + \sqrt{S_s} \int N\, du.

The propagator is P(s, t) = R(s) R(t)^-1. If the maps commute, R = U (U A^-1)^(eta^2). For eta = 1 and any maps, R = S
A^-T, by Bayes's rule. In the limit of infinite c, R = A. The remaining case, the flow of maps that do not commute, is
integrated by a Runge-Kutta method.

References:
    Lu et al. 2022, arXiv:2206.00927 (DPM-Solver), arXiv:2211.01095 (DPM-Solver++).
    Zhang & Chen 2023, arXiv:2204.13902 (DEIS).
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
"""(u, t) -> the variable of the interpolating polynomials."""


@checked_arguments
def log_noise_to_signal(u: Tensor, t: Tensor) -> Tensor:
    """Polynomials of u, as in DPM-Solver. For scalar coefficients u is ln(sigma / alpha).

    Args:
        u: (n,), log spread of the process.
        t: (n,), times.

    Returns:
        u.
    """
    return u


@checked_arguments
def noise_to_signal(u: Tensor, t: Tensor) -> Tensor:
    """Polynomials of e^u, as in EDM and the rho-methods of DEIS. For scalar coefficients e^u is sigma / alpha.

    Args:
        u: (n,), log spread of the process.
        t: (n,), times.

    Returns:
        e^u.
    """
    return u.exp()


@checked_arguments
def diffusion_time(u: Tensor, t: Tensor) -> Tensor:
    """Polynomials of t, as in the t-methods of DEIS.

    Args:
        u: (n,), log spread of the process.
        t: (n,), times.

    Returns:
        t.
    """
    return t


@dataclass(frozen=True, repr=False)
class Parameterization(ABC):
    """Splits the equation into a linear part and a prediction.

    Args:
        variable: Variable of the polynomials: ``log_noise_to_signal``, ``noise_to_signal``, ``diffusion_time``, or
            another function (u, t) -> value that is monotonic in t.
    """

    variable: Variable = log_noise_to_signal

    @abstractmethod
    def covariance(self, sde: LinearSDE, t: Tensor) -> LinearMap | None:
        """Covariance S of the Gaussian.

        Args:
            sde: The process.
            t: (n,), times.

        Returns:
            S at each time; None if it is infinite.
        """

    @abstractmethod
    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        """Factors of the prediction N = p y + q score.

        Args:
            sde: The process.
            t: (n,), times.

        Returns:
            p and q at each time; p is None if it is zero.
        """

    @abstractmethod
    def coefficient(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        """Coefficient K of the prediction in the integrand.

        Args:
            sde: The process.
            t: (n,), times.

        Returns:
            K at each time.
        """

    def propagators(self, sde: LinearSDE, eta: float, times: Sequence[Tensor]) -> list[LinearMap]:
        """Propagators P to the last time of a sequence.

        Args:
            sde: The process.
            eta: Amount of noise.
            times: Descending times, each (n,).

        Returns:
            P(last, t) for each time but the last.

        Raises:
            ValueError: If the maps do not commute and eta is not 0 or 1.
        """
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

    def noise_scale(self, sde: LinearSDE, eta: float, t: Tensor, s: Tensor, propagator: LinearMap) -> LinearMap | None:
        """Root of the covariance of the noise in a step.

        Args:
            sde: The process.
            eta: Amount of noise.
            t: (n,), times at which the steps start.
            s: (n,), times at which they end.
            propagator: P(s, t).

        Returns:
            The root; None for the probability flow.
        """
        if eta == 0.0:
            return None
        end, start = self.covariance(sde, s), self.covariance(sde, t)
        if (
            end is None or start is None
        ):  # eta^2 A^-1 C A^-T, for the forward step from s to t with map A and covariance C
            kernel = sde.transition(s, t)
            return kernel.signal_map().inverse().compose(kernel.noise_map()).times(torch.full_like(t, eta))
        transferred = propagator.compose(start).compose(propagator.transpose())
        square = end.add(transferred.times(torch.full_like(t, -1.0)))
        return square.add(square.transpose()).times(torch.full_like(t, 0.5)).root()

    def _root(self, sde: LinearSDE, eta: float, t: Tensor) -> LinearMap | None:
        """R; None if it has no closed form."""
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
    """A power of a scalar map, or of a map that is diagonal in a basis."""
    return replace(positive, c=positive.c**exponent)  # type: ignore[type-var, attr-defined]


@dataclass(frozen=True, repr=False)
class DataParameterization(Parameterization):
    """Interpolates the prediction of the data, E[x_0 | x_t]. It is exact for data at a single point.

    Args:
        variable: Variable of the polynomials.
    """

    def covariance(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return noise_square(sde, t)

    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        back = sde.kernel(t).signal_map().inverse()
        return back, back.compose(noise_square(sde, t))

    def coefficient(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        pull = spread_square(sde, t).compose(noise_square(sde, t).inverse()).compose(sde.kernel(t).signal_map())
        return pull.times(torch.full_like(t, -1.0))


@dataclass(frozen=True, repr=False)
class NoiseParameterization(Parameterization):
    """Interpolates the prediction of the noise, E[z | x_t]. It is exact for a constant score.

    Args:
        variable: Variable of the polynomials.
    """

    def covariance(self, sde: LinearSDE, t: Tensor) -> None:
        return None

    def prediction(self, sde: LinearSDE, t: Tensor) -> tuple[LinearMap | None, LinearMap]:
        return None, sde.kernel(t).noise_map().transpose().times(torch.full_like(t, -1.0))

    def coefficient(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return spread_square(sde, t).compose(sde.kernel(t).noise_map().transpose().inverse())


@dataclass(frozen=True, repr=False)
class Whitened(Parameterization):
    """Interpolates the difference between the score and that of data N(0, data_std^2 I), in whitened coordinates.

    It is exact for such data.

    Args:
        variable: Variable of the polynomials.
        data_std: Standard deviation of the data about zero, > 0.
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

    def coefficient(self, sde: LinearSDE, t: Tensor) -> LinearMap:
        return self.covariance(sde, t).root()


def check_parameterization(parameterization: object) -> None:
    """Raise TypeError if the value is not a `Parameterization`."""
    if not isinstance(parameterization, Parameterization):
        raise TypeError(
            f"parameterization={parameterization!r} is not a Parameterization: give DataParameterization(), "
            "NoiseParameterization() or Whitened()"
        )
