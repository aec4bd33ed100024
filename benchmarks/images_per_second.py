"""Images per second of training with each option of `config.training` for speed or memory.

    .venv/bin/python benchmarks/images_per_second.py --rounds 7 --threads 2
    .venv/bin/python benchmarks/images_per_second.py --networks small --ways plain compile --rounds 7 --threads 2
    .venv/bin/python benchmarks/images_per_second.py --channels 128 --blocks 4 --batch-size 128 --device cuda

A step is that of `scoresde train`: read, mirror and dequantize a batch, compute the loss and its gradient, update by Adam,
and update the averages. The options take turns, each with its own model, so that other load on the machine affects all of
them. A result is the median of the wall-clock time over rounds, without the first two. ``activations`` are counted as by
`--dry-run`. ``first`` is the time of the first step in seconds, including compilation. The data are random bytes with the
shape of CIFAR-10, in a file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ml_collections import ConfigDict

from scoresde.experiment import Experiment, load_config
from scoresde.experiment.training.batches import Batches
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.dry_run import Activations
from scoresde.experiment.training.trainer import Trainer

CONFIGS = {
    "DDPM++": "vp/cifar10_ddpmpp_continuous",
    "NCSN++": "ve/cifar10_ncsnpp_continuous",
    "small": "vp/digits",
}
WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "micro_batch": {"micro_batch": 4},
    "prefetch": {"prefetch": True},
    "channels_last": {"channels_last": True},
    "recomputation": {},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True},
    "compile": {"compile": True},
    "compile, bfloat16": {"compile": True, "precision": "bfloat16"},
}
"""Settings of each option in `config.training`. For recomputation it is `config.network.checkpoint`."""
QUICK = tuple(way for way in WAYS if "compile" not in way)


class Run:
    """One network trained with one option."""

    def __init__(self, name: str, way: str, data: Path, options: argparse.Namespace) -> None:
        config = load_config(Path(__file__).parents[1] / "configs" / f"{CONFIGS[name]}.py")
        if name != "small":
            config.data = ConfigDict({"name": "Arrays", "train": str(data), "levels": 256, "flip": True})
            config.network.update({"channels": options.channels, "blocks": options.blocks})
            config.network.checkpoint = way == "recomputation"
        config.training.update(WAYS[way])
        config.training.batch_size, config.threads, config.device = options.batch_size, options.threads, options.device
        made = Experiment.from_config(config)
        group = Group(0, 1, made.device)
        self.trainer, self.batches, self.seconds = Trainer(made, group), Batches(made, group), []
        self.parameters = sum(p.numel() for p in self.trainer.parameters)
        kept = Activations(self.trainer.parameters)
        started = time.perf_counter()
        with kept:
            self.trainer.update(*self.batches[0])
        self.first, self.activations = time.perf_counter() - started, kept.bytes / 2**20

    def step(self) -> float:
        """Seconds of a step, including reading the batch."""
        started = time.perf_counter()
        batch = self.batches[self.trainer.step]
        self.trainer.update(*batch)  # ends with figures on the host: nothing is left running on a GPU
        return time.perf_counter() - started


def table(options: argparse.Namespace, data: Path) -> str:
    """Rows of medians, one for each network and option."""
    lines = [
        "| network | parameters | way | images/s | against plain | activations, MiB | first, s |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name in options.networks:
        runs = {
            way: Run(name, way, data, options)
            for way in options.ways
            if not (name == "small" and way == "recomputation")
        }
        for number in range(options.rounds + 2):
            for run in runs.values():
                seconds = run.step()
                if number >= 2:
                    run.seconds.append(seconds)
        plain = runs["plain"].seconds if "plain" in runs else None
        for way, run in runs.items():
            ratio = statistics.median(a / b for a, b in zip(plain, run.seconds, strict=True)) if plain else float("nan")
            speed = options.batch_size / statistics.median(run.seconds)
            lines.append(
                f"| {name} | {run.parameters:,} | {way} | {speed:.1f} | {ratio:.2f} | {run.activations:.1f} | {run.first:.1f} |"
            )
            run.batches.__exit__()
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(CONFIGS), default=["DDPM++", "NCSN++"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(QUICK))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npy"
        np.save(data, np.random.Generator(np.random.PCG64(0)).integers(0, 256, (5000, 3, 32, 32), dtype=np.uint8))
        print(table(options, data))


if __name__ == "__main__":
    main()
