"""Calls every public class and function with wrong arguments and counts the outcomes: refused clearly, refused obscurely, or
accepted.

    python benchmarks/fuzz_arguments.py             # every case
    python benchmarks/fuzz_arguments.py --each 3    # three for each parameter
    python benchmarks/fuzz_arguments.py --show      # also print every obscure or accepted case
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.argument_calls import Case, cases, count, some


def main() -> None:
    """Run the cases that the command line selects and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=0, help="number of wrong calls for each parameter; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only calls whose name contains this text")
    parser.add_argument("--show", action="store_true", help="print every obscure or accepted case")
    given = parser.parse_args()

    def look(case: Case, kind: str, said: str) -> None:
        if given.show and kind != "clear":
            print(f"{kind:8} {case}  {said[:160]}", flush=True)

    chosen = some(given.each, given.seed) if given.each else list(cases())
    found = count([case for case in chosen if given.only in case.call], look)
    print(", ".join(f"{number} {kind}" for kind, number in found.items()))


if __name__ == "__main__":
    main()
