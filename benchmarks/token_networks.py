"""Networks of tokens: the cost of a training step of a transformer, and the bound of digits in 17 levels at equal CPU time.

    python -m benchmarks.token_networks profile
    python -m benchmarks.token_networks untrained
    python -m benchmarks.token_networks digits [--networks NAME ...] [--process NAME] [--seconds S] [--learning-rate R]

``profile`` prints the share of each kind of operation in a step (forward, backward, Adam). ``untrained`` prints the bound
of a constant network on 128 test digits for both kinds of models. ``digits`` trains each network by
``ContinuousBound`` for S seconds of CPU time with a cosine schedule, and prints the bound in bits/dim on the test digits. The
model of the discretized Gaussian process is a ``LeaveOneOutModel``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from scoresde.data import AsTokens, Digits
from scoresde.ema import EMA
from scoresde.jump import (
    Absorbing,
    CategoricalModel,
    ContinuousBound,
    DiscretizedGaussian,
    JumpProcess,
    LeaveOneOutModel,
    NearestNeighbor,
    Uniform,
    jump_bound,
)
from scoresde.networks import MLP, OrdinalNetwork, SmallUNet, TokenTransformer

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("scaled_dot_product",),
    "GELU": ("gelu",),
    "normalization": ("layer_norm",),
    "softmax and loss": ("log_softmax", "nll_loss"),
    "Adam": ("Optimizer", "addcdiv", "lerp", "_foreach", "sqrt"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("profile", "untrained", "digits"))
    parser.add_argument("--networks", nargs="+", choices=DIGITS, default=list(DIGITS))
    parser.add_argument("--process", choices=PROCESSES, default="absorbing")
    parser.add_argument("--seconds", type=float, default=160.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.what == "profile":
        step_shares()
        return
    if options.what == "untrained":
        untrained_bounds()
        return
    process = PROCESSES[options.process]
    for name in options.networks:
        torch.manual_seed(0)
        network, begin = DIGITS[name](process.states), time.process_time()
        average, steps = train_digits(network, process, options.seconds, options.learning_rate)
        seconds, test = time.process_time() - begin, AsTokens(Digits()).test.raw.long()
        bound = jump_bound(process, model_of(average, process), test, draws=96, replicates=1)
        count = sum(p.numel() for p in network.parameters())
        print(f"{name}: {count} parameters, {steps} steps in {seconds:.0f} CPU-s, {bound}", flush=True)


def step_shares(batch: int = 32, length: int = 128) -> None:
    """Print the CPU time of a training step, and the share of each kind of operation."""
    network = TokenTransformer((length,), tokens=256, states=257, width=128, depth=4, heads=4)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x, target = torch.randint(257, (batch, length)), torch.randint(256, (batch, length))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x, torch.rand(batch)).flatten(0, 1), target.flatten()).backward()
        optimizer.step()

    times = []
    for _ in range(7):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
    print(f"{statistics.median(times):.3f} CPU-seconds a step")
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    shares: Counter[str] = Counter()
    for event in seen.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "other")
        shares[kind] += event.self_cpu_time_total
    for kind, total in shares.most_common():
        print(f"{kind:18s} {total / shares.total():.1%}")


class Constant(nn.Module):
    """Equal logits of 17 levels."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape, 17)


def untrained_bounds() -> None:
    """Print the bounds of a constant network."""
    test = AsTokens(Digits()).test.raw.long()[:128]
    for process in (DiscretizedGaussian(17, 1.5), NearestNeighbor(17), Uniform(17)):
        for kind in (CategoricalModel, LeaveOneOutModel):
            bound = jump_bound(process, kind(Constant(), process), test, replicates=1)
            print(type(process).__name__, kind.__name__, bound)


def levels_by(body: type[nn.Module], states: int, **arguments: int) -> OrdinalNetwork:
    """A network of the 17 levels of 8 x 8 pixels."""
    return OrdinalNetwork((1, 8, 8), tokens=17, states=states, body=partial(body, **arguments))


def sequence(states: int, **arguments: int) -> TokenTransformer:
    """A transformer of the same pixels."""
    return TokenTransformer((1, 8, 8), tokens=17, states=states, learned_positions=True, **arguments)


PROCESSES: dict[str, JumpProcess] = {"absorbing": Absorbing(17), "gaussian": DiscretizedGaussian(17, 1.5)}
DIGITS = {
    "SmallUNet": lambda states: levels_by(SmallUNet, states, channels=24, blocks=2),
    "MLP": lambda states: levels_by(MLP, states, width=384, depth=3),
    "TokenTransformer": lambda states: sequence(states, width=64, depth=4, heads=4),
}


def model_of(network: nn.Module, process: JumpProcess) -> CategoricalModel | LeaveOneOutModel:
    """The model of a network."""
    return (CategoricalModel if process.carries_over else LeaveOneOutModel)(network, process)


def train_digits(
    network: nn.Module, process: JumpProcess, budget: float, learning_rate: float, batch: int = 64
) -> tuple[nn.Module, int]:
    """The average of the weights after training for ``budget`` seconds of CPU time, and the number of steps."""
    data = AsTokens(Digits()).train.raw.long()
    model, objective, average = model_of(network, process), ContinuousBound(process), EMA(network, 0.998)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, betas=(0.9, 0.99))
    generator, begin, step = torch.Generator().manual_seed(1), time.process_time(), 0
    while (used := (time.process_time() - begin) / budget) < 1.0:
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / 50) * math.cos(math.pi / 2 * used) ** 2
        rows = torch.randint(len(data), (batch,), generator=generator)
        loss = objective(model, data[rows], step=step).mean() / 64
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update(network)
        step += 1
    return average.module, step


if __name__ == "__main__":
    main()
