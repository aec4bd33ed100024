"""Time of a training step, and memory and time of a sampling step, of jump processes.

    python -m benchmarks.jump_speed training [--rounds N]
    python -m benchmarks.jump_speed sampling [--tokens K] [--length L] [--batch B]
    python -m benchmarks.jump_speed times

``training`` compares a step of ``ContinuousBound`` with the same step whose loss is the plain cross-entropy of the same
network at the same x_t. A step is the draw, the network, the loss and its gradient; the plain one has no draw. Both take
turns. Times are medians of processor time, and the ratio is the median of the ratios of all pairs, with its quartiles.

``sampling`` prints the largest memory that a step holds at one time, in units of the logits: of all tensors that
operations of torch return, by ``PeakMemory``, and of the process, by the kernel. It includes the logits themselves.

``times`` compares the variance of the loss at uniform times and with ``AdaptiveTimes``, for the exact model of a chain of 32
bits. Four batches of 4096 make the history, and another one is measured.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from scoresde import VPSDE
from scoresde.jump import (
    Absorbing,
    AdaptiveTimes,
    AncestralSampler,
    CategoricalModel,
    ContinuousBound,
    CosineKeep,
    DiscretizedGaussian,
    FirstHitting,
    JumpProcess,
    MarkovChain,
    MaskAndReplace,
    NearestNeighbor,
    PolynomialKeep,
    TauLeaping,
    Uniform,
)
from scoresde.jump.states import cross_entropy
from scoresde.networks import TokenTransformer


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive and that operations within the context returned.

    Attributes:
        live: Bytes at the moment.
        peak: The largest number so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage not in self._known:
                    self._known[storage] = None
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, size: int) -> None:
        self.live -= size


class AnyLogits(nn.Module):
    """A network that returns new logits, the same for all coordinates."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        logits = torch.empty(*x.shape, self.tokens)
        return logits.copy_(torch.linspace(0.0, 3.0, self.tokens))


def sampling(options: argparse.Namespace) -> None:
    size = 4 * options.batch * options.length * options.tokens
    print(f"logits: {size / 2**20:.0f} MiB")
    for process in (Absorbing(options.tokens), Uniform(options.tokens), MaskAndReplace(options.tokens, 0.1)):
        model = CategoricalModel(AnyLogits(options.tokens), process)
        for sampler in (AncestralSampler(2), TauLeaping(3), FirstHitting()):
            if isinstance(sampler, FirstHitting) and not process.carries_over:
                continue
            start = process.prior_sample((options.batch, options.length))
            if isinstance(sampler, FirstHitting):  # two tokens are left
                start[:, 2:] = 0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            begin = time.process_time()
            with PeakMemory() as memory:
                steps = sampler(process, model, tuple(start.shape), start=start).nfe
            spent = (time.process_time() - begin) / steps
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            print(
                f"{type(process).__name__:15s} {type(sampler).__name__:17s} {memory.peak / size:5.2f} logits, "
                f"process +{max(0.0, more / size):5.2f}, {spent:6.2f} s a step"
            )


def _seconds(network: nn.Module, call: Callable[[], Tensor]) -> float:
    network.zero_grad(set_to_none=True)  # a gradient that is there already would be added to
    begin = time.process_time()
    call().mean().backward()
    return time.process_time() - begin


def _case(name: str, process: JumpProcess, network: nn.Module, x0: Tensor, rounds: int) -> None:
    model, objective = CategoricalModel(network, process), ContinuousBound(process)
    plain, bound, draws = list[float](), list[float](), list[float]()
    for step in range(rounds + 1):
        begin = time.process_time()
        draw = objective.draw(x0, step=step + 1000)
        drawn = time.process_time() - begin
        pair = (
            _seconds(network, lambda draw=draw: cross_entropy(network(draw.x, draw.t.float()), draw.x0)),
            _seconds(network, lambda step=step: objective(model, x0, step=step)),
        )
        if step:
            plain.append(pair[0])
            bound.append(pair[1])
            draws.append(drawn)
    ratios = sorted(b / p for b, p in zip(bound, plain, strict=True))
    low, middle, high = ratios[len(ratios) // 4], statistics.median(ratios), ratios[-1 - len(ratios) // 4]
    times = [
        f"{key} {1e3 * statistics.median(v):7.1f} ms"
        for key, v in (("plain", plain), ("bound", bound), ("draw", draws))
    ]
    print(f"{name:48s}", *times, f"ratio {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


def training(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    for tokens, length, batch, width, depth in (
        (27, 64, 16, 128, 4),
        (17, 64, 16, 128, 4),
        (256, 64, 16, 128, 4),
        (50_000, 32, 2, 256, 2),
        (50_000, 32, 2, 512, 4),
    ):
        x0 = torch.randint(tokens, (batch, length))
        processes: list[JumpProcess] = [Absorbing(tokens), Uniform(tokens), MaskAndReplace(tokens, 0.1)]
        if tokens in (17, 256):
            processes = [Absorbing(tokens), NearestNeighbor(tokens), DiscretizedGaussian(tokens)]
        for process in processes:
            if options.only and type(process).__name__ not in options.only:
                continue
            network = TokenTransformer((length,), tokens, process.states, width=width, depth=depth)
            _case(
                f"{type(process).__name__}({tokens}) {batch} x {length} width {width}",
                process,
                network,
                x0,
                options.rounds,
            )


def times() -> None:
    chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    x0, new = chain.sample(4096, 32), chain.sample(4096, 32, seed=1)
    linear, cosine, cubic, noise = PolynomialKeep(), CosineKeep(), PolynomialKeep(3.0), VPSDE()
    for process in (
        Absorbing(2, linear),
        Absorbing(2, cosine),
        Absorbing(2, cubic),
        Uniform(2, linear),
        Uniform(2, noise),
    ):
        model, adaptive = chain.model(process), ContinuousBound(process, adaptive=AdaptiveTimes(16, 500))
        for step in range(4):
            draw = adaptive.draw(x0, step=step)
            adaptive.observe(draw.t, adaptive.evaluate(model, draw))
        before, after = ContinuousBound(process)(model, new, step=9), adaptive(model, new, step=9)
        print(
            f"{process!r:75s} mean {float(before.mean()):.2f} and {float(after.mean()):.2f}, variance {float(before.var()):.0f} "
            f"and {float(after.var()):.0f}, ratio {float(before.var() / after.var()):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("training", "sampling", "times"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=())
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "times":
        times()
    else:
        training(options) if options.part == "training" else sampling(options)


if __name__ == "__main__":
    main()
