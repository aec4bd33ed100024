"""How far it is from a user's call to the formula: functions and files of the package that one short sampling run goes through.

    .venv/bin/python benchmarks/hops.py

Two steps on a two-dimensional VP problem with a score that is a plain function, counted with `sys.setprofile`. "calls" are all
calls of functions of the package, "functions" and "files" the different ones among them, "depth" the largest number on the
stack. The last two columns leave out the checks of arguments (`_validation.py`, `_arguments.py`) and the keyed generator
(`noise.py`), which every sampler shares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import scoresde
from scoresde import VPSDE, samplers

PACKAGE = Path(scoresde.__file__).parent
SHARED = ("_validation.py", "_arguments.py", "noise.py")


@dataclass
class Trace:
    """What was called. functions: (file, name) of each. depth: of the stack."""

    calls: int = 0
    depth: int = 0
    functions: set[tuple[str, str]] = field(default_factory=set)

    def count(self, *, shared: bool) -> tuple[int, int]:
        """Functions and files, with or without those that every sampler shares."""
        own = {f for f in self.functions if shared or f[0] not in SHARED}
        return len(own), len({file for file, _ in own})


def followed(run: Callable[[], object]) -> Trace:
    """The functions of the package that ``run`` calls."""
    found, stack = Trace(), 0

    def look(frame, event, argument):
        nonlocal stack
        if event not in ("call", "return"):
            return
        file = Path(frame.f_code.co_filename)
        if PACKAGE not in file.parents:
            return
        stack += 1 if event == "call" else -1
        if event == "call":
            found.calls += 1
            found.depth = max(found.depth, stack)
            found.functions.add((str(file.relative_to(PACKAGE)), frame.f_code.co_qualname))

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def methods() -> dict[str, samplers.Sampler]:
    """The samplers of the table, two steps each."""
    pc = samplers.PredictorCorrector
    return {
        "Euler-Maruyama": pc(samplers.EulerMaruyama(), steps=2),
        "DDIM": pc(samplers.DDIM(), steps=2),
        "DPM-Solver++(2M)": samplers.DPMSolverPlusPlus(2),
        "Langevin": pc(None, samplers.Langevin(), steps=2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", help="print the functions of this method")
    options = parser.parse_args()
    sde = VPSDE()

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    print(
        f"{'method':20s} {'calls':>6s} {'functions':>9s} {'files':>6s} {'depth':>6s} {'own functions':>14s} {'own files':>10s}"
    )
    for name, sampler in methods().items():
        sampler(sde, score, (4, 2))  # annotations are resolved and tables made at the first call
        path = followed(lambda sampler=sampler: sampler(sde, score, (4, 2)))
        functions, files = path.count(shared=True)
        own_functions, own_files = path.count(shared=False)
        print(
            f"{name:20s} {path.calls:6d} {functions:9d} {files:6d} {path.depth:6d} {own_functions:14d} {own_files:10d}"
        )
        if options.show == name:
            for file, function in sorted(path.functions):
                print(f"    {file:45s} {function}")


if __name__ == "__main__":
    main()
