"""Digits from a half or from means of blocks, by two guidances; and a picture of the tasks of docs/tasks.md.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/restored_digits.py DIR [--count 100] [--samples 4] [--picture FILE]

For test digits whose lower half is hidden, and for means of 2 x 2 pixels without noise: the root mean square error of a sample
and of the mean of the samples, over pixels in [0, 1], and the share of samples in which a support vector machine sees the class
of the digit. Its accuracy is printed for digits whose lower half is that of the mean digit, and for repeated means, for
comparison. Pixels of samples are cut off at 0 and 1.
"""

from __future__ import annotations

import argparse
import functools

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from benchmarks.anomaly import blocks
from benchmarks.conditional_digits import judge
from benchmarks.runs import load
from scoresde import ProbabilityFlowODE, ScoreModel
from scoresde.guidance import IsotropicMoments, TweedieMoments
from scoresde.operators import SuperResolution
from scoresde.samplers import DDIM, PredictorCorrector, ReverseDiffusion, UniPC
from scoresde.solvers import RungeKutta
from scoresde.tasks import anomaly_map, edit, inpaint, interpolate, super_resolve

KNOWN = torch.arange(8)[:, None].expand(1, 8, 8) < 4
"""The upper half."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=100, help="number of test digits")
    parser.add_argument("--samples", type=int, default=4, help="samples of each digit")
    parser.add_argument("--steps", type=int, default=25, help="steps of UniPC")
    parser.add_argument("--picture", help="file of the picture, instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    index = torch.arange(options.count)
    x, label = made.data.test.encode(index, seed=0), made.data.test.conditions(index)["label"]
    if options.picture:
        draw(model, x, options.picture)
        return
    machine, _ = judge(made.data)
    mean = made.data.train.encode(torch.arange(len(made.data.train)), seed=0).mean(0)
    means = SuperResolution(2)

    def right(pixels: Tensor) -> float:
        levels = made.data.transform.decode(pixels.flatten(0, -4)).clamp(0, 16).flatten(1).numpy() / 16.0
        wanted = label.repeat_interleave(len(levels) // len(label)).numpy()
        return float((machine.predict(levels) == wanted).mean())

    filled = torch.where(KNOWN, x, mean)
    print(f"lower half replaced by the mean: {right(filled):.3f}; means repeated: {right(means.image(means(x))):.3f}")
    print(
        "| task | guidance | error of a sample | of the mean | right class | far outside |\n|---|---|---:|---:|---:|---:|"
    )
    rows = x.repeat_interleave(options.samples, 0)
    kinds = {
        f"`{kind.__name__}`, {text}": functools.partial(kind, interval=interval)
        for kind in (TweedieMoments, IsotropicMoments)
        for text, interval in (("all levels", None), ("below 10", (0.0, 10.0)), ("below 3", (0.0, 3.0)))
    }
    for task in ("inpaint", "super_resolve"):
        for name, guidance in kinds.items():
            arguments = (UniPC(options.steps), model.sde, model)
            if task == "inpaint":
                result = inpaint(*arguments, rows, KNOWN, guidance=guidance, allow_failed=True)
            else:
                result = super_resolve(*arguments, means(rows), 2, guidance=guidance, allow_failed=True)
            found = result.samples.nan_to_num().unflatten(0, (-1, options.samples))
            far = float((found.abs() > 3.0).flatten(2).any(2).double().mean())
            errors = [float((part - x).clamp(-2.0, 2.0).square().mean().sqrt()) / 2.0 for part in cut(found)]
            print(
                f"| {task} | {name} | {errors[0]:.3f} | {errors[1]:.3f} | {right(found):.3f} | {far:.3f} |", flush=True
            )


def cut(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the samples (B, S, *event) and their mean, with pixels cut off at -1 and 1."""
    return samples[:, 0].clamp(-1.0, 1.0), samples.clamp(-1.0, 1.0).mean(1)


def draw(model: ScoreModel, x: Tensor, file: str) -> None:
    """Draw five tasks for five digits each."""
    sde, x = model.sde, x[:6]
    sampler, flow = UniPC(25), ProbabilityFlowODE(RungeKutta(1e-3, 1e-3, per_sample=False), denoise=False)
    noisy = PredictorCorrector(ReverseDiffusion(), None, steps=25)
    hidden, means = torch.where(KNOWN, x, torch.nan), SuperResolution(2)(x)
    coarse = SuperResolution(2).image(means)
    bad = torch.where(blocks(x), -x, x)
    first, last = x[:1].expand_as(x), x[1:2].expand_as(x)
    line = interpolate(flow, sde, model, first[:1], last[:1], torch.linspace(0, 1, 6).tolist())[0]
    panels = [
        ("inpaint", ["digit", "known", "sample", "sample"], [x, hidden, *(
            inpaint(sampler, sde, model, x, KNOWN, seed=s).samples for s in (0, 1))]),
        ("super_resolve", ["digit", "means", "sample", "sample"], [x, coarse, *(
            super_resolve(sampler, sde, model, means, 2, seed=s).samples for s in (0, 1))]),
        ("edit", ["guide", "t = 0.1", "t = 0.3", "t = 0.5"], [coarse, *(
            edit(noisy, sde, model, coarse, t).samples for t in (0.1, 0.3, 0.5))]),
        ("anomaly_map", ["digit", "map", "with block", "map"], [
            x, anomaly_map(DDIM(1, denoise=False), sde, model, x, 0.2, repeats=16) - 1.0,
            bad, anomaly_map(DDIM(1, denoise=False), sde, model, bad, 0.2, repeats=16) - 1.0]),
        ("interpolate", ["w = 0, ..., 1"], [line]),
    ]  # fmt: skip
    figure = plt.figure(figsize=(9.0, 6.4))
    grid = figure.add_gridspec(3, 2, height_ratios=[4, 4, 1])
    places = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1], grid[2, :]]
    for place, (title, names, rows) in zip(places, panels, strict=True):
        axis = figure.add_subplot(place)
        tiles = [
            torch.cat(tuple(torch.nn.functional.pad(row[:, 0], (0, 1, 0, 1), value=torch.nan)), -1) for row in rows
        ]
        picture = torch.cat(tiles).numpy()
        axis.imshow(np.ma.masked_invalid(picture), cmap="gray_r", vmin=-1.0, vmax=1.0)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks([9 * k + 3.5 for k in range(len(names))], names, fontsize=8)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.set_facecolor("#d9c8e8")
        for side in axis.spines.values():
            side.set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
