"""Orders of convergence of the samplers: prints the table of docs/samplers.md.

    python benchmarks/sampler_orders.py

The problems are in ``tests/samplers/orders.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.samplers.orders import REVERSE, SDES, STRONG, WEAK, path_errors, reverse_slopes, slope, weak_errors


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| method | kind | order | " + " | ".join(SDES) + " |\n" + "|---" * (3 + len(SDES)) + "|")
    for kind, methods, errors in (("strong", STRONG, path_errors), ("weak", WEAK, weak_errors)):
        for name, (make, order) in methods.items():
            found = " | ".join(f"{slope(errors(make, sde)):.2f}" for sde in SDES.values())
            print(f"| {name} | {kind} | {order} | {found} |", flush=True)
    for method, orders in REVERSE.items():
        columns = zip(*(reverse_slopes(method, sde) for sde in SDES.values()), strict=True)
        for kind, order, found in zip(("strong", "weak"), orders, columns, strict=True):
            print(
                f"| reverse SDE, {method} | {kind} | {order} | " + " | ".join(f"{k:.2f}" for k in found) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
