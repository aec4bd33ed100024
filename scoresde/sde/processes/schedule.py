"""Processes defined by their noise schedule: alpha(t) and sigma(t) are given, drift and diffusion are derived.

With lambda = ln(alpha^2 / sigma^2)::

    F = d ln alpha / dt          g^2 = d sigma^2 / dt - 2 F sigma^2 = -sigma^2 d lambda / dt

by automatic differentiation (Kingma et al. 2021, arXiv:2107.00630, section 3). g^2 >= 0 means that the signal-to-noise
ratio exp(lambda) never increases: a pair with alpha > 0 and sigma > 0 defines a process if and only if this holds.
There are two ways to define the pair by lambda alone::

    variance preserving     alpha^2 = 1 / (1 + exp(-lambda))      sigma^2 = 1 / (1 + exp(lambda))
    variance exploding      alpha = 1                             sigma = exp(-lambda / 2)

In this module coefficients are computed in float64 and then converted to the dtype of t, so that 1 - alpha^2 of a given
function is accurate down to t = 1e-7 T. Where sigma is 0, usually at t = 0, its derivative can be infinite although
that of sigma^2 is not: F and g are then those of t = 1e-7 T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_number
from scoresde.sde.autodiff import Coefficient, value_and_slope
from scoresde.sde.scalar import ScalarSDE

_FIRST = 1e-7
"""Fraction of T at which F and g are evaluated in place of a time without noise."""
_SINGULAR = 1e8
"""|F| T above which alpha counts as 0."""
_ROUNDING = 1e-6
"""Tolerance of a negative g^2, as a fraction of the terms whose difference it is."""


class ScheduleSDE(ScalarSDE):
    r"""Base class of processes that are defined by ``alpha`` and ``sigma``.

    .. math::
        F = \frac{d \ln \alpha}{dt}, \qquad g^2 = \frac{d \sigma^2}{dt} - 2 F \sigma^2

    A subclass implements ``alpha`` and ``sigma``, elementwise and differentiable in t. F and g are derived by automatic
    differentiation.

    Args:
        T: The last time, > 0. The default is the class attribute ``T``, which is 1 unless a subclass sets it.
    """

    def drift_coefficient(self, t: Tensor) -> Tensor:
        self.check_time(t)
        alpha, slope = value_and_slope(self.alpha, self._noisy(t))
        return (slope / alpha).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        gain, loss = self._variance_rates(t)
        return (gain - loss).clamp(min=0.0).sqrt().to(t.dtype)

    def _variance_rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d sigma^2 / dt and 2 F sigma^2, whose difference is g^2, in float64."""
        t = self._noisy(t)
        alpha, alpha_slope = value_and_slope(self.alpha, t)
        sigma, sigma_slope = value_and_slope(self.sigma, t)
        return 2.0 * sigma * sigma_slope, 2.0 * alpha_slope / alpha * sigma**2

    def _noisy(self, t: Tensor) -> Tensor:
        """t in float64, replaced by ``_FIRST`` T where sigma is 0."""
        t = t.to(torch.float64).clamp(0.0, self.T)
        with torch.no_grad():
            quiet = self.sigma(t) == 0.0
        return torch.where(quiet, _FIRST * self.T, t)

    @torch.no_grad()
    def check_schedule(self) -> None:
        """Check that alpha and sigma define a process.

        They are evaluated at k T / 1000 for k = 0 .. 1000, and at T / 10^k and T - T / 10^k for k = 4, 5, 6. A pair is
        rejected in these cases:

        - A value has the wrong shape, or depends on the other times.
        - alpha or sigma is not finite, cannot be differentiated by torch, or is not > 0 at a time > 0.
        - sigma < 0 at t = 0.
        - F or g^2 is not finite, or ``|F| T > 1e8``, which means that alpha has reached 0.
        - The signal-to-noise ratio increases: g^2 < 0 by more than rounding (1e-6 of its two terms), or alpha / sigma
          is larger at the next time.

        Raises:
            ValueError: If the pair does not define a process. The message names the quantity and the time.
        """
        near = torch.logspace(-6, -4, 3, dtype=torch.float64)
        t = torch.cat((torch.linspace(0.0, 1.0, 1001, dtype=torch.float64), near, 1.0 - near)).sort().values * self.T
        alpha, sigma = self.alpha(t), self.sigma(t)
        for name, f, value in (("alpha", self.alpha, alpha), ("sigma", self.sigma, sigma)):
            _check_elementwise(name, f, t, value)
            _refuse(name, value, t, ~torch.isfinite(value), "must be finite")
            _refuse(name, value, t, (t > 0.0) & (value <= 0.0), "must be > 0; if this is at T, choose a smaller T")
            _refuse(name, value, t, value < 0.0, "must be >= 0")
            if float(value.max()) > float(value.min()) and not bool(value_and_slope(f, self._noisy(t))[1].any()):
                raise ValueError(
                    f"{name}(t) cannot be differentiated: write it with torch operations on t, without step functions"
                )
        rate, (gain, loss) = self.drift_coefficient(t), self._variance_rates(t)
        square, size = gain - loss, gain.abs() + loss.abs()
        _refuse("d ln alpha / dt", rate, t, ~torch.isfinite(rate), "must be finite")
        _refuse("d ln alpha / dt", rate, t, rate.abs() * self.T > _SINGULAR, "alpha has reached 0: choose a smaller T")
        _refuse("g^2", square, t, ~torch.isfinite(square), "must be finite")
        rising = square < -_ROUNDING * torch.maximum(size, _ROUNDING * size.max())
        _refuse("g^2 = d sigma^2 / dt - 2 F sigma^2", square, t, rising, "the signal-to-noise ratio increases")
        ratio = alpha / sigma
        rising = torch.cat((ratio.diff() > _ROUNDING * ratio[:-1], torch.tensor([False])))
        _refuse("alpha / sigma", ratio, t, rising, "it increases from there to the next time")


