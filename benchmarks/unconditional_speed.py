"""Time and results of unconditional digits in two checkouts of this repository.

    git worktree add --detach ../before c72da0b
    python benchmarks/unconditional_speed.py ../before . --rounds 40

A process in each folder imports the package of that folder, with one thread. The two take turns: in a round each of them
runs the same operation, in an order that alternates from round to round, so that other load on the machine affects both.
Times are processor times. A ratio is that of the second folder to the first in the same round; the table has the median over
rounds, its standard error, and the quartiles of single rounds.

The operations are a training step of configs/vp/digits.py, a step of the predictor-corrector sampler (one predictor and one
corrector step) and a node of a likelihood's multistep method. The lines "small" have a network with 8 channels and batches
of 8, where the library's own code takes a larger share. The calls are those of Python functions and built-in functions in one
operation. They do not depend on other load.

Before that, both train 5 steps, draw samples and compute likelihoods. The last lines say whether the weights, the
averages, the samples and the likelihoods are equal bit for bit. The exit code is 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, dict[str, str]] = {
    "digits": {},
    "small": {"network.channels": "8", "network.blocks": "1", "training.batch_size": "8"},
}
OPERATIONS = ("training step", "sampler step", "likelihood node")
ROWS = {"digits": 16, "small": 8}
"""Number of samples, and of events of a likelihood."""
SAMPLER_STEPS = {"digits": 2, "small": 5}
NODES = {"digits": 4, "small": 6}


class Operations:
    """The operations of one size, in this process."""

    def __init__(self, size: str) -> None:
        import torch

        from scoresde.experiment import Experiment, load_config
        from scoresde.experiment.config.loader import apply_overrides
        from scoresde.experiment.training.distributed import Group
        from scoresde.experiment.training.trainer import Trainer

        torch.set_num_threads(1)
        config = load_config(Path("configs/vp/digits.py"))
        apply_overrides(config, {"device": "cpu", **SIZES[size]})
        self.size, self.made = size, Experiment.from_config(config)
        self.trainer = Trainer(self.made, Group(0, 1, self.made.device))

    def train(self) -> None:
        """One training step, with its batch."""
        made, step = self.made, self.trainer.step
        self.trainer.model.train()
        self.trainer.update(*made.data.train.batch(step, made.training.batch_size, seed=made.seed))

    def sample(self) -> Any:
        """Samples of a few steps."""
        from scoresde.samplers import PredictorCorrector

        model = self.trainer.model.eval()
        shape = (ROWS[self.size], *self.made.data.event_shape)
        return PredictorCorrector(steps=SAMPLER_STEPS[self.size])(self.made.sde, model, shape, seed=0).samples

    def likelihood(self) -> Any:
        """Log-likelihoods by a few ODE steps."""
        import torch

        from scoresde.likelihood import Multistep, log_likelihood

        model, index = self.trainer.model.eval(), torch.arange(ROWS[self.size])
        x = self.made.data.test.encode(index, seed=0)
        return log_likelihood(self.made.sde, model, x, solver=Multistep(nodes=NODES[self.size])).log_prob

    def bits(self) -> dict[str, str]:
        """SHA-256 of everything that 5 steps, samples and likelihoods give."""
        for _ in range(5):
            self.train()
        trainer = self.trainer
        states = {"weights": trainer.model.network, "averages": trainer.averages[0].module}
        found = {name: digest(list(module.state_dict().values())) for name, module in states.items()}
        return found | {"samples": digest([self.sample()]), "log-likelihoods": digest([self.likelihood()])}

    def seconds(self, operation: str) -> float:
        """Processor time of one step of an operation."""
        call = self._call(operation)
        steps = {"training step": 1, "sampler step": SAMPLER_STEPS[self.size]}.get(operation, NODES[self.size])
        started = time.process_time()
        call()
        return (time.process_time() - started) / steps

    def calls(self, operation: str) -> int:
        """Number of function calls of an operation."""
        count = 0

        def add(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        call = self._call(operation)
        sys.setprofile(add)
        try:
            call()
        finally:
            sys.setprofile(None)
        return count

    def _call(self, operation: str) -> Callable[[], Any]:
        return {"training step": self.train, "sampler step": self.sample}.get(operation, self.likelihood)


def digest(tensors: list[Any]) -> str:
    """SHA-256 of the values of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def answer() -> None:
    """Answer the requests of the other process, one per line."""
    operations: dict[str, Operations] = {}
    for line in sys.stdin:
        size, operation, what = json.loads(line)
        if size not in operations:
            operations[size] = Operations(size)
        found = operations[size].bits() if what == "bits" else getattr(operations[size], what)(operation)
        print(json.dumps(found), flush=True)


class Checkout:
    """A process with the package of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        call = [sys.executable, str(Path(__file__).resolve()), "--answer"]
        self.process = subprocess.Popen(
            call, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, size: str, operation: str, what: str) -> Any:
        """The answer: "bits", "seconds" or "calls" of an operation."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([size, operation, what]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.folder}: the process has ended, see its message above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(pair: list[Checkout], size: str, operation: str, rounds: int) -> str:
    """A line of the table."""
    seconds = np.empty((rounds, 2))
    for number in range(-2, rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found = pair[which](size, operation, "seconds")
            if number >= 0:  # the first rounds warm up
                seconds[number, which] = found
    ratio = seconds[:, 1] / seconds[:, 0]
    draws = np.random.default_rng(0).choice(ratio, (2000, rounds))
    low, high = np.quantile(ratio, [0.25, 0.75])
    first, second = 1e3 * np.median(seconds, axis=0)
    calls = " -> ".join(f"{checkout(size, operation, 'calls'):,}" for checkout in pair)
    return (
        f"| {size} | {operation} | {first:.2f} | {second:.2f} | {np.median(ratio):.3f} +- "
        f"{np.median(draws, axis=1).std():.3f} | {low:.2f} to {high:.2f} | {calls} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer()
        return 0
    if given.before is None or given.after is None:
        parser.error("give two folders")
    pair = [Checkout(given.before.resolve()), Checkout(given.after.resolve())]
    bits = {size: [checkout(size, "", "bits") for checkout in pair] for size in given.sizes}
    print("| network | operation | first, ms | second, ms | ratio | quartiles of a round | calls |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for size in given.sizes:
        for operation in given.operations:
            print(compare(pair, size, operation, given.rounds), flush=True)
    for checkout in pair:
        checkout.close()
    equal = True
    for size, (first, second) in bits.items():
        for name in first:
            equal &= first[name] == second[name]
            print(f"{size}, {name}: {'equal' if first[name] == second[name] else 'different'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
