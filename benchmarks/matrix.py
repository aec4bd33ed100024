"""Everything with everything: each process with each objective, each sampler and the likelihood. Writes docs/matrix.md.

    .venv/bin/python benchmarks/matrix.py                       all of it
    .venv/bin/python benchmarks/matrix.py "adaptive SDE"        some columns, beside what the page has

Data is a Gaussian mixture, the score its closed form under the process. The figure of a sampler is the larger of the
worst error of a mean (in standard deviations) and the worst relative error of a standard deviation over coordinates,
of 1000 samples against the exact distribution of the data: sampling noise alone makes about 0.08. That of the likelihood is
the mean over 8 points of log p - exact, in bits per dimension. That of an objective is the factor c at which its mean over
4000 examples is least among the scores c times the exact one: it must be 1, and is known to 0.006 for a denoising
objective, to 0.08 for a sliced one. What does not apply is refused; the reasons are below the tables.
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
"""Kind of events, process, column: what the page shows."""


def shown(name: str, value: float, reason: str) -> str:
    """A cell."""
    if reason:
        return "refused"
    return f"{value:.3f}" if name in OBJECTIVES else f"{value:.1e}" if name == "likelihood" else f"{value:.2f}"


def read(page: Path) -> tuple[Tables, list[str]]:
    """The tables and the refusals of a page."""
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
    """The page."""
    text = ["# Everything with everything\n", (__doc__ or "").split("\n", 2)[2].strip("\n") + "\n"]
    for kind, event in EVENTS.items():
        text += [f"\n## {kind.capitalize()} events {event}\n", "| process | " + " | ".join(COLUMNS) + " |"]
        text += ["|---" * (len(COLUMNS) + 1) + "|"]
        for process, cells in tables[kind].items():
            text.append(f"| {process} | " + " | ".join(cells[name] for name in COLUMNS) + " |")
    page.write_text("\n".join([*text, "\n## Refusals\n", *refusals]) + "\n")


def main(names: list[str]) -> None:
    """Write docs/matrix.md, or the columns ``names`` of it."""
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
