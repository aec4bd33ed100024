"""The function ``check``, which runs all checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts, check_number, shown
from scoresde.sde.base import SDE
from scoresde.sde.checks.contract import coefficients, edges, noise_rises, shapes
from scoresde.sde.checks.dense import BRIEF, DenseProcess
from scoresde.sde.checks.distributions import conversions, gaussian, prior
from scoresde.sde.checks.kernels import kernel, transitions
from scoresde.sde.checks.report import CheckReport, CheckRow
from scoresde.sde.linear import LinearSDE


@checked_arguments
def check(sde: SDE, event_shape: Sequence[int] = (2,), data_std: float = 1.0) -> CheckReport:
    """Check that the methods of a linear process agree with each other. It takes seconds on one core.

    Args:
        sde: The process.
        event_shape: Shape of the events that are used. It should be small. If the process has a fixed event shape, use
            that.
        data_std: Root mean square of the data about the center of the process, > 0. The limit on the dependence of x_T
            on the data is for this value.

    Returns:
        The report. ``report.passed`` is True if all checks passed; ``print(report)`` shows a table with hints.

    Raises:
        TypeError: If the process has no kernel in closed form, so that there is nothing to compare with.

    Example:
        >>> from scoresde import VPSDE
        >>> from scoresde.sde import check
        >>> check(VPSDE()).passed
        True
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"{shown(sde)} has no closed-form kernel that its drift and diffusion could be compared with")
    check_counts("event_shape", event_shape)
    check_number("data_std", data_std, above=0.0)
    process = DenseProcess(sde, tuple(event_shape), float(data_std))
    rows: list[CheckRow] = []
    for part in (coefficients, kernel, transitions, prior, conversions, gaussian, noise_rises, shapes, edges):
        try:
            with torch.no_grad():
                rows += part(process)
        except Exception as problem:  # an error in a check is a result of the check
            rows.append(CheckRow(part.__name__, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
        if part is kernel and not all(row.passed for row in rows):
            process.solver = BRIEF
    return CheckReport(f"{sde!r} on events of shape {tuple(event_shape)}", tuple(rows))
