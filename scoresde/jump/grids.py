"""Time grids of jump processes: functions ``(process, steps)`` that return ``steps + 1`` descending times from T to 0,
in float64.

- :func:`equal_times`: equal steps in t.
- :func:`equal_alpha`: equal steps in alpha(t). Under ``Absorbing`` every step unmasks the same number of tokens on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_sizes
from scoresde.jump.base import JumpProcess


@checked_arguments
def equal_times(process: JumpProcess, steps: int) -> Tensor:
    """Equal steps in t.

    Args:
        process: The process.
        steps: Number of steps N.

    Returns:
        Descending times from T to 0, of shape ``(N + 1,)``.
    """
    check_count("steps", steps)
    return torch.linspace(process.T, 0.0, steps + 1, dtype=torch.float64)


@checked_arguments
def equal_alpha(process: JumpProcess, steps: int) -> Tensor:
    """Equal steps in alpha(t).

    Args:
        process: The process.
        steps: Number of steps N.

    Returns:
        Descending times from T to 0, of shape ``(N + 1,)``.
    """
    check_count("steps", steps)
    last = float(process.schedule.alpha(torch.tensor(process.T)))
    times = process.schedule.time_of_log_alpha(torch.linspace(last, 1.0, steps + 1, dtype=torch.float64).log())
    times[0], times[-1] = process.T, 0.0
    return times


def check_grid(name: str, process: JumpProcess, times: Tensor) -> Tensor:
    """Check a grid.

    Args:
        name: Its name, for the message.
        process: The process.
        times: Descending times that end at 0, ``(N + 1,)``.

    Returns:
        The times in float64 on the CPU.

    Raises:
        ValueError: If they are not two or more descending times in [0, T] that end at 0.
    """
    check_sizes(name, times, "N")
    times = times.detach().to("cpu", torch.float64)
    process.schedule.check_time(times, name)
    if len(times) < 2 or not bool((times.diff() < 0).all()) or float(times[-1]) != 0.0:
        raise ValueError(
            f"{name} has {len(times)} times from {float(times[0]):g} to {float(times[-1]):g}: give two or more descending times "
            "that end at 0"
        )
    return times
