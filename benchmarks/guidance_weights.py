"""Classifier-free guidance of digits: classes, spread and distance to the data by weight.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/guidance_weights.py DIR [--weights -1 0 1 3] [--count 500]

An independent support vector machine, trained on the training images, judges the classes. The kernel distance (MMD^2) is that of
pixels to the test images, and the spread is the mean variance of a pixel within a class.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.conditional_digits import judge
from benchmarks.runs import load
from scoresde.guidance import ClassifierFree
from scoresde.metrics import kernel_distance
from scoresde.samplers import UniPC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--weights", type=float, nargs="+", default=[-1.0, 0.0, 1.0, 3.0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, checkpoint = load(options.workdir)
    machine, accuracy = judge(made.data)
    test = made.data.test.events(slice(None)).flatten(1).double() / 16.0
    labels = made.data.test.conditions(slice(None))["label"]
    print(f"{checkpoint}; accuracy of the support vector machine on the test images: {accuracy:.3f}")
    print(f"test images: spread {spread(test, labels):.4f}")
    y = torch.arange(options.count) % 10
    for weight in options.weights:
        score = ClassifierFree(model, weight)
        shape = (options.count, *made.data.event_shape)
        result = UniPC(options.steps)(model.sde, score, shape, condition={"label": y}, seed=0)
        pixels = made.data.transform.decode(result.samples).clamp(0, 16).flatten(1).double() / 16.0
        right = float((torch.from_numpy(machine.predict(pixels.numpy())) == y).double().mean())
        distance = kernel_distance(pixels, test)
        print(
            f"w = {weight:4.1f}: {right:.3f} of the wanted class, spread {spread(pixels, y):.4f}, "
            f"MMD^2 {distance.value:.5f} +- {distance.standard_error:.5f}"
        )


def spread(x: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean variance of a pixel within a class."""
    return float(torch.stack([x[labels == k].var(0).mean() for k in range(10)]).mean())


if __name__ == "__main__":
    main()
