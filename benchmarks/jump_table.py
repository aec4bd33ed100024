"""Total variation of the samples of jump processes from a joint of two coupled variables, over the evaluations of the model.

    python -m benchmarks.jump_table [--samples N]

For an exact model, the distribution of the samples of samplers with steps is computed without sampling, as a product of
matrices. Exact samplers: N samples, next to N samples of the joint itself. Further tables: a chain of four bits with correctors,
known tokens, and the weight of guidance. It draws docs/pictures/jump.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    ConfidenceUnmasking,
    CorrectedSampler,
    EnumeratedJoint,
    FirstHitting,
    JumpProcess,
    JumpSampler,
    MarkovChain,
    MaskAndReplace,
    NearestNeighbor,
    Remasking,
    TauLeaping,
    Uniform,
    Uniformization,
    confidences,
)
from tests.jump.problems import (
    coupled,
    frequencies,
    greedy_table,
    processes,
    sampler_table,
    total_variation,
    wrong_at_the_start,
)
from tests.jump.test_guidance import UNDER, WITHOUT, order_table, tilted

STEPS = (5, 10, 20, 50, 100, 200)
OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "jump.png"
SAMPLERS = {
    "ancestral": AncestralSampler,
    "tau-leaping": TauLeaping,
    "corrected": lambda steps: CorrectedSampler(AncestralSampler(steps), 0.5),
    "remasking, cap=.05": Remasking,
    "remasking, cap=1/steps": lambda steps: Remasking(steps, cap=1.0 / steps),
}


def error(sampler: JumpSampler, process: JumpProcess, joint: EnumeratedJoint, count: int = 2) -> float:
    return total_variation(sampler_table(sampler, process, joint.model(process), count), joint.probabilities)


def row(name: str, values: list[float]) -> None:
    print(name.ljust(36), *(f"{value:7.4f}" for value in values))


def stepwise(process: JumpProcess, joint: EnumeratedJoint, axes: Axes) -> None:
    """The table of all samplers with steps, and its curves."""
    for name, make in SAMPLERS.items():
        if ("remasking" in name and not process.carries_over) or ("tau" in name and process.ordered):
            continue
        errors = [error(make(n), process, joint) for n in STEPS]
        row(f"{type(process).__name__}, {name}", errors)
        calls = [2 * n - 1 if name == "corrected" else n for n in STEPS]
        axes.loglog(calls, errors, "--" if name == "tau-leaping" else "-", marker="o", markersize=3, label=name)
    axes.set(title=type(process).__name__, xlabel="evaluations of the model")


def exact(joint: EnumeratedJoint, count: int, axes: dict[str, Axes]) -> None:
    """Samples of the samplers without an error of their own, and of the joint."""
    floor = total_variation(frequencies(joint.sample(count, seed=1)), joint.probabilities)
    print(f"{count} samples of the joint: {floor:.4f}")
    entropy = confidences.negative_entropy
    for process, samplers in (
        (
            Absorbing(6),
            [FirstHitting(), ConfidenceUnmasking(2, confidence=entropy), Uniformization(), Uniformization(0.02)],
        ),
        (Uniform(6), [Uniformization(), Uniformization(0.02)]),
        (MaskAndReplace(6, 0.3), [Uniformization()]),
        (NearestNeighbor(6), [Uniformization()]),
    ):
        for sampler in samplers:
            result = sampler(process, joint.model(process), (count, 2))
            found = total_variation(frequencies(result.samples), joint.probabilities)
            mean = float(result.spent.double().mean())
            print(f"{sampler}, {type(process).__name__}: {found:.4f} with {mean:.1f} evaluations of a sample")
            if type(process).__name__ in axes:
                mark = {"FirstHitting": "*", "ConfidenceUnmasking": "x", "Uniformization": "s"}[type(sampler).__name__]
                label = type(sampler).__name__ if getattr(sampler, "ends", 1e-3) == 1e-3 else None
                axes[type(process).__name__].plot([mean], [found], mark, color="black", label=label)
    for axis in axes.values():
        axis.axhline(floor, color="gray", linestyle=":", label=f"{count} samples of the joint")
    print(
        f"ConfidenceUnmasking(2), the order of MaskGIT: {total_variation(greedy_table(joint), joint.probabilities):.4f}"
    )


def chain() -> None:
    """Four bits with a mask: corrections against steps, at equal evaluations."""
    every = torch.cartesian_prod(*[torch.arange(2)] * 4)
    joint = EnumeratedJoint(MarkovChain([[0.95, 0.05], [0.05, 0.95]]).log_prob(every).exp().reshape([2] * 4))
    for process in (Absorbing(2), Uniform(2)):
        counts = (3, 5, 9)
        row(
            f"4 bits, {type(process).__name__}, ancestral",
            [error(AncestralSampler(2 * n - 1), process, joint, 4) for n in counts],
        )
        for size in (0.5, 1.0):
            samplers = [CorrectedSampler(AncestralSampler(n), size) for n in counts]
            row(
                f"4 bits, {type(process).__name__}, corrected, size={size}",
                [error(s, process, joint, 4) for s in samplers],
            )


def infilling(joint: EnumeratedJoint) -> None:
    """The bias of a known variable, for 0, 1, 4 and 16 corrections at each time."""
    target = joint.probabilities[0] / joint.probabilities[0].sum()
    for process in (Absorbing(6), Uniform(6), MaskAndReplace(6, 0.3), NearestNeighbor(6)):
        for steps in (20, 80):
            plain = AncestralSampler(steps)
            samplers = [plain, *(CorrectedSampler(plain, 1.0, n) for n in (1, 4, 16))]
            tables = [sampler_table(s, process, joint.model(process), known=0)[0] for s in samplers]
            if not process.carries_over:
                row(f"known, {type(process).__name__}, {steps} steps", [total_variation(p, target) for p in tables])
    model = joint.model(Absorbing(6))
    found = model(torch.tensor([[0, 6]]), torch.tensor(1.0))[0, 1].exp()
    print(f"known, Absorbing: {total_variation(found, target):.1e} with 1 evaluation")


def inexact(joint: EnumeratedJoint) -> None:
    """A model that is uniform where all is masked, and exact elsewhere."""
    process = Absorbing(6)
    model = wrong_at_the_start(process, joint.model(process))
    counts = (9, 49, 199)
    for name, make in {
        "ancestral": AncestralSampler,
        "corrected": lambda n: CorrectedSampler(AncestralSampler((n + 1) // 2), 0.5),
        "remasking, cap=.05": Remasking,
        "remasking, cap=.3": lambda n: Remasking(n, cap=0.3),
    }.items():
        tables = [sampler_table(make(n), process, model) for n in counts]
        row(f"inexact model, {name}", [total_variation(p, joint.probabilities) for p in tables])


def guidance() -> None:
    """Total variation of the product of normalized factors from the normalized tilted joint."""
    for weight in (-0.5, 0.0, 1.0, 2.0, 3.0):
        joint = tilted(UNDER.probabilities.flatten(), WITHOUT.probabilities.flatten(), weight).reshape(6, 6)
        print(f"guidance, w={weight}: {total_variation(order_table(weight), joint):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    joint = coupled()
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    row("steps", [float(n) for n in STEPS])
    for process in processes()[:5]:
        stepwise(process, joint, {"Absorbing": left, "Uniform": right}.get(type(process).__name__, Figure().subplots()))
    exact(joint, count, {"Absorbing": left, "Uniform": right})
    chain()
    infilling(joint)
    inexact(joint)
    guidance()
    left.set_ylabel("total variation")
    left.legend(fontsize=7, loc="lower left")
    right.legend(fontsize=7, loc="lower left")
    figure.savefig(OUTPUT, dpi=100)


if __name__ == "__main__":
    main()
