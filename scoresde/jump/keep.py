r"""Schedules of jump processes: alpha(t), the probability of being kept from 0 to t.

A rate matrix R(t) = beta(t) R has the exponential exp(B(t) R) with

.. math::
    \alpha(t) = e^{-B(t)}, \qquad B(t) = \int_0^t \beta(s)\, ds, \qquad \beta(t) = -\frac{d \ln \alpha}{dt}

These are the coefficients of an SDE with the drift -beta x: ``SDEKeep`` takes them from any process with scalar
coefficients. alpha(T) may be 0 here, because x_T is then exactly the prior. Coefficients are float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number, check_times
from scoresde.sde import ScalarSDE

_HALVINGS = 60


class KeepSchedule(ABC):
    """Base class of schedules. A subclass implements ``log_alpha`` and ``rate``.

    Attributes:
        T: The last time, > 0.
    """

    T: float

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """ln alpha(t).

        Args:
            t: Times in [0, T], of any shape.

        Returns:
            The logarithm, 0 at t = 0 and decreasing, -infinity where alpha is 0. float64 in the shape of t.
        """

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """beta(t) = -d ln alpha / dt.

        Args:
            t: Times in [0, T], of any shape.

        Returns:
            The rate, >= 0, infinite where alpha is 0. float64 in the shape of t.
        """

    def alpha(self, t: Tensor) -> Tensor:
        """alpha(t), the probability of being kept from 0 to t.

        Args:
            t: Times in [0, T], of any shape.

        Returns:
            The probability, float64 in the shape of t.
        """
        return self.log_alpha(t).exp()

    def time_of_log_alpha(self, value: Tensor) -> Tensor:
        """The inverse of ``log_alpha``, by bisection.

        Args:
            value: Values of ln alpha, of any shape.

        Returns:
            The times, float64 in the shape of ``value``, in [0, T].
        """
        value = value.to(torch.float64)
        low, high = torch.zeros_like(value), torch.full_like(value, self.T)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            later = self.log_alpha(middle) > value
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return 0.5 * (low + high)

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """B(t) - B(s), the integral of beta from s to t.

        Args:
            s: Start times in [0, T], ``()`` or ``(B,)``.
            t: End times in [s, T], ``()`` or ``(B,)``.

        Returns:
            The integral, >= 0, float64.
        """
        self.check_time(s, "s")
        self.check_time(t)
        s, t = torch.broadcast_tensors(s, t)
        if s.device.type == "cpu" and not bool((s <= t * (1.0 + 1e-6)).all()):
            k = int((s > t * (1.0 + 1e-6)).flatten().nonzero()[0])
            raise ValueError(f"s={float(s.flatten()[k]):g} is later than t={float(t.flatten()[k]):g}: give s <= t")
        gap = self.log_alpha(s) - self.log_alpha(t)
        return torch.where(s == t, 0.0, gap).clamp(min=0.0)

    def check_time(self, t: Tensor, name: str = "t", batch: int | None = None) -> None:
        """Check times.

        Args:
            t: Times.
            name: Their name, for the message.
            batch: Number of samples, or None for any shape.

        Raises:
            ValueError: If a time is outside of [0, T], or the shape is not () or (batch,).
        """
        check_times(name, t, self.T, batch)

    def _share(self, t: Tensor) -> Tensor:
        """t / T in [0, 1], float64."""
        self.check_time(t)
        return (t.to(torch.float64) / self.T).clamp(0.0, 1.0)


@dataclass(frozen=True)
class PolynomialKeep(KeepSchedule):
    r"""The schedule alpha(t) = 1 - (t / T)^power.

    For power = 1 it is the schedule beta_i = 1 / (N - i + 1) of D3PM and the linear one of MDLM: with ``Absorbing`` the
    number of masked tokens grows linearly in t.

    Args:
        power: Exponent, > 0.
        T: The last time, > 0.

    References:
        Austin et al. 2021, arXiv:2107.03006. Shi et al. 2024, arXiv:2406.04329, table 1.

    Example:
        >>> import torch
        >>> from scoresde.jump import PolynomialKeep
        >>> PolynomialKeep().alpha(torch.tensor([0.0, 0.25, 1.0]))
        tensor([1.0000, 0.7500, 0.0000], dtype=torch.float64)
    """

    power: float = 1.0
    T: float = 1.0

    def __post_init__(self) -> None:
        check_number("power", self.power, above=0.0)
        check_number("T", self.T, above=0.0)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-(self._share(t) ** self.power))

    def rate(self, t: Tensor) -> Tensor:
        u = self._share(t)
        return self.power / self.T * u ** (self.power - 1.0) / (1.0 - u**self.power)

    def time_of_log_alpha(self, value: Tensor) -> Tensor:
        return self.T * (-torch.expm1(value.to(torch.float64))).clamp(0.0, 1.0) ** (1.0 / self.power)


@dataclass(frozen=True)
class CosineKeep(KeepSchedule):
    r"""The schedule alpha(t) = 1 - cos(pi (1 - t / T) / 2), which is fast near t = 0 and slow near T.

    Args:
        T: The last time, > 0.

    References:
        Shi et al. 2024, arXiv:2406.04329, table 1. Chang et al. 2022, MaskGIT, arXiv:2202.04200.
    """

    T: float = 1.0

    def __post_init__(self) -> None:
        check_number("T", self.T, above=0.0)

    def _angle(self, t: Tensor) -> Tensor:
        """The angle whose squared sine is alpha / 2."""
        return 0.25 * math.pi * (1.0 - self._share(t))

    def log_alpha(self, t: Tensor) -> Tensor:
        return math.log(2.0) + 2.0 * torch.sin(self._angle(t)).log()

    def rate(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi / self.T / torch.tan(self._angle(t))

    def time_of_log_alpha(self, value: Tensor) -> Tensor:
        root = (0.5 * value.to(torch.float64).exp()).sqrt().clamp(0.0, 1.0)
        return self.T * (1.0 - 4.0 / math.pi * torch.asin(root)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class SDEKeep(KeepSchedule):
    """The schedule of an SDE: its alpha(t), divided by alpha(0).

    Args:
        sde: A process with scalar coefficients whose alpha decreases, such as ``VPSDE()``.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import SDEKeep
        >>> SDEKeep(VPSDE()).alpha(torch.tensor(0.5))
        tensor(0.2812, dtype=torch.float64)
    """

    sde: ScalarSDE

    def __post_init__(self) -> None:
        ends = self.sde.alpha(torch.tensor([0.0, self.sde.T], dtype=torch.float64))
        if not bool(ends[1] < 0.5 * ends[0]):
            raise ValueError(
                f"sde={self.sde!r} has alpha from {float(ends[0]):g} to {float(ends[1]):g}: give a process whose alpha "
                "decreases to at most half of its first value, such as VPSDE()"
            )

    @property
    def T(self) -> float:  # type: ignore[override]
        """The last time, that of the SDE."""
        return float(self.sde.T)

    def log_alpha(self, t: Tensor) -> Tensor:
        first = self.sde.alpha(torch.zeros((), dtype=torch.float64, device=t.device))
        return (self.sde.alpha(t.to(torch.float64)) / first).log().clamp(max=0.0)

    def rate(self, t: Tensor) -> Tensor:
        return -self.sde.drift_coefficient(t.to(torch.float64))


def keep_schedule(schedule: KeepSchedule | ScalarSDE) -> KeepSchedule:
    """A schedule, from itself or from an SDE.

    Args:
        schedule: The schedule, or a process with scalar coefficients.

    Returns:
        The schedule.
    """
    return SDEKeep(schedule) if isinstance(schedule, ScalarSDE) else schedule
