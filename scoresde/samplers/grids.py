"""Time grids: functions ``(sde, steps, ...)`` that return ``steps + 1`` descending times in float64.

- :func:`uniform`: equal steps in t.
- :func:`log_noise`: equal steps in ln(sigma / alpha).
- :func:`karras`: equal steps in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5; arXiv:2206.00364).
- :func:`quadratic`: equal steps in t^(1/2) (Song et al. 2020; arXiv:2010.02502).
- :func:`focused`: equal steps in ln(sigma / alpha) far from the scale of the data, several times shorter ones near it.
- :func:`subsequence`: times of DDPM's chain, evenly or quadratically spaced (Song et al. 2020, appendix D.2).

:func:`~scoresde.samplers.fitted.adaptive_grid` makes a grid for a model, on which all steps have equal errors. The grid of
the reference implementation is :class:`~scoresde.samplers.ReferenceDiscretization`.

To set an argument of a grid, use ``functools.partial(karras, rho=5.0)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_number
from scoresde.sde import SDE, LinearSDE

_HALVINGS = 60
"""Largest number of halvings of the range of ln(sigma / alpha): they reach the rounding error."""
T_MIN = 1e-3
"""Default of the last time, the paper's choice for VP and sub-VP."""


def check_t_min(sde: SDE, t_min: float, **bounds: float) -> None:
    """Raise ValueError unless the last time ``t_min`` is below T and within ``bounds``.

    Args:
        sde: The process.
        t_min: Last time.
        bounds: Bounds as in ``check_number``.

    Raises:
        ValueError: If ``t_min`` is out of range.
    """
    check_number("t_min", t_min, **bounds)
    if not t_min < sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: {sde!r} goes to T={sde.T:g}, give less")


