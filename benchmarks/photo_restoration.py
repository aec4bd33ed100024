"""Restoration of photograph patches: error, structural similarity and calibration of posterior samples, with baselines.

    pip install scikit-image
    scoresde train --config configs/vp/photo_restoration.py --workdir RUN
    python benchmarks/photo_restoration.py RUN [--patches 8] [--samples 19] [--steps 15] [--tasks sr2 box ...]
        [--methods TweedieMoments ...] [--sheet FILE]

The patches are held-out ones, (3, 32, 32) with values in [-1, 1]. Measurements have Gaussian noise of standard deviation .05, in
the same units. In both inpainting tasks, PSNR and coverage are of the missing pixels only. The columns are

    PSNR     of the mean of the samples, in dB
    gain     PSNR minus that of ridge, with its standard error over patches
    single   mean PSNR of single samples
    SSIM     of the mean of the samples
    50 80 90 share (%) of the true pixel values inside an interval of that nominal coverage: of 19 samples x(1) <= ... <= x(19),
             the intervals from x(5) to x(15), x(2) to x(18) and x(1) to x(19) have exactly these coverages if truth and samples
             have the same distribution
    time     CPU seconds for all patches

``ridge`` is the linear estimate with the smallest mean square error on the training patches and their mirror images, from their
mean and covariance C,

    mean + C A^T (A C A^T + noise^2 I)^-1 (y - A mean),

which is ridge regression from measurements with simulated noise. It is also the posterior mean if the data is Gaussian, so it has
samples and intervals as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.restoration import NOISE, SIDE, Linear, Task, classical, coverage, moments, psnr, ssim, tasks
from benchmarks.runs import load
from scoresde.guidance import DiffusionPosteriorSampling, Guidance, IsotropicMoments, TweedieMoments
from scoresde.samplers import UniPC

DATA_STD, WEIGHT = 0.65, 3.0
METHODS = ("TweedieMoments", "IsotropicMoments", "DiffusionPosteriorSampling")
Linearly = Callable[[Tensor], Tensor]
LEVELS = {50: 0.6745, 80: 1.2816, 90: 1.6449}
"""Nominal coverages in percent, and the half width of a Gaussian's interval in standard deviations."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: The method.
        mean: The estimates, (n, 3, SIDE, SIDE).
        single: Mean PSNR of single samples, or None.
        coverages: Coverages in percent, or None.
        samples: Some samples of each patch, (S, n, 3, SIDE, SIDE), or None.
        seconds: CPU time, or None.
    """

    name: str
    mean: Tensor
    single: float | None = None
    coverages: list[float] | None = None
    samples: Tensor | None = None
    seconds: float | None = None

    def line(self, truth: Tensor, task: Task, ridge: Tensor) -> str:
        """The line in Markdown; ``ridge`` is the linear estimate."""
        of_mean = psnr(self.mean, truth, task)
        gain = of_mean - psnr(ridge, truth, task)
        cells = [
            f"{float(of_mean.mean()):.2f}",
            "" if self.mean is ridge else f"{float(gain.mean()):+.2f} +- {float(gain.std() / len(gain) ** 0.5):.2f}",
            "" if self.single is None else f"{self.single:.2f}",
            f"{ssim(self.mean, truth):.3f}",
            "" if self.coverages is None else " ".join(f"{found:.0f}" for found in self.coverages),
            "" if self.seconds is None else f"{self.seconds:.0f}",
        ]
        return f"| {task.name} | {self.name} | {' | '.join(cells)} |"


def by_linear(linear: Linear, task: Task, y: Tensor, truth: Tensor) -> Row:
    """The linear estimate, with the intervals and the expected error of samples of the Gaussian posterior."""
    mean, seen = linear(y), slice(None) if task.known is None else task.known == 0
    off, std = (mean - truth)[..., seen], linear.std.expand_as(mean)[..., seen]
    shares = [100.0 * float((off.abs() <= width * std).double().mean()) for width in LEVELS.values()]
    square = (off.square() + std.square()).flatten(1).mean(1)
    return Row("ridge", mean, float((10.0 * torch.log10(4.0 / square)).mean()), shares)


def by_guidance(
    name: str, model: Callable[..., Tensor], task: Task, y: Tensor, truth: Tensor, options: argparse.Namespace
) -> Row:
    """Posterior samples of a guided model: the samples of one patch are one batch, with the number of the patch as seed."""
    found, start = [], time.process_time()
    for i, row in enumerate(y):
        score = guided(name, model, task.operator, row[None], options.weight)
        assert score.sde is not None
        found.append(UniPC(options.steps)(score.sde, score, (options.samples, 3, SIDE, SIDE), seed=i).samples)
    samples = torch.stack(found, dim=1)
    seconds = time.process_time() - start
    seen = slice(None) if task.known is None else task.known == 0
    shares = [coverage(samples[..., seen], truth[..., seen], nominal) for nominal in LEVELS]
    single = float(torch.stack([psnr(one, truth, task) for one in samples]).mean())
    return Row(f"`{name}`", samples.mean(0), single, shares, samples, seconds)


def guided(name: str, model: Callable[..., Tensor], operator: Linearly, y: Tensor, weight: float) -> Guidance:
    """The guided score of a method, for one measurement (1, *measurement)."""
    if name == "TweedieMoments":
        return TweedieMoments(model, operator, y, NOISE, iterations=3)
    if name == "IsotropicMoments":
        return IsotropicMoments(model, operator, y, NOISE, DATA_STD)
    return DiffusionPosteriorSampling(model, operator, y, weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--samples", type=int, default=19)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--tasks", nargs="+", choices=list(tasks()), default=list(tasks()))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:2])
    parser.add_argument("--weight", type=float, default=WEIGHT, help="weight of DiffusionPosteriorSampling")
    parser.add_argument(
        "--sheet",
        help="also write a picture of two patches of each task to this file, and print the PSNR of their means",
    )
    options = parser.parse_args()
    if options.sheet and "TweedieMoments" not in options.methods:
        parser.error("--sheet shows samples of TweedieMoments: name it in --methods")
    torch.set_num_threads(1)
    made, model, checkpoint = load(options.workdir)
    model.eval().requires_grad_(False)
    train = made.data.train.encode(slice(None), seed=0)
    of_train = moments(train)
    held_out = made.data.test.encode(slice(None), seed=0)
    truth = held_out[torch.linspace(0, len(held_out) - 1, options.patches).round().long()]
    print(
        f"{checkpoint}, {len(truth)} of {len(held_out)} test patches, {options.samples} samples each, "
        f"{options.steps} steps; the brightness of a patch has {brightness(train):.0f} times the variance that it would have if "
        "pixels were independent"
    )
    print("| task | method | PSNR | gain | single | SSIM | 50 80 90 | time |\n|---|---|---:|---:|---:|---:|---:|---:|")
    sheets = []
    for task in (tasks()[name] for name in options.tasks):
        y = task.measure(truth, seed=0)
        rows = [Row(name, f(y)) for name, f in classical(task, train[:: len(train) // 24]).items()]
        rows.append(by_linear(Linear(*of_train, task), task, y, truth))
        ridge = rows[-1].mean
        print(*(row.line(truth, task, ridge) for row in rows), sep="\n", flush=True)
        for name in options.methods:
            rows.append(by_guidance(name, model, task, y, truth, options))
            print(rows[-1].line(truth, task, ridge), flush=True)
        sheets.append((task, y, rows))
        if options.sheet:
            sheet(sheets, truth).savefig(options.sheet, dpi=90)
            for row in rows:
                if row.name in ("ridge", "`TweedieMoments`"):
                    shown = psnr(row.mean, truth, task)[picked(truth)].tolist()
                    print(
                        f"    in the picture, {row.name}: {', '.join(f'{value:.2f}' for value in shown)} dB", flush=True
                    )


def brightness(x: Tensor) -> float:
    """The variance of the mean of a patch, divided by that of the mean of independent values."""
    values = x.flatten(1).double()
    return float(values.mean(1).var() * values.shape[1] / values.var())


def picked(truth: Tensor) -> list[int]:
    """The two patches of the highest contrast."""
    found: list[int] = truth.flatten(1).std(1).topk(2).indices.sort().values.tolist()
    return found


def sheet(results: list[tuple[Task, Tensor, list[Row]]], truth: Tensor) -> Figure:
    """The two patches of the highest contrast: truth, measurement, without a model, ridge, samples, their mean and deviation."""
    patches = picked(truth)
    titles = ("original", "measurement", "no model", "ridge", "sample", "sample", "mean", "std")
    figure = Figure(figsize=(8.0, 1.02 * len(patches) * len(results)), layout="constrained")
    axes = figure.subplots(len(patches) * len(results), len(titles), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    for i, (task, y, rows) in enumerate(results):
        by_name = {row.name: row for row in rows}
        samples = by_name["`TweedieMoments`"].samples
        assert samples is not None
        for j, patch in enumerate(patches):
            line = axes[len(patches) * i + j]
            pictures = [
                one[patch] for one in (truth, y, rows[0].mean, by_name["ridge"].mean, *samples[:2], samples.mean(0))
            ]
            for ax, x in zip(line, pictures, strict=False):
                ax.imshow((0.5 * (x + 1.0)).clamp(0.0, 1.0).movedim(0, -1), interpolation="nearest")
            ax = line[-1]
            ax.imshow(samples[:, patch].std(0).mean(0), vmin=0.0, vmax=0.4, cmap="magma", interpolation="nearest")
        axes[len(patches) * i][0].set_ylabel(task.name.replace(" ", "\n", 1), fontsize=7, rotation=90)
    return figure


if __name__ == "__main__":
    main()
