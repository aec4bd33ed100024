"""The function ``check``, which runs all checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts, check_number
from scoresde.sde.base import SDE
from scoresde.sde.checks.contract import coefficients, edges, noise_rises, shapes
from scoresde.sde.checks.dense import BRIEF, DenseProcess
from scoresde.sde.checks.distributions import conversions, gaussian, prior
from scoresde.sde.checks.kernels import kernel, transitions
from scoresde.sde.checks.report import CheckReport, CheckRow
from scoresde.sde.checks.simulated import CHECKS, SimulatedProcess
from scoresde.sde.linear import LinearSDE

Process = TypeVar("Process")


@checked_arguments
def check(sde: SDE, event_shape: Sequence[int] = (2,), data_std: float = 1.0) -> CheckReport:
    """Check that the methods of a process agree with each other. It takes seconds on one core.

    A process without a closed-form kernel is checked by samples of x_t (``simulated.py``).

    Args:
        sde: The process.
        event_shape: Shape of the events that are used. It should be small. If the process has a fixed event shape, use
            that.
        data_std: Root mean square of the data about the center of the process, > 0. The limit on the dependence of x_T
            on the data is for this value. Without a closed-form kernel the data is N(0, data_std^2 I).

    Returns:
        The report. ``report.passed`` is True if all checks passed; ``print(report)`` shows a table with hints.

    Example:
        >>> from scoresde import VPSDE
        >>> from scoresde.sde import check
        >>> check(VPSDE()).passed
        True
    """
    check_counts("event_shape", event_shape)
    check_number("data_std", data_std, above=0.0)
    if not isinstance(sde, LinearSDE):
        return _report(sde, event_shape, CHECKS, SimulatedProcess(sde, tuple(event_shape), float(data_std)))
    process = DenseProcess(sde, tuple(event_shape), float(data_std))
    parts = (coefficients, _kernel, transitions, prior, conversions, gaussian, noise_rises, shapes, edges)
    return _report(sde, event_shape, parts, process)


def _kernel(process: DenseProcess) -> list[CheckRow]:
    """The checks of the kernel. If one fails, the later integrations are brief."""
    rows = kernel(process)
    if not all(row.passed for row in rows):
        process.solver = BRIEF
    return rows


def _report(
    sde: SDE, event_shape: Sequence[int], parts: Sequence[Callable[[Process], list[CheckRow]]], process: Process
) -> CheckReport:
    rows: list[CheckRow] = []
    for part in parts:
        try:
            with torch.no_grad():
                rows += part(process)
        except Exception as problem:  # an error in a check is a result of the check
            name = part.__name__.lstrip("_")
            rows.append(CheckRow(name, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
    return CheckReport(f"{sde!r} on events of shape {tuple(event_shape)}", tuple(rows))
