"""Cost of one default log-likelihood on a GPU in addition to the score: tensor operations and waits for the device, counted
on a CPU.

    python benchmarks/likelihood_operations.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scoresde import VPSDE, log_likelihood
from scoresde.likelihood import Multistep
from tests.counting import Counts, counted


def _cost(solver: Multistep | None) -> Counts:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x

    return counted(lambda: log_likelihood(VPSDE(), score, x, solver=solver))


def main() -> None:
    """Print the counts of the default call, and those of one node from the difference between 32 and 64 nodes."""
    whole, few, many = (_cost(solver) for solver in (None, Multistep(32), Multistep(64)))
    node = (many.operations - few.operations) / 32
    print(f"default call: {whole.operations} operations, {whole.waits} waits")
    print(f"a node: {node:g} operations, {(many.waits - few.waits) / 32:g} waits")


if __name__ == "__main__":
    main()
