"""Does it matter whether the biases of SmallUNet's zero-started layers start at zero?

    python benchmarks/zero_start.py                 two predictions, two seeds, two starts, interleaved

The weights of the last layer, and of the last layer of every branch, start at zero. Their biases are drawn from U(-b, b),
b = 1 / sqrt(fan in) ("drawn", as in SmallUNet), or start at zero ("zero", as in DDPM and in Dhariwal & Nichol 2021). The script
trains the network of configs/vp/digits.py in both ways with the same batches, times and noise, and prints the loss on the
held-out digits after 0, 10, 100 and ``--steps`` steps, for 16 draws of time and noise for each digit.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import nn

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.config.sections import learning_rate

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 16


def experiment_of(prediction: str, seed: int, steps: int) -> Experiment:
    """configs/vp/digits.py with a seed, a number of steps, and a prediction."""
    content = load_config(ROOT / "configs" / "vp" / "digits.py").to_dict()
    content["seed"] = seed
    content["training"] |= {"steps": steps, "warmup": 20}
    if prediction == "noise":
        content["model"]["prediction"] = "noise"
        content["objective"]["weighting"] = "variance"
    return Experiment.from_config(ConfigDict(content))


def draw_biases(network: nn.Module, seed: int) -> None:
    """Draw the biases of the layers whose weights are zero from PyTorch's default distribution."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            bound = 1.0 / math.sqrt(layer.weight[0].numel())
            with torch.no_grad():
                layer.bias.uniform_(-bound, bound, generator=generator)


class Run:
    """One training run, which advances by some steps at a time."""

    def __init__(self, prediction: str, start: str, seed: int, steps: int) -> None:
        self.experiment = experiment_of(prediction, seed, steps)
        self.model, self.plan, self.done = self.experiment.model.train(), self.experiment.training, 0
        for layer in self.model.network.modules():
            if isinstance(layer, nn.Conv2d) and not layer.weight.any():
                nn.init.zeros_(layer.bias)
        if start == "drawn":
            draw_biases(self.model.network, seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.9, self.plan.beta2))

    def advance(self, until: int) -> float:
        """Train until step ``until``. Returns the loss on the held-out digits."""
        data, size = self.experiment.data.train, self.plan.batch_size
        while self.done < until:
            x0, place = data.batch(self.done, size, seed=self.experiment.seed)
            loss = self.experiment.objective(self.model, x0, step=self.done, indices=place).mean()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.plan, self.done)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.done += 1
        return self.held_out()

    @torch.no_grad()
    def held_out(self) -> float:
        self.model.eval()
        x0 = self.experiment.data.test.encode(slice(None), seed=0)
        losses = [float(self.experiment.objective(self.model, x0, step=2**20 + k).mean()) for k in range(DRAWS)]
        self.model.train()
        return sum(losses) / DRAWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--predictions", nargs="+", default=["noise", "levels"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    marks = [0, 10, 100, options.steps]
    print("prediction  seed  start " + "".join(f"{f'step {mark}':>11}" for mark in marks))
    for prediction in options.predictions:
        for seed in options.seeds:
            runs = {start: Run(prediction, start, seed, options.steps) for start in ("drawn", "zero")}
            rows = {start: [] for start in runs}
            for mark in marks:
                for start, run in runs.items():
                    rows[start].append(run.advance(mark))
            for start, row in rows.items():
                print(f"{prediction:10}  {seed:4}  {start:5} " + "".join(f"{value:11.5f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
