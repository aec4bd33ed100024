"""CPU time of ``import scoresde``, compared with ``import torch`` alone.

    python benchmarks/import_time.py

New processes import one and the other in turn, 11 times each, after one run that compiles the modules. The table has the medians,
and the median of the ratio in each pair.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

PAIRS = 11
ROOT = Path(__file__).resolve().parents[1]


def cpu_seconds(module: str) -> float:
    """CPU time of a new process that imports the module, in seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print the table."""
    cpu_seconds("scoresde")
    pairs = [(cpu_seconds("torch"), cpu_seconds("scoresde")) for _ in range(PAIRS)]
    torch, scoresde = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(own / alone for alone, own in pairs)
    print("| torch, s | scoresde, s | ratio |\n|---:|---:|---:|")
    print(f"| {torch:.2f} | {scoresde:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
