"""`check`: every part, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts, check_number, shown
from scoresde.sde.base import SDE
from scoresde.sde.checks.contract import edges, noise_rises, shapes
from scoresde.sde.checks.kernels import kernel, transitions
from scoresde.sde.checks.laws import conversions, gaussian, prior
from scoresde.sde.checks.report import CheckReport, CheckRow
from scoresde.sde.checks.subject import BRIEF, Subject
from scoresde.sde.linear import LinearSDE


@checked_arguments
def check(sde: SDE, event_shape: Sequence[int] = (2,), data_std: float = 1.0) -> CheckReport:
    """Hold a process to its own mathematics, in seconds on one core.

    Args:
        sde: A `LinearSDE`.
        event_shape: Shape of the events to check on; small, and the process's own where it takes only one.
        data_std: Root mean square of the data about the process's centre, > 0. It decides how much of the data may be left at T.

    Raises:
        TypeError: If the process has no kernel in closed form: there is nothing to compare with.
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"{shown(sde)} states no kernel: its drift and diffusion have nothing to be compared with")
    check_counts("event_shape", event_shape)
    check_number("data_std", data_std, above=0.0)
    subject = Subject(sde, tuple(event_shape), float(data_std))
    rows: list[CheckRow] = []
    for part in (kernel, transitions, prior, conversions, gaussian, noise_rises, shapes, edges):
        try:
            rows += part(subject)
        except Exception as problem:  # a check reports; it does not die of what it found
            rows.append(CheckRow(part.__name__, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
        if part is kernel and not all(row.passed for row in rows):
            subject.solver = BRIEF
    return CheckReport(f"{sde!r} on events of shape {tuple(event_shape)}", tuple(rows))
