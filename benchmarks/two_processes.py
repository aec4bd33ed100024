"""How much two processes differ from one: training, samples and likelihood rows of a small network on the digits.

    python benchmarks/two_processes.py [--steps N] [--only NAME]

Each line trains, samples and computes likelihoods twice, with one process and with two, and prints the largest differences:

    skipped steps       steps that float16 skipped, with one process and with two
    losses, norms       mean loss and gradient norm of a step, relative
    weights, average    ||one - two|| / ||one - start||
    samples             coordinates of 16 samples, in [-1, 1]
    rows                bits/dim of 16 events

The single process is neither compiled nor sharded, but has the same precision. The first line trains once: two processes draw
samples and compute rows with the same weights.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.children import ROOT, SMALL, Child, together
from scoresde.experiment import Experiment, load_config
from scoresde.experiment.config.loader import apply_overrides
from scoresde.experiment.folder.checkpoint import Checkpoint, last_checkpoint

BASE = {
    "network.dropout": 0.0, "training.log_every": 1, "training.checkpoint_every": 50, "training.warmup": 10,
    "training.learning_rate": 1e-3, "training.ema_decay": 0.9, "sampling.count": 16, "sampling.batch_size": 4,
    "likelihood.limit": 16, "likelihood.batch_size": 4, "device": "cpu", "threads": 1,
}  # fmt: skip
LINES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "sampling and likelihood only": ({}, {}),
    "training": ({}, {}),
    "compiled": ({}, {"training.compile": True}),
    "sharded": ({}, {"training.sharded": True}),
    "bfloat16": ({"training.precision": "bfloat16"}, {}),
    "bfloat16, sharded": ({"training.precision": "bfloat16"}, {"training.sharded": True}),
    "float16": ({"training.precision": "float16"}, {}),
    "float16, sharded": ({"training.precision": "float16"}, {"training.sharded": True}),
}
"""Options of both runs, and additional options of the run with two processes."""
EVALUATED = ("sample", "likelihood")


def run(folder: Path, world: int, command: str, options: Mapping[str, object]) -> None:
    """Run a command with ``world`` processes."""
    children = (
        together(folder, world, options, command=command) if world > 1 else [Child(folder, options, command=command)]
    )
    assert all(child.end(900.0) == 0 for child in children), [child.output() for child in children]


def column(file: Path, name: str) -> np.ndarray:
    """A column of a table; NaN where a step was skipped."""
    with open(file, newline="") as lines:
        return np.array([float(row[name]) for row in csv.DictReader(lines)])


def relative(one: Path, two: Path, name: str) -> float:
    """The largest relative deviation in a column of metrics.csv, over steps that neither skipped."""
    a, b = (column(folder / "metrics.csv", name) for folder in (one, two))
    return float(np.nanmax(np.abs(b / a - 1.0)))


def start(options: Mapping[str, object]) -> dict[str, Tensor]:
    """The weights before the first step."""
    config = load_config(ROOT / "configs" / "vp" / "digits.py")
    apply_overrides(config, {key: str(value) for key, value in options.items()})
    return dict(Experiment.from_config(config).model.network.named_parameters())


def way(one: Path, two: Path, which: str, begin: Mapping[str, Tensor]) -> float:
    """How far weights lie apart, in units of the way that the first have come."""

    def flat(tensors: Mapping[str, Tensor], prefix: str) -> Tensor:
        return torch.cat([tensors[f"{prefix}{name}"].detach().double().flatten() for name in begin])

    a, b = (flat(found.tensors, f"{which}.") for found in map(_last, (one, two)))
    return float((a - b).norm() / (a - flat(begin, "")).norm())


def _last(folder: Path) -> Checkpoint:
    found = last_checkpoint(folder / "checkpoints")
    assert found is not None
    return found


def line(folder: Path, name: str, steps: int) -> str:
    """A line of the table."""
    both, more = LINES[name]
    options = {**SMALL, **BASE, "training.steps": steps, **both}
    one, two = folder / "one", folder / "two"
    for command in ("train", *EVALUATED):
        run(one, 1, command, options)
    if name == next(iter(LINES)):
        shutil.copytree(one, two, ignore=shutil.ignore_patterns("samples", "likelihood"))
    else:
        run(two, 2, "train", options | more)
    for command in EVALUATED:
        run(two, 2, command, options)
    x = [np.load(next((place / "samples").glob("*.npz")))["x"] for place in (one, two)]
    bits = [column(place / "likelihood" / "test.csv", "bits_per_dim") for place in (one, two)]
    begin = start(options)
    found = (
        relative(one, two, "loss"), relative(one, two, "grad_norm"), way(one, two, "model", begin), way(one, two, "ema", begin),
        float(np.abs(x[0] - x[1]).max()), float(np.abs(bits[0] - bits[1]).max()),
    )  # fmt: skip
    skipped = " and ".join(str(_last(place).facts["skipped"]) for place in (one, two))
    return f"| {name} | {skipped} | " + " | ".join(f"{value:.1e}" if value else "0" for value in found) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", choices=list(LINES), help="one line")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| with two processes | skipped steps | losses | norms | weights | average | samples | rows, bits/dim |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in [given.only] if given.only else LINES:
        with tempfile.TemporaryDirectory() as folder:
            print(line(Path(folder), name, given.steps), flush=True)


if __name__ == "__main__":
    main()
