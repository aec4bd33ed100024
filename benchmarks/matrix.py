"""Compatibility matrix: each process with each objective, each sampler and the likelihood. Writes docs/matrix.md.

    python benchmarks/matrix.py                       computes all columns
    python benchmarks/matrix.py "adaptive SDE"        computes some columns, and keeps the others of the page

The data is a Gaussian mixture, and the score is its exact score under the process. The meaning of a number depends on the column.

**Samplers.** The error of 1000 samples, compared with the exact distribution of the data: the largest error of a mean, in
standard deviations, or the largest relative error of a standard deviation, over all coordinates. Sampling noise alone gives
about 0.08.

**Likelihood.** The mean of log p - exact over 8 points, in bits per dimension.

**Objectives.** The factor c for which the mean loss over 4000 examples is smallest, among the scores c times the exact score. It
should be 1. Its standard error is 0.006 for denoising objectives and 0.08 for sliced ones.

Combinations that do not apply (n/a) raise an error. The messages are listed below the tables.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from scoresde._validation import check_choice

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.compatibility import EVENTS, OBJECTIVES, PROCESSES, SAMPLERS, row

COLUMNS = (*OBJECTIVES, *SAMPLERS, "likelihood")
Tables = dict[str, dict[str, dict[str, str]]]
"""Text of each cell, by kind of events, process and column."""


def shown(name: str, value: float, reason: str) -> str:
    """Text of a cell."""
    if reason:
        return "n/a"
    return f"{value:.3f}" if name in OBJECTIVES else f"{value:.1e}" if name == "likelihood" else f"{value:.2f}"


def read(page: Path) -> tuple[Tables, list[str]]:
    """Read the tables and the error messages of a page."""
    tables: Tables = {}
    refusals, kind, names = [], "", [""]
    for line in page.read_text().splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("## "):
            kind = line.split()[1].lower()
        elif line.startswith("- "):
            refusals.append(line)
        elif line.startswith("| process |"):
            names = parts[1:]
        elif line.startswith("| "):
            tables.setdefault(kind, {})[parts[0]] = dict(zip(names, parts[1:], strict=True))
    return tables, refusals


def write(page: Path, tables: Tables, refusals: list[str]) -> None:
    """Write the page."""
    text = ["# Compatibility matrix\n", (__doc__ or "").split("\n", 2)[2].strip("\n") + "\n"]
    for kind, event in EVENTS.items():
        text += [f"\n## {kind.capitalize()} events {event}\n", "| process | " + " | ".join(COLUMNS) + " |"]
        text += ["|---" * (len(COLUMNS) + 1) + "|"]
        for process, cells in tables[kind].items():
            text.append(f"| {process} | " + " | ".join(cells[name] for name in COLUMNS) + " |")
    page.write_text("\n".join([*text, "\n## Combinations that do not apply\n", *refusals]) + "\n")


def main(names: list[str]) -> None:
    """Write docs/matrix.md, with new values in the columns ``names`` (all by default)."""
    torch.set_num_threads(1)
    started, page = time.perf_counter(), Path(__file__).resolve().parents[1] / "docs" / "matrix.md"
    for name in names:
        check_choice("column", name, COLUMNS)
    tables, refusals = read(page) if names else ({}, [])
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for kind, event in EVENTS.items():
        for process in PROCESSES:
            cells = tables.setdefault(kind, {}).setdefault(process, {})
            for name, (value, reason) in row(process, event, names=names).items():
                cells[name] = shown(name, value, reason)
                if reason:
                    reasons.setdefault((process, reason), {})[name] = None
    refusals += [f"- {process}, with {'; '.join(of)}: {reason}" for (process, reason), of in reasons.items()]
    write(page, tables, list(dict.fromkeys(refusals)))
    print(f"docs/matrix.md in {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
