"""Functions and files of the package between a user's call and the formula of a sampler.

    python benchmarks/hops.py [--show DDIM]

The run has two steps on a two-dimensional VP problem, and the score is a plain function. It is counted with
``sys.setprofile``. The columns are:

calls
    All calls of functions of the package.
functions, files
    The different functions, and their files.
depth
    The largest number of functions on the stack.
own functions, own files
    The same without the code that every sampler shares: checks of arguments (``_validation.py``, ``_arguments.py``,
    ``_kinds.py``), the keyed generator (``noise.py``), and the call of a score (``sde/scores.py``).
path functions, path files
    The code between the call and the update: the own functions that each further step calls again, and those above them
    on the stack. The other own functions run once, before the first step or after the last: grid, coefficients, start
    and result.
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
    """The calls of a run.

    Attributes:
        calls: Number of calls.
        depth: Largest number of functions on the stack.
        functions: Number of calls of each function, by (file, name).
        above: The functions above each function on the stack.
    """

    calls: int = 0
    depth: int = 0
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    above: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)

    def count(self, *, shared: bool) -> tuple[int, int]:
        """Numbers of functions and files, with or without the shared code."""
        own = {f for f in self.functions if shared or f[0] not in SHARED}
        return len(own), len({file for file, _ in own})

    def path(self, longer: Trace) -> set[tuple[str, str]]:
        """The own functions that a run with more steps, ``longer``, calls more often, and those above them."""
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
    """The calls of one run of a sampler."""

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    def run() -> object:
        return sampler(VPSDE(), score, (4, 2))

    run()  # the first call resolves annotations and builds tables
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
