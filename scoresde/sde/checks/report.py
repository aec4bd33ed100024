"""Result of a check: a table with one row for each error."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-6
"""Largest relative error that passes. The integrations are accurate to 1e-9."""

PRIOR_LIMIT = 0.01
"""Largest difference between p_T and the prior that passes, in nats per coordinate: 0.014 bits/dim, a usual standard error."""


@dataclass(frozen=True)
class CheckRow:
    """One row of a check.

    Attributes:
        name: What is checked.
        error: The error that was found.
        limit: The largest error that passes.
        hint: Possible cause, if the check failed.
    """

    name: str
    error: float
    limit: float
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit. NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class CheckReport:
    """Result of a check. ``print(report)`` shows a table.

    Attributes:
        process: The process and the event shape, as text.
        rows: The rows of the table.
    """

    process: str
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether all rows passed."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        lines = [self.process, f"{'check':34s} {'error':>9s} {'limit':>9s}"]
        for row in self.rows:
            verdict = "pass" if row.passed else "FAIL"
            lines.append(
                f"{row.name:34s} {row.error:9.1e} {row.limit:9.1e}  {verdict}" + (f"  {row.hint}" if row.hint else "")
            )
        return "\n".join(lines)
