"""Whether `fit` states its error honestly, on laws on which no default was chosen.

    python benchmarks/fit_honesty.py measure runs/honesty.jsonl     about three minutes of one core
    python benchmarks/fit_honesty.py table runs/honesty.jsonl

Laws: `problems.FRESH`, under VP and VE, exact scores, at 5 and 10 evaluations: 24 cells. Each fit has a pilot of 128 starts.
What it states is compared with the mean error on 4000 starts of another key:
z = (mean on the 4000 starts - stated mean) / stated standard error.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path

import torch
from problems import FRESH, Problem

from scoresde.samplers import Pilot, fit

CALLS = (5, 10)
STARTS = 4000


def measure(file: Path) -> None:
    """A line for each cell."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as out:
        for name in FRESH:
            for process in ("VP", "VE"):
                problem = Problem(name, process)
                make = partial(Pilot.of, problem.sde, problem.score, dtype=torch.float64)
                event = problem.law.event_shape
                pilot, test = make((128, *event)), make((STARTS, *event), seed=7, fine=150)
                for calls in CALLS:
                    made = fit(problem.sde, problem.score, calls, pilot=pilot)
                    shape = tuple(test.starts.shape)
                    state = made(problem.sde, problem.score, shape, start=test.starts, allow_failed=True).state
                    errors, stated = test.distances(state), made.expected
                    row = {
                        "problem": str(problem),
                        "calls": calls,
                        "stated": stated.error,
                        "standard_error": stated.standard_error,
                        "true": float(errors.mean()),
                        "median": float(errors.median()),
                        "worst": float(errors.max()),
                        "said": repr(made),
                    }
                    out.write(json.dumps(row) + "\n")
                    out.flush()


def table(file: Path) -> None:
    """Markdown, and the count of cells beyond 3 standard errors."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    print("| problem | evaluations | stated | mean on 4000 starts | z |\n|---|---|---|---|---|")
    values = []
    for row in rows:
        z = (row["true"] - row["stated"]) / row["standard_error"]
        values.append(z)
        stated = f"{row['stated']:.2g} +- {row['standard_error']:.1g}"
        print(f"| {row['problem']} | {row['calls']} | {stated} | {row['true']:.2g} | {z:.1f} |")
    ratio = max(row["true"] / row["stated"] for row in rows)
    print(
        f"\n{sum(z > 3 for z in values)} of {len(values)} cells more than 3 stated standard errors above, "
        f"{sum(z > 10 for z in values)} more than 10, {sum(math.isnan(z) for z in values)} unknown; "
        f"largest ratio of the mean to the stated mean {ratio:.1f}"
    )


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["measure", "table"])
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    {"measure": measure, "table": table}[options.command](options.file)


if __name__ == "__main__":
    main()
