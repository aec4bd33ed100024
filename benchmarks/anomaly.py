"""Digits with an inverted block of 3 x 3 pixels: encoding and decoding, and maps of the anomaly (Wolleb et al. 2022).

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/anomaly.py DIR [--count 200]

First the error of encoding test digits by the probability flow and decoding them: the root mean square over pixels in [0, 1].
Then, for several ways of encoding and decoding and several times: the area under the receiver operating characteristic (AUROC)
of the mean of the map, for digits with a block against digits without; the share of the map, and of its square, that is inside
the block; and the AUROC of the pixels of the block among all pixels.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.runs import load
from scoresde import ProbabilityFlowODE, ScoreModel
from scoresde.guidance import ClassifierFree
from scoresde.samplers import DDIM, PredictorCorrector, ReverseDiffusion, Sampler, UniPC
from scoresde.solvers import RungeKutta
from scoresde.tasks import anomaly_map


def blocks(x: Tensor) -> Tensor:
    """Masks like x (B, 1, 8, 8) with a block of 3 x 3 pixels at a random place."""
    corners = torch.randint(0, 6, (len(x), 2), generator=torch.Generator().manual_seed(0)).tolist()
    mask = torch.zeros_like(x, dtype=torch.bool)
    for one, (row, column) in zip(mask, corners, strict=True):
        one[:, row : row + 3, column : column + 3] = True
    return mask


def row(clean: Tensor, bad: Tensor, mask: Tensor) -> str:
    """The figures of the maps of digits without and with a block."""
    scores = torch.cat((clean, bad)).flatten(1).mean(1)
    labels = torch.arange(len(scores)) >= len(clean)
    shares = [float(((bad**q) * mask).flatten(1).sum(1).div((bad**q).flatten(1).sum(1)).mean()) for q in (1, 2)]
    pixels = roc_auc_score(mask.flatten(), bad.flatten())
    return f"{roc_auc_score(labels, scores):.3f} | {shares[0]:.3f} | {shares[1]:.3f} | {pixels:.3f}"


def round_trips(model: ScoreModel, x: Tensor) -> None:
    """Print the error of encoding and decoding."""
    shape = tuple(x.shape)
    print("| tolerance of the encoder | its evaluations | decoder | evaluations | error |\n|---:|---:|---|---:|---:|")
    for tolerance in (1e-3, 1e-4):
        flow = ProbabilityFlowODE(RungeKutta(tolerance, tolerance, per_sample=False), denoise=False)
        calls = []
        handle = model.network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        code = flow.encode(model.sde, model, x)
        handle.remove()
        for sampler in (flow, UniPC(50, denoise=False), DDIM(200, denoise=False)):
            found = sampler(model.sde, model, shape, start=code)
            error = float((found.samples - x).square().mean().sqrt()) / 2.0
            print(
                f"| {tolerance:g} | {len(calls)} | {type(sampler).__name__} | {found.nfe} | {error:.4f} |", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=200, help="number of test digits")
    parser.add_argument(
        "--ways", nargs="+", default=["flow errors", "mean", "steps", "flow"], help="parts of the tables"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    index = torch.arange(options.count)
    x, label = made.data.test.encode(index, seed=0), made.data.test.conditions(index)["label"]
    if "flow errors" in options.ways:
        round_trips(model, x[:100])
    mask = blocks(x)
    bad = torch.where(mask, -x, x)
    of_class = model.given(label=label)
    flow = ProbabilityFlowODE(RungeKutta(1e-3, 1e-3, per_sample=False))
    toward = ClassifierFree(model, 1.0).given(label=label)
    once, steps = DDIM(1, denoise=False), PredictorCorrector(ReverseDiffusion(), None, steps=20)
    print(
        "| encoding | decoding | t | AUROC | share | share of squares | AUROC of pixels |\n|---|---|---:|---:|---:|---:|---:|"
    )

    def show(
        encoding: str, decoding: str, times: tuple[float, ...], sampler: Sampler, score: object, **given: object
    ) -> None:
        for t in times:
            maps = [anomaly_map(sampler, model.sde, score, v, t, **given) for v in (x, bad)]  # type: ignore[arg-type]
            print(f"| {encoding} | {decoding} | {t:g} | {row(*maps, mask)} |", flush=True)

    if "mean" in options.ways:
        show("noise, 16 repeats", "E[x_0 given x_t]", (0.05, 0.1, 0.2, 0.3, 0.5), once, model, repeats=16)
        show("noise, 16 repeats", "E[x_0 given x_t], true class", (0.1, 0.2), once, of_class, repeats=16)
    if "steps" in options.ways:
        show("noise", "reverse diffusion, 20 steps", (0.1, 0.2, 0.3), steps, model)
    if "flow" in options.ways:
        show("flow", "UniPC, 15 steps, true class, w = 1", (0.2, 0.3), UniPC(15), model, encoder=flow, guided=toward)


if __name__ == "__main__":
    main()
