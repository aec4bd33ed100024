"""Time grids: functions (sde, N, ...) -> N + 1 descending times in float64. Nothing else decides where a solver stops.

    uniform      equal steps in t
    log_noise    equal steps in ln(sigma / alpha)
    karras       (sigma / alpha)^(1 / rho) equally spaced (Karras et al. 2022, eq. 5; arXiv:2206.00364)
    quadratic    equal steps in t^(1/2) (Song et al. 2020; arXiv:2010.02502)
    focused      equal steps in ln(sigma / alpha) far from the scale of the data, several times shorter ones near it
    subsequence  instants of DDPM's chain, evenly or by squares (Song et al. 2020, appendix D.2; arXiv:2010.02502)

`pilot_grid` makes one for a model, where its steps have equal errors. The reference implementation's grid is
`ReferenceDiscretization`.

To fix an argument: ``functools.partial(karras, rho=5.0)``.
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
"""Of the range of ln(sigma / alpha): to a rounding."""
T_MIN = 1e-3
"""Where sampling stops unless told otherwise: the paper's choice for VP and sub-VP."""


def check_t_min(sde: SDE, t_min: float, **bounds: float) -> None:
    """Raise ValueError unless ``t_min``, where sampling of ``sde`` stops, is below T and within ``bounds``."""
    check_number("t_min", t_min, **bounds)
    if not t_min < sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: {sde!r} goes to T={sde.T:g}, give less")


@checked_arguments
def uniform(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps from T to t_min, (steps + 1,)."""
    check_count("steps", steps)
    check_t_min(sde, t_min, least=0.0)
    return torch.linspace(sde.T, t_min, steps + 1, dtype=torch.float64)


@checked_arguments
def log_noise(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal ratios of sigma / alpha from T to t_min, (steps + 1,)."""
    return _in_noise(sde, steps, t_min, lambda first, last, w: (1 - w) * first.log() + w * last.log())


@checked_arguments
def karras(sde: LinearSDE, steps: int, t_min: float = T_MIN, rho: float = 7.0) -> Tensor:
    """(sigma / alpha)^(1 / rho) equally spaced from T to t_min, (steps + 1,)."""
    check_number("rho", rho, above=0.0)
    power = 1.0 / rho
    return _in_noise(sde, steps, t_min, lambda a, b, w: rho * ((1 - w) * a**power + w * b**power).log())


@checked_arguments
def quadratic(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps of t^(1/2) from T to t_min, (steps + 1,)."""
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
    """Nodes by a density in u = ln(sigma / alpha) that is largest at ``level``; default of the exponential integrators.

    The density is 1 / cosh((u - ln(level)) / width) + floor. The default values suit data with a standard deviation around 0.5.

    Args:
        sde: Process.
        steps: Number of steps N.
        t_min: Last time, > 0.
        level: sigma / alpha where the steps are shortest, > 0.
        width: Of the region of short steps, in u, > 0.
        floor: Density far from ``level``, as a part of the largest one, > 0.

    Returns:
        (N + 1,) float64, descending times from T to t_min.
    """
    for name, value in (("level", level), ("width", width), ("floor", floor)):
        check_number(name, value, above=0.0)
    middle = math.log(level)

    def share(u: np.ndarray) -> np.ndarray:
        """The density's integral."""
        return 2.0 * width * np.arctan(np.tanh((u - middle) / (2.0 * width))) + floor * u

    def density(u: np.ndarray) -> np.ndarray:
        return 1.0 / np.cosh((u - middle) / width) + floor

    def log_level(first: Tensor, last: Tensor, w: Tensor) -> Tensor:
        low, high, weight = last.log().numpy(), first.log().numpy(), w.numpy()
        return torch.from_numpy(_inverse(share, density, (1 - weight) * share(high) + weight * share(low), low, high))

    return _in_noise(sde, steps, t_min, log_level)


@checked_arguments
def subsequence(sde: LinearSDE, steps: int, of: int = 1000, power: float = 1.0) -> Tensor:
    """Of the instants T i / of, i = 1 .. of, those nearest to (i / of) = w^power for even w, (steps + 1,), the ends included.

    power: 1 for an even spacing, 2 for DDIM's quadratic one. Raises ValueError where two of them fall together.
    """
    check_count("steps", steps)
    check_count("of", of, least=2)
    check_number("power", power, above=0.0)
    w = torch.linspace(1.0, of ** (-1.0 / power), steps + 1, dtype=torch.float64)
    index = (of * w**power).round()
    if not bool((index.diff() < 0).all()):
        raise ValueError(
            f"steps={steps} with power={power!r} is not allowed: instants of {of} fall together, give fewer"
        )
    return sde.T * index / of


def _inverse(
    function: Callable[[np.ndarray], np.ndarray],
    slope: Callable[[np.ndarray], np.ndarray],
    wanted: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """Where a rising function has the values ``wanted``, between ``low`` and ``high``: Newton's steps, halvings where they leave
    what is known to hold the answer."""
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
    """``t_min``; where it is None the process's own, else 1e-3."""
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
"""Grid functions that begin at T by their definition: no one has to compute a grid to know."""
