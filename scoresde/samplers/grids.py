"""Time grids: functions (sde, N, ...) -> N + 1 descending times in float64. Nothing else decides where a solver stops.

    uniform      equal steps in t
    log_noise    equal steps in ln(sigma / alpha)
    karras       (sigma / alpha)^(1 / rho) equally spaced (Karras et al. 2022, eq. 5; arXiv:2206.00364)

To fix an argument: ``functools.partial(karras, rho=5.0)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.sde import LinearSDE

T_MIN = 1e-3
"""Where sampling stops unless told otherwise: the paper's choice for VP and sub-VP."""


def uniform(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal steps from T to t_min, (steps + 1,)."""
    check_count("steps", steps)
    check_number("t_min", t_min, least=0.0)
    return torch.linspace(sde.T, t_min, steps + 1, dtype=torch.float64)


def log_noise(sde: LinearSDE, steps: int, t_min: float = T_MIN) -> Tensor:
    """Equal ratios of sigma / alpha from T to t_min, (steps + 1,)."""
    return _in_noise(sde, steps, t_min, lambda first, last, w: (1 - w) * first.log() + w * last.log())


def karras(sde: LinearSDE, steps: int, t_min: float = T_MIN, rho: float = 7.0) -> Tensor:
    """(sigma / alpha)^(1 / rho) equally spaced from T to t_min, (steps + 1,)."""
    check_number("rho", rho, above=0.0)
    power = 1.0 / rho
    return _in_noise(sde, steps, t_min, lambda a, b, w: rho * ((1 - w) * a**power + w * b**power).log())


def _in_noise(sde: LinearSDE, steps: int, t_min: float, log_level) -> Tensor:  # type: ignore[no-untyped-def]
    check_count("steps", steps)
    check_number("t_min", t_min, above=0.0)
    ends = torch.tensor([sde.T, t_min], dtype=torch.float64)
    first, last = sde.log_noise(ends).exp()
    w = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    times = sde.time_of_log_noise(log_level(first, last, w))
    times[0], times[-1] = ends
    return times
