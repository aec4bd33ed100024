"""A check of a product process: those of its parts."""

from __future__ import annotations

from dataclasses import replace

from scoresde._arguments import checked_arguments
from scoresde.jump.checks import check as check_jumps
from scoresde.product.process import ProductProcess
from scoresde.sde import CheckReport
from scoresde.sde import check as check_sde


@checked_arguments
def check(process: ProductProcess) -> CheckReport:
    """Test the SDE by ``scoresde.sde.check``, and each of the different jump processes by ``scoresde.jump.check``.

    Args:
        process: The process.

    Returns:
        The rows of all checks. The names of those of a jump process begin with its first coordinate.
    """
    rows = list(check_sde(process.sde, (len(process.real),)).rows)
    for group in process.groups:
        rows += [replace(row, name=f"{group.coordinates[0]}: {row.name}") for row in check_jumps(group.jump).rows]
    return CheckReport(repr(process), tuple(rows))