def _check_elementwise(name: str, f: Coefficient, t: Tensor, value: Tensor) -> None:
    for k in (1, len(t) // 2):
        one = f(t[k])
        if value.shape != t.shape or one.shape != ():
            raise ValueError(
                f"{name}(t) has shape {tuple(value.shape)} for t of shape {tuple(t.shape)}: give the shape of t"
            )
        if not torch.allclose(one, value[k], rtol=1e-6, atol=0.0, equal_nan=True):
            raise ValueError(f"{name}(t) at t = {float(t[k]):g} depends on the other times in t")


def _refuse(name: str, value: Tensor, t: Tensor, bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise ValueError(
            f"this schedule does not define a process: {name} is {float(value[k]):g} at t = {float(t[k]):g}; {why}"
        )


@dataclass(frozen=True, init=False)
class Schedule(ScheduleSDE):
    r"""Process defined by two functions alpha(t) and sigma(t).

    .. math::
        dx = F x\, dt + g\, dw, \qquad
        F = \frac{d \ln \alpha}{dt}, \qquad g^2 = \frac{d \sigma^2}{dt} - 2 F \sigma^2

    The prior is :math:`N(0, \mathrm{prior\_std}^2 I)`. Processes of equal functions are equal.

    Args:
        alpha: Function of float64 times ``()`` or ``(B,)`` that returns the shape of t. It is elementwise, and
            differentiable by torch in t and, if it is learned, in its parameters. alpha(T) > 0.
        sigma: Another function of this kind.
        T: The last time, > 0.
        prior_std: Standard deviation of the prior, > 0. None: sigma(T).

    Raises:
        ValueError: If the pair does not define a process, see ``check_schedule``. It is checked once, in the
            constructor.

    Example:
        >>> import torch
        >>> from scoresde.sde import Schedule
        >>> flow_matching = Schedule(lambda t: 1 - t, lambda t: t, T=0.999)
        >>> flow_matching.drift_coefficient(torch.tensor(0.5))
        tensor(-2.)
    """

    alpha_of: Coefficient
    sigma_of: Coefficient
    T: float
    given_prior_std: float | None

    def __init__(self, alpha: Coefficient, sigma: Coefficient, T: float = 1.0, prior_std: float | None = None) -> None:
        check_number("T", T, above=0.0)
        if prior_std is not None:
            check_number("prior_std", prior_std, above=0.0)
        for name, value in (("alpha_of", alpha), ("sigma_of", sigma), ("T", float(T)), ("given_prior_std", prior_std)):
            object.__setattr__(self, name, value)
        self.check_schedule()

    @classmethod
    def from_log_snr(
        cls, function: Coefficient, *, variance_preserving: bool = True, T: float = 1.0, prior_std: float | None = None
    ) -> Schedule:
        """Process defined by its log signal-to-noise ratio lambda(t) = ln(alpha^2 / sigma^2).

        Args:
            function: lambda(t), decreasing. It may be +inf at t = 0.
            variance_preserving: True: alpha^2 + sigma^2 = 1, with the prior N(0, I) by default. False: alpha = 1, with
                the prior N(0, sigma(T)^2 I) by default.
            T: The last time, > 0.
            prior_std: Standard deviation of the prior, > 0.

        Returns:
            The process.
        """
        if variance_preserving:
            prior_std = 1.0 if prior_std is None else prior_std
            return cls(_OfLogSNR(function, _root_sigmoid), _OfLogSNR(function, _root_sigmoid_of_minus), T, prior_std)
        return cls(torch.ones_like, _OfLogSNR(function, _exp_of_minus_half), T, prior_std)

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.alpha_of(t.to(torch.float64).clamp(0.0, self.T)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.sigma_of(t.to(torch.float64).clamp(0.0, self.T)).to(t.dtype)

    @torch.no_grad()
    def prior_std(self) -> float:
        """Standard deviation of the prior: the argument ``prior_std``, or sigma(T)."""
        return super().prior_std() if self.given_prior_std is None else float(self.given_prior_std)


@dataclass(frozen=True)
class _OfLogSNR:
    """The function t -> part(lambda(t))."""

    log_snr: Coefficient
    part: Coefficient

    def __call__(self, t: Tensor) -> Tensor:
        return self.part(self.log_snr(t))


def _root_sigmoid(x: Tensor) -> Tensor:
    return torch.exp(0.5 * nnf.logsigmoid(x))


def _root_sigmoid_of_minus(x: Tensor) -> Tensor:
    return _root_sigmoid(-x)


def _exp_of_minus_half(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x)
