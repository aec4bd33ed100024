"""Edits of coarse digits (SDEdit): distance to the guide and to the data by the time of the start.

    scoresde train --config configs/vp/digits.py --workdir DIR
    python benchmarks/editing.py DIR [--count 359] [--steps 50]

The guides are test digits whose 2 x 2 blocks of pixels are replaced by their means. The distance to the guide is the root mean
square over pixels in [0, 1], and the kernel distance (MMD^2) is that of pixels to the training digits.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as nnf

from benchmarks.runs import load
from scoresde.metrics import kernel_distance
from scoresde.samplers import PredictorCorrector, ReverseDiffusion
from scoresde.tasks import edit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=359)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, checkpoint = load(options.workdir)
    x0 = made.data.test.encode(slice(options.count), seed=0)
    guide = nnf.interpolate(nnf.avg_pool2d(x0, 2), scale_factor=2.0)
    decode = made.data.transform.decode
    data = made.data.train.events(slice(None)).flatten(1).double() / 16.0
    of_guide = decode(guide).clamp(0, 16).flatten(1).double() / 16.0
    start = kernel_distance(of_guide, data)
    print(f"{checkpoint}, {len(guide)} guides")
    print("| start | distance to the guide | MMD^2 |\n|---:|---:|---:|")
    print(f"| 0 (the guide) | 0 | {start.value:.4f} +- {start.standard_error:.4f} |")
    for t in (0.1, 0.3, 0.5, 0.7):
        sampler = PredictorCorrector(ReverseDiffusion(), None, steps=options.steps)
        x = edit(sampler, model.sde, model, guide, t, seed=0).samples
        pixels = decode(x).clamp(0, 16).flatten(1).double() / 16.0
        apart, found = float((pixels - of_guide).square().mean().sqrt()), kernel_distance(pixels, data)
        print(f"| {t:g} | {apart:.3f} | {found.value:.4f} +- {found.standard_error:.4f} |")


if __name__ == "__main__":
    main()