@checked_arguments
def uniform(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps in t.

    Args:
        sde: The process.
        steps: Number of steps N.
        t_min: Last time, >= 0.

    Returns:
        Descending times from T to ``t_min``, of shape ``(N + 1,)``.
    """
    check_count("steps", steps)
    check_t_min(sde, t_min, least=0.0)
    return torch.linspace(sde.T, t_min, steps + 1, dtype=torch.float64)


@checked_arguments
def log_noise(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps in ln(sigma / alpha).

    Args:
        sde: The process.
        steps: Number of steps N.
        t_min: Last time, > 0.

    Returns:
        Descending times from T to ``t_min``, of shape ``(N + 1,)``.
    """
    return _in_noise(sde, steps, t_min, lambda first, last, w: (1 - w) * first.log() + w * last.log())


@checked_arguments
def karras(sde: LinearSDE, steps: int, t_min: float = T_MIN, rho: float = 7.0) -> Tensor:
    """Equal steps in (sigma / alpha)^(1 / rho).

    Args:
        sde: The process.
        steps: Number of steps N.
        t_min: Last time, > 0.
        rho: Exponent, > 0. Larger values make shorter steps at small noise.

    Returns:
        Descending times from T to ``t_min``, of shape ``(N + 1,)``.

    References:
        Karras et al. 2022, eq. 5, arXiv:2206.00364.
    """
    check_number("rho", rho, above=0.0)
    power = 1.0 / rho
    return _in_noise(sde, steps, t_min, lambda a, b, w: rho * ((1 - w) * a**power + w * b**power).log())


@checked_arguments
def quadratic(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps in t^(1/2).

    Args:
        sde: The process.
        steps: Number of steps N.
        t_min: Last time, >= 0.

    Returns:
        Descending times from T to ``t_min``, of shape ``(N + 1,)``.

    References:
        Song et al. 2020, arXiv:2010.02502.
    """
    check_count("steps", steps)
    check_t_min(sde, t_min, least=0.0)
    times = torch.linspace(sde.T**0.5, t_min**0.5, steps + 1, dtype=torch.float64) ** 2
    times[0], times[-1] = sde.T, t_min
    return times


@checked_arguments
def focused(
    sde: LinearSDE,
    steps: int,
    t_min: float = T_MIN,
    level: float = 0.2,
    width: float = 2.0,
    floor: float = 0.1,
) -> Tensor:
    """Times with a density in u = ln(sigma / alpha) that is largest where sigma / alpha = ``level``.

    The density is 1 / cosh((u - ln(level)) / width) + floor. It is the default grid of the exponential integrators. The
    default values are for data with a standard deviation near 0.5.

    Args:
        sde: The process.
        steps: Number of steps N.
        t_min: Last time, > 0.
        level: The ratio sigma / alpha where the steps are shortest, > 0.
        width: Width of the region of short steps, in u, > 0.
        floor: Density far from ``level``, relative to the peak, > 0.

    Returns:
        Descending times from T to ``t_min``, of shape ``(N + 1,)``.
    """
    for name, value in (("level", level), ("width", width), ("floor", floor)):
        check_number(name, value, above=0.0)
    middle = math.log(level)

    def share(u: np.ndarray) -> np.ndarray:
        """The integral of the density."""
        return 2.0 * width * np.arctan(np.tanh((u - middle) / (2.0 * width))) + floor * u

    def density(u: np.ndarray) -> np.ndarray:
        return 1.0 / np.cosh((u - middle) / width) + floor

    def log_level(first: Tensor, last: Tensor, w: Tensor) -> Tensor:
        low, high, weight = last.log().numpy(), first.log().numpy(), w.numpy()
        return torch.from_numpy(_inverse(share, density, (1 - weight) * share(high) + weight * share(low), low, high))

    return _in_noise(sde, steps, t_min, log_level)


@checked_arguments
def subsequence(sde: LinearSDE, steps: int, of: int = 1000, power: float = 1.0) -> Tensor:
    """A subsequence of the times T i / of, i = 1 .. of.

    It takes the times nearest to i / of = w^power for evenly spaced w, with both ends.

    Args:
        sde: The process.
        steps: Number of steps N.
        of: Number of times of the chain, at least 2.
        power: 1 for even spacing, 2 for the quadratic spacing of DDIM.

    Returns:
        Descending times from T to T / of, of shape ``(N + 1,)``.

    Raises:
        ValueError: If two of the times coincide.

    References:
        Song et al. 2020, appendix D.2, arXiv:2010.02502.
    """
    check_count("steps", steps)
    check_count("of", of, least=2)
    check_number("power", power, above=0.0)
    w = torch.linspace(1.0, of ** (-1.0 / power), steps + 1, dtype=torch.float64)
    index = (of * w**power).round()
    if not bool((index.diff() < 0).all()):
        raise ValueError(
            f"steps={steps} with power={power!r} is not allowed: some of the {of} times would be used twice, give fewer steps"
        )
    return sde.T * index / of


def _inverse(
    function: Callable[[np.ndarray], np.ndarray],
    slope: Callable[[np.ndarray], np.ndarray],
    wanted: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Invert an increasing function between ``low`` and ``high`` at the values ``wanted``.

    It uses Newton's method, and halves the bracket where a Newton step leaves it.
    """
    below, above = np.full_like(wanted, low), np.full_like(wanted, high)
    u, closest = 0.5 * (below + above), 1e-15 * max(1.0, abs(float(low)), abs(float(high)))
    for _ in range(_HALVINGS):
        excess = function(u) - wanted
        below, above = np.where(excess < 0, u, below), np.where(excess < 0, above, u)
        new = u - excess / slope(u)
        new = np.where((new < below) | (new > above), 0.5 * (below + above), new)
        moved, u = float(np.abs(new - u).max()), new
        if moved <= closest:
            break
    found: np.ndarray = u
    return found


@checked_arguments
def end_time(sde: SDE, t_min: float | None = None) -> float:
    """The last time of sampling.

    Args:
        sde: The process.
        t_min: Last time, >= 0, or None.

    Returns:
        ``t_min``. If it is None, the process's own ``t_min`` if it has one, else 1e-3.
    """
    if t_min is None:
        return float(getattr(sde, "t_min", T_MIN))
    check_number("t_min", t_min, least=0.0)
    return t_min


def _in_noise(sde: LinearSDE, steps: int, t_min: float, log_level) -> Tensor:  # type: ignore[no-untyped-def]
    check_count("steps", steps)
    check_t_min(sde, t_min, above=0.0)
    ends = torch.tensor([sde.T, t_min], dtype=torch.float64)
    first, last = sde.log_noise(ends).exp()
    w = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    times = sde.time_of_log_noise(log_level(first, last, w))
    times[0], times[-1] = ends
    return times


FROM_T = (uniform, log_noise, karras, quadratic, focused, subsequence)
"""Grid functions that start at T by definition, so that the first time is known without computing the grid."""
