"""Time and memory of a training step, part by part, and time of an evaluation of the network.

    .venv/bin/python benchmarks/training_step.py --rounds 5 --threads 1

The networks are those of configs/vp/cifar10_ddpmpp_continuous.py and configs/ve/cifar10_ncsnpp_continuous.py, with fewer channels
unless you give ``--channels 128 --blocks 4``. A step is what `scoresde train` does: dequantize and mirror a batch of bytes, draw
times and noise, compute the loss and its gradient, clip the gradient's norm, update by Adam, update the averaged weights. The
ways to run it take turns, so that other load on the machine affects all of them. Each figure is the median over rounds, in
milliseconds: processor time of all threads on a CPU, wall-clock time on a GPU. ``activations`` are the MiB that autograd
saves for the backward pass. ``first`` is the wall-clock time of the first step and evaluation in seconds, including compilation.

Options: ``--profile`` lists operations instead of the table. ``--floor`` compares a step with the time that its matrix products
and convolutions take at the speed of a plain matrix product. ``--fused`` times a group normalization and SiLU, eager
and compiled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scoresde.data import Dataset, Quantized
from scoresde.ema import EMA
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.experiment import build_model
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.training.dry_run import Activations
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks.blocks import group_norm
from scoresde.sde import LinearSDE

CONFIGS = {"DDPM++": "vp/cifar10_ddpmpp_continuous", "NCSN++": "ve/cifar10_ncsnpp_continuous"}
WAYS = ("plain", "channels_last", "bf16", "checkpoint", "compile")
PARTS = ("batch", "draw", "forward", "backward", "update")


class Data:
    """Random bytes with the shape of CIFAR-10."""

    def __init__(self, low: float, high: float) -> None:
        raw = torch.randint(0, 256, (5000, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        self.train = Dataset(raw, Quantized(256, low, high), flip=True)
        self.event_shape, self.transform = self.train.event_shape, self.train.transform


class Run:
    """One network trained in one way."""

    def __init__(self, name: str, way: str, options: argparse.Namespace) -> None:
        config = load_config(Path(__file__).parents[1] / "configs" / f"{CONFIGS[name]}.py")
        config.network.update({"channels": options.channels, "blocks": options.blocks})
        if way == "checkpoint":
            config.network.checkpoint = True
        content = config.to_dict()
        self.size, self.way, self.step, self.device = options.batch_size, way, 0, torch.device(options.device)
        self.data = Data(config.data.low, config.data.high)
        sde = build(content["sde"], "sde", LinearSDE)
        self.model = build_model(content, self.data, sde, 0).to(self.device).train()  # type: ignore[arg-type]
        self.objective = DenoisingScoreMatching(sde, reduction=config.objective.reduction)
        self.ema = EMA(self.model.network, 0.9999)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-4)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if way == "channels_last":
            self.model.to(memory_format=torch.channels_last)
        if way == "compile":
            self.model.network.compile()

    def batch(self) -> tuple[Tensor, Tensor]:
        x, position, _ = self.data.train.batch(self.step, self.size, seed=0)
        x = x.to(self.device)
        return x.to(memory_format=torch.channels_last) if self.way == "channels_last" else x, position

    def activations(self) -> float:
        """MiB that autograd saves for the backward pass, without the weights."""
        x, position = self.batch()
        draw = self.objective.draw(x, step=self.step, indices=position.to(self.device))
        saved = Activations(list(self.model.parameters()))
        with saved, self._precision():
            self.objective.evaluate(self.model, draw)
        return saved.bytes / 2**20

    def seconds(self) -> dict[str, float]:
        """Seconds of each part of a step."""
        marks = [self._now()]
        x, position = self.batch()
        marks.append(self._now())
        draw = self.objective.draw(x, step=self.step, indices=position.to(self.device))
        marks.append(self._now())
        with self._precision():
            loss = self.objective.evaluate(self.model, draw).mean()
        marks.append(self._now())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        marks.append(self._now())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model.network)
        marks.append(self._now())
        self.step += 1
        found = dict(zip(PARTS, (b - a for a, b in pairwise(marks)), strict=True))
        return found | {"step": marks[-1] - marks[0]}

    def inference(self) -> float:
        """An evaluation of the network on one batch."""
        x = torch.zeros(self.size, 3, 32, 32, device=self.device)
        x = x.to(memory_format=torch.channels_last) if self.way == "channels_last" else x
        self.model.eval()
        started = self._now()
        with torch.no_grad(), self._precision():
            self.model.network(x, torch.zeros(self.size, device=self.device))
        seconds = self._now() - started
        self.model.train()
        return seconds

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.way == "bf16")

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def table(options: argparse.Namespace) -> str:
    """Rows of medians, one for each network and way."""
    runs = {(name, way): Run(name, way, options) for name in options.networks for way in options.ways}
    found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in runs}
    first = dict.fromkeys(runs, 0.0)
    for number in range(options.rounds + 2):
        for key, run in runs.items():
            started = time.perf_counter()
            row = run.seconds() | {"inference": run.inference()}
            if number == 0:
                first[key] = time.perf_counter() - started
            if number >= 2:  # the first two warm up, and compile
                found[key].append(row)
    columns = (*PARTS, "step", "inference", "activations", "first")
    lines = ["| network | parameters | way | " + " | ".join(columns) + " |", "|---|---:|---|" + "---:|" * len(columns)]
    for (name, way), rows in found.items():
        medians = [f"{1e3 * statistics.median(row[c] for row in rows):.0f}" for c in columns[:-2]]
        saved = f"{runs[name, way].activations():.0f}"
        cells = [name, f"{runs[name, way].parameters:,}", way, *medians, saved, f"{first[name, way]:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def profile(options: argparse.Namespace) -> None:
    """The operations of three plain steps by their own time."""
    for name in options.networks:
        run = Run(name, "plain", options)
        run.seconds()
        with torch.profiler.profile() as found:
            for _ in range(3):
                run.seconds()
        print(name)
        print(found.key_averages(group_by_input_shape=options.shapes).table("self_cpu_time_total", row_limit=25))


def floor(options: argparse.Namespace) -> str:
    """Products of a step, in GFLOP, and their time at the speed of a 768 x 768 matrix product, against the step's time."""
    lines = [
        "| network | GFLOP | matrix product, GFLOP/s | products, ms | step, ms | share |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    a, b = torch.randn(2, 768, 768, generator=torch.Generator().manual_seed(0))
    for name in options.networks:
        run, product, steps = Run(name, "plain", options), [], []
        with FlopCounterMode(display=False) as counter:
            run.seconds()
        for _ in range(options.rounds):
            for _ in range(5):
                started = time.process_time()
                torch.mm(a, b)
                product.append(time.process_time() - started)
            steps.append(run.seconds()["step"])
        operations, step = counter.get_total_flops(), statistics.median(steps)
        speed = 2 * 768**3 / statistics.median(product)
        lines.append(
            f"| {name} | {operations / 1e9:.0f} | {speed / 1e9:.0f} | {1e3 * operations / speed:.0f} | {1e3 * step:.0f} "
            f"| {operations / speed / step:.0%} |"
        )
    return "\n".join(lines)


def fused(options: argparse.Namespace) -> str:
    """Milliseconds of a group norm and its SiLU, there and back, at each resolution: eager and compiled, medians."""

    def activated(x: Tensor, norm: nn.GroupNorm) -> Tensor:
        return nn.functional.silu(norm(x))

    lines = ["| shape | eager | compiled |", "|---|---:|---:|"]
    for side, factor in ((32, 1), (16, 2), (8, 2)):
        norm, channels = group_norm(options.channels * factor), options.channels * factor
        x = torch.randn(
            options.batch_size, channels, side, side, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        up = torch.ones_like(x)
        ways = {"eager": activated, "compiled": torch.compile(activated, dynamic=False)}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(20 * options.rounds):
            for name, way in ways.items():
                started = time.process_time()
                way(x, norm).backward(up)
                if number >= 5:
                    found[name].append(1e3 * (time.process_time() - started))
        cells = [f"{statistics.median(times):.2f}" for times in found.values()]
        lines.append(f"| {tuple(x.shape)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--networks", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--fused", action="store_true")
    parser.add_argument(
        "--shapes", action="store_true", help="with --profile: group operations by the shapes of their inputs"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.floor:
        print(floor(options))
    elif options.fused:
        print(fused(options))
    elif options.profile:
        profile(options)
    else:
        print(table(options))


if __name__ == "__main__":
    main()
