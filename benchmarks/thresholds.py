"""Thresholds of the predicted data for strong classifier-free guidance of digits.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python -m benchmarks.thresholds DIR [--weights 1 5 10] [--count 250]

The columns are the share of pixels that are black or white; the share of samples that an independent support vector machine
assigns to the wanted class; and the kernel distance (MMD^2) of the pixels to the test images.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.conditional_digits import judge
from benchmarks.runs import load
from scoresde.guidance import ClassifierFree, DynamicThreshold, StaticThreshold
from scoresde.metrics import kernel_distance
from scoresde.samplers import UniPC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 5.0, 10.0])
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, checkpoint = load(options.workdir)
    machine, _ = judge(made.data)
    test = made.data.test.events(slice(None)).flatten(1).double() / 16.0
    y, shape = torch.arange(options.count) % 10, (options.count, *made.data.event_shape)
    print(f"{checkpoint}, {options.count} digits, UniPC({options.steps})")
    print("| w | threshold | black or white | of the wanted class | MMD^2 |\n|---:|---|---:|---:|---:|")
    for weight in options.weights:
        guided = ClassifierFree(model, weight)
        scores = {"none": guided, "static": StaticThreshold(guided), "dynamic, .9": DynamicThreshold(guided, 0.9)}
        for title, score in scores.items():
            x = UniPC(options.steps)(model.sde, score, shape, condition={"label": y}, seed=0).samples
            pixels = made.data.transform.decode(x).clamp(0, 16).flatten(1).double() / 16.0
            ends = float(((pixels < 0.5 / 16) | (pixels > 15.5 / 16)).double().mean())
            right = float((torch.from_numpy(machine.predict(pixels.numpy())) == y).double().mean())
            distance = kernel_distance(pixels, test)
            print(
                f"| {weight:g} | {title} | {ends:.3f} | {right:.3f} | "
                f"{distance.value:.4f} +- {distance.standard_error:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
