"""Digits with a wanted mean ink: guidance by a regression of the predicted data (Wolleb et al. 2022).

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/guided_ink.py DIR [--count 200] [--steps 50]

The ink of a digit is the mean of its pixels, 0 to 16. The targets are equally spaced between the 5 % and the 95 % quantile of the
training digits. Printed are the correlation of target and result, the root mean square of their difference, and the kernel
distance (MMD^2) of all pixels to the training digits.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.runs import load
from scoresde.guidance import Guidance, IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.metrics import kernel_distance
from scoresde.samplers import UniPC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of the ink, in levels of 0 to 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    train = made.data.train.events(slice(None)).double()
    low, high = train.flatten(1).mean(1).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    wanted = torch.linspace(low, high, options.count)
    target, std = (wanted[:, None] + 0.5) * 2.0 / 17.0 - 1.0, options.noise * 2.0 / 17.0

    def ink(x: Tensor) -> Tensor:
        """The mean of the pixels, (B, 1), in the units of the model."""
        return x.flatten(1).mean(1, keepdim=True)

    def log_likelihood(x: Tensor) -> Tensor:
        return -0.5 * ((ink(x) - target) / std).square().sum(1)

    methods: dict[str, Guidance] = {
        "no guidance": TaskGuidance(model, log_likelihood, weight=0.0, denoised=True),
        "`TaskGuidance(denoised=True)`, w = 0.01": TaskGuidance(model, log_likelihood, weight=0.01, denoised=True),
        "`TaskGuidance(denoised=True)`, w = 0.1": TaskGuidance(model, log_likelihood, weight=0.1, denoised=True),
        "`IsotropicMoments`": IsotropicMoments(model, ink, target, std),
        "`TweedieMoments`": TweedieMoments(model, ink, target, std),
    }
    print("| guidance | correlation | error | MMD^2 |\n|---|---:|---:|---:|")
    for name, score in methods.items():
        result = UniPC(options.steps)(model.sde, score, (options.count, *made.data.event_shape), allow_failed=True)
        raw = made.data.transform.decode(result.samples[~result.failed]).clamp(0, 16).flatten(1).double()
        goal, found = wanted[~result.failed].double(), raw.mean(1)
        correlation = float(torch.corrcoef(torch.stack((goal, found)))[0, 1])
        error = float((goal - found).square().mean().sqrt())
        apart = kernel_distance(raw / 16.0, train.flatten(1) / 16.0)
        failed = f" ({int(result.failed.sum())} not finite)" if bool(result.failed.any()) else ""
        print(
            f"| {name}{failed} | {correlation:.3f} | {error:.2f} | {apart.value:.4f} +- {apart.standard_error:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
