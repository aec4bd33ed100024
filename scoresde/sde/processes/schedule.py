"""Processes by their schedule: alpha(t) and sigma(t) are given, drift and diffusion follow.

    F = d ln alpha / dt          g^2 = d sigma^2 / dt - 2 F sigma^2 = -sigma^2 d lambda / dt,     lambda = ln(alpha^2 / sigma^2)

by automatic differentiation (Kingma et al. 2021, arXiv:2107.00630, section 3). g^2 >= 0 says that the signal-to-noise ratio
exp(lambda) never rises: a pair with alpha > 0 and sigma > 0 is a process just where that holds. Two ways to give a pair by
lambda alone:

    variance preserving     alpha^2 = 1 / (1 + exp(-lambda))      sigma^2 = 1 / (1 + exp(lambda))
    variance exploding      alpha = 1                             sigma = exp(-lambda / 2)

Here coefficients are computed in float64 whatever the dtype of t, which takes them: 1 - alpha^2 of a given function keeps its
digits down to t = 1e-7 T. Where sigma vanishes, at t = 0 as a rule, its slope may be infinite though that of sigma^2 is not: F
and g are then those of t = 1e-7 T.
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
"""Fraction of T at which F and g of a time without noise are taken."""
_SINGULAR = 1e8
"""|F| T beyond which alpha counts as having reached 0."""
_ROUNDING = 1e-6
"""What g^2 may be below 0, as a fraction of the terms whose difference it is."""


class ScheduleSDE(ScalarSDE):
    """A process whose subclass gives `alpha` and `sigma`, differentiable in t and elementwise; F and g follow."""

    def drift_coefficient(self, t: Tensor) -> Tensor:
        self.check_time(t)
        alpha, slope = value_and_slope(self.alpha, self._noisy(t))
        return (slope / alpha).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        gain, loss = self._variance_rates(t)
        return (gain - loss).clamp(min=0.0).sqrt().to(t.dtype)

    def _variance_rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d sigma^2 / dt and 2 F sigma^2, whose difference is g^2; float64."""
        t = self._noisy(t)
        alpha, alpha_slope = value_and_slope(self.alpha, t)
        sigma, sigma_slope = value_and_slope(self.sigma, t)
        return 2.0 * sigma * sigma_slope, 2.0 * alpha_slope / alpha * sigma**2

    def _noisy(self, t: Tensor) -> Tensor:
        """t in float64, moved to `_FIRST` T where sigma is 0."""
        t = t.to(torch.float64).clamp(0.0, self.T)
        with torch.no_grad():
            quiet = self.sigma(t) == 0.0
        return torch.where(quiet, _FIRST * self.T, t)

    @torch.no_grad()
    def check_schedule(self) -> None:
        """Raise ValueError, naming what and where, for a pair (alpha, sigma) that is no process.

        Refused are values of the wrong shape or that depend on other times; alpha or sigma that is not finite, that torch
        cannot differentiate, or that is not > 0 at a time > 0; sigma < 0 at 0; F or g^2 not finite, or |F| T > 1e8, where
        alpha has reached 0; and a rising signal-to-noise ratio: g^2 < 0 beyond rounding (1e-6 of its two terms), or
        alpha / sigma larger at the next time. Looked at: k T / 1000 for k = 0 .. 1000, and T / 10^k and T - T / 10^k for
        k = 4, 5, 6.
        """
        near = torch.logspace(-6, -4, 3, dtype=torch.float64)
        t = torch.cat((torch.linspace(0.0, 1.0, 1001, dtype=torch.float64), near, 1.0 - near)).sort().values * self.T
        alpha, sigma = self.alpha(t), self.sigma(t)
        for name, f, value in (("alpha", self.alpha, alpha), ("sigma", self.sigma, sigma)):
            _check_elementwise(name, f, t, value)
            _refuse(name, value, t, ~torch.isfinite(value), "must be finite")
            _refuse(name, value, t, (t > 0.0) & (value <= 0.0), "must be > 0; where it is so at T, let T end before")
            _refuse(name, value, t, value < 0.0, "must be >= 0")
            if float(value.max()) > float(value.min()) and not bool(value_and_slope(f, self._noisy(t))[1].any()):
                raise ValueError(
                    f"{name}(t) cannot be differentiated: write it in torch's operations on t, and no steps"
                )
        rate, (gain, loss) = self.drift_coefficient(t), self._variance_rates(t)
        square, size = gain - loss, gain.abs() + loss.abs()
        _refuse("d ln alpha / dt", rate, t, ~torch.isfinite(rate), "must be finite")
        _refuse("d ln alpha / dt", rate, t, rate.abs() * self.T > _SINGULAR, "alpha has reached 0: let T end before")
        _refuse("g^2", square, t, ~torch.isfinite(square), "must be finite")
        rising = square < -_ROUNDING * torch.maximum(size, _ROUNDING * size.max())
        _refuse("g^2 = d sigma^2 / dt - 2 F sigma^2", square, t, rising, "the signal-to-noise ratio rises")
        ratio = alpha / sigma
        rising = torch.cat((ratio.diff() > _ROUNDING * ratio[:-1], torch.tensor([False])))
        _refuse("alpha / sigma", ratio, t, rising, "it rises from there to the next time")


def _check_elementwise(name: str, f: Coefficient, t: Tensor, value: Tensor) -> None:
    for k in (1, len(t) // 2):
        one = f(t[k])
        if value.shape != t.shape or one.shape != ():
            raise ValueError(
                f"{name}(t) has shape {tuple(value.shape)} for t of shape {tuple(t.shape)}: give the shape of t"
            )
        if not torch.allclose(one, value[k], rtol=1e-6, atol=0.0, equal_nan=True):
            raise ValueError(f"{name}(t) at t = {float(t[k]):g} depends on which other times are asked for with it")


def _refuse(name: str, value: Tensor, t: Tensor, bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise ValueError(f"this schedule is no process: {name} is {float(value[k]):g} at t = {float(t[k]):g}; {why}")


@dataclass(frozen=True, init=False)
class Schedule(ScheduleSDE):
    """The process of two functions.

    alpha, sigma: float64 t of shape () or (B,) -> the shape of t, elementwise, differentiable by torch in t and, where they
        are learned, in their parameters. The processes of equal functions are equal.
    T: the last time, > 0; alpha(T) > 0.
    prior_std: of the prior N(0, prior_std^2 I), > 0; sigma(T) unless given.

    Raises ValueError for a pair that is no process, see `check_schedule`; it looks once, here.
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
        """The process of lambda(t) = ln(alpha^2 / sigma^2), falling; +inf at t = 0 is allowed.

        variance_preserving: alpha^2 + sigma^2 = 1, and N(0, I) is the prior unless given; or alpha = 1, with prior_std sigma(T).
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
        """As given, or sigma(T)."""
        return super().prior_std() if self.given_prior_std is None else float(self.given_prior_std)


@dataclass(frozen=True)
class _OfLogSNR:
    """t -> part(lambda(t))."""

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
