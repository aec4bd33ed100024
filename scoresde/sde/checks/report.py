"""What a check says: a line for each figure, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-6
"""Relative error below which figures agree; the integrations are good to 1e-9."""

PRIOR_LIMIT = 0.01
"""Nats per coordinate of mismatch between p_T and the prior that pass: 0.014 bits/dim, the size of a usual standard error."""


@dataclass(frozen=True)
class CheckRow:
    """One line: what was checked, its figure, the figure that passes, and a hint where it did not."""

    name: str
    error: float
    limit: float
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class CheckReport:
    """All lines of a check. Prints as a table."""

    process: str
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        lines = [self.process, f"{'check':34s} {'figure':>9s} {'limit':>9s}"]
        for row in self.rows:
            verdict = "pass" if row.passed else "FAIL"
            lines.append(
                f"{row.name:34s} {row.error:9.1e} {row.limit:9.1e}  {verdict}" + (f"  {row.hint}" if row.hint else "")
            )
        return "\n".join(lines)
