"""How far it is from a user's call to the formula: functions and files of the package that a sampling run goes through.

    python benchmarks/hops.py [--show DDIM]

Two steps on a two-dimensional VP problem with a score that is a plain function, counted with `sys.setprofile`. "calls"
are all calls of functions of the package, "functions" and "files" the different ones among them, "depth" the largest
number on the stack. "own" leaves out what every sampler shares: checks of arguments (`_validation.py`, `_arguments.py`,
`_kinds.py`), the keyed generator (`noise.py`), and how a score is called (`sde/scores.py`). "path" is what lies between
the call and the update: of the own functions those that are called once more for each further step, and those on the
stack above them. What is left out there runs once, before the first step and after the last: the grid and the process's
coefficients on it, the start, the result.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import scoresde
from scoresde import VPSDE, samplers

PACKAGE = Path(scoresde.__file__).parent
SHARED = ("_validation.py", "_arguments.py", "_kinds.py", "_representation.py", "noise.py", "sde/scores.py")


@dataclass
class Trace:
    """What was called. functions: (file, name) of each, how often, and the functions above it. depth: of the stack."""

    calls: int = 0
    depth: int = 0
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    above: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)

    def count(self, *, shared: bool) -> tuple[int, int]:
        """Functions and files, with or without those that every sampler shares."""
        own = {f for f in self.functions if shared or f[0] not in SHARED}
        return len(own), len({file for file, _ in own})

    def path(self, longer: Trace) -> set[tuple[str, str]]:
        """The own functions that ``longer``, a run with more steps, calls more often, and those above them."""
        often = {
            f for f, n in longer.functions.items() if n > self.functions[f] and f[0] not in SHARED and f[1][-1] != ">"
        }
        found = often.union(*(longer.above[f] for f in often))
        return {(file, name) for file, name in found if file not in SHARED and name[-1] != ">"}


def followed(run: Callable[[], object]) -> Trace:
    """The functions of the package that ``run`` calls."""
    found, stack = Trace(), []

    def look(frame, event, argument):
        if event not in ("call", "return"):
            return
        file = Path(frame.f_code.co_filename)
        if PACKAGE not in file.parents:
            return
        if event == "return":
            stack.pop()
            return
        name = str(file.relative_to(PACKAGE)), frame.f_code.co_qualname
        found.above.setdefault(name, set()).update(stack)
        stack.append(name)
        found.calls += 1
        found.depth = max(found.depth, len(stack))
        found.functions[name] += 1

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def methods(steps: int) -> dict[str, samplers.Sampler]:
    """The samplers of the table."""
    return {
        "Euler-Maruyama": samplers.EulerMaruyama(steps=steps),
        "DDIM": samplers.DDIM(steps=steps),
        "DPM-Solver++(2M)": samplers.DPMSolverPlusPlus(steps),
        "UniPC": samplers.UniPC(steps),
        "EDM's Heun": samplers.EDM(steps),
        "Langevin": samplers.PredictorCorrector(None, samplers.Langevin(), steps=steps),
        "predictor-corrector": samplers.PredictorCorrector(
            samplers.ReverseDiffusion(), samplers.Langevin(), steps=steps
        ),
    }


def trace(sampler: samplers.Sampler) -> Trace:
    """What one run of a sampler calls."""

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    def run() -> object:
        return sampler(VPSDE(), score, (4, 2))

    run()  # annotations are resolved and tables made at the first call
    return followed(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", help="print the path of this method")
    options = parser.parse_args()
    names = ("calls", "functions", "files", "depth", "own functions", "own files", "path functions", "path files")
    print("| method | " + " | ".join(names) + " |\n|---" + "|---:" * len(names) + "|")
    for (name, sampler), longer in zip(methods(2).items(), methods(4).values(), strict=True):
        short = trace(sampler)
        path = short.path(trace(longer))
        numbers = (short.calls, *short.count(shared=True), short.depth, *short.count(shared=False))
        print(f"| {name} | " + " | ".join(map(str, (*numbers, len(path), len({file for file, _ in path})))) + " |")
        if options.show == name:
            for file, function in sorted(path):
                print(f"    {file:45s} {function}")


if __name__ == "__main__":
    main()
