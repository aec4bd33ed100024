"""The variational bound of a trained model by several chains, and its exact likelihood by the probability flow.

    scoresde train --config configs/vp/digits_classes.py --workdir runs/classes
    python benchmarks/bound_and_flow.py runs/classes

Each row is the result of `scoresde likelihood`, without conditions, for the test split: the mean in bits/dim with its standard
error, which includes the differences between events, and the mean difference from the probability flow on the same dequantized
events with the standard error of this difference. Rows that the folder already has are not computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import statistics
from dataclasses import replace

import torch

from benchmarks.runs import load
from scoresde.experiment import Experiment, Workdir, likelihood
from scoresde.samplers.grids import uniform
from scoresde.schedules import ChainBound
from scoresde.score import GaussianVariance

STEPS = (5, 10, 20, 50, 99)
UPPER, LOWER = GaussianVariance(1.0), GaussianVariance(0.0)
METHODS: dict[str, list[ChainBound]] = {
    "upper variance, `log_noise`": [ChainBound(k, variance=UPPER) for k in STEPS],
    "lower variance, `log_noise`": [ChainBound(k, variance=LOWER, decoder=UPPER) for k in STEPS],
    "measured variance, `uniform`": [ChainBound(k, uniform, "measured") for k in STEPS],
    "measured variance, `log_noise`": [ChainBound(k, variance="measured") for k in STEPS],
    "measured variance, best times": [ChainBound(k, None, "measured") for k in STEPS],
    "measured variance, `log_noise`, drawn": [
        ChainBound(1000, variance="measured", draws=m) for m in (10, 20, 50, 100)
    ],
    "variance of the model, `log_noise`": [ChainBound(k, variance="model") for k in STEPS],
    "variance of the model, best times": [ChainBound(k, None, "model") for k in STEPS],
    "variance of the model, `log_noise`, drawn": [
        ChainBound(1000, variance="model", draws=m) for m in (10, 20, 50, 100)
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--limit", type=int, default=0, help="number of test events; 0 for all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, _, _ = load(options.workdir)
    made = replace(made, likelihood=replace(made.likelihood, condition="ignore", limit=options.limit))
    workdir = Workdir(options.workdir)
    flow = _events(made, workdir, "test")
    print(f"probability flow: {_figure(list(flow.values()))} bits/dim, {len(flow)} events\n")
    print("| chain | steps | evaluations | bits/dim | more than the flow |\n|---|---:|---:|---:|---:|")
    for name in options.methods:
        for method in METHODS[name]:
            found = _events(replace(made, likelihood=replace(made.likelihood, method=method)), workdir, "test-bound")
            apart = [found[i] - flow[i] for i in flow]
            evaluations = 1 + (method.draws or method.count)
            cells = (name, method.count, evaluations, _figure(list(found.values())), _figure(apart))
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _events(made: Experiment, workdir: Workdir, title: str) -> dict[int, float]:
    """Bits/dim of each event."""
    with contextlib.redirect_stdout(io.StringIO()):
        likelihood(made, workdir)
    lines = (workdir.likelihood / f"{title}.csv").read_text().splitlines()
    return {int(row["index"]): float(row["bits_per_dim"]) for row in csv.DictReader(lines)}


def _figure(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} +- {statistics.stdev(values) / math.sqrt(len(values)):.4f}"


if __name__ == "__main__":
    main()
