"""Total variation of the samples of jump processes from a joint of two coupled variables, over the number of steps.

    python -m benchmarks.jump_table [--samples N]

Ancestral sampling of an exact model: the distribution of the samples is computed without sampling, as a product of
matrices. Exact samplers: N samples, next to N samples of the joint itself. It draws docs/pictures/jump.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from scoresde.jump import Absorbing, FirstHitting, MaskAndReplace, Uniform, Uniformization, grids
from tests.jump.problems import ancestral_table, coupled, frequencies, processes, total_variation

STEPS = (5, 10, 20, 50, 100, 200)
OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "jump.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    joint = coupled()
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    print("ancestral".ljust(22), *(f"{n:7d}" for n in STEPS))
    for process in processes()[:5]:
        tables = [ancestral_table(process, joint.model(process), grids.equal_times(process, n)) for n in STEPS]
        errors = [total_variation(table[:6, :6], joint.probabilities) for table in tables]
        print(type(process).__name__.ljust(22), *(f"{error:7.4f}" for error in errors))
        axes.loglog(STEPS, errors, marker="o", markersize=3, label=type(process).__name__)
    floor = total_variation(frequencies(joint.sample(count, seed=1)), joint.probabilities)
    print(f"{count} samples of the joint: {floor:.4f}")
    for process in (Absorbing(6), Uniform(6), MaskAndReplace(6, 0.3)):
        for sampler in (FirstHitting(), Uniformization()):
            if isinstance(sampler, FirstHitting) and not process.carries_over:
                continue
            result = sampler(process, joint.model(process), (count, 2))
            error = total_variation(frequencies(result.samples), joint.probabilities)
            print(f"{type(sampler).__name__}, {type(process).__name__}: {error:.4f} with {result.nfe} evaluations")
    axes.set(xlabel="steps", ylabel="total variation")
    axes.legend(fontsize=8)
    figure.savefig(OUTPUT, dpi=100)


if __name__ == "__main__":
    main()
