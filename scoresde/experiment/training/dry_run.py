"""What a run will need, measured by a few of its steps; nothing is written.

    weights, gradients, optimizer, averages     bytes of their tensors
    activations                                 bytes that the first step's forward pass leaves for its backward pass
    seconds per step                            median of `STEPS` steps after one that is not counted; pictures, saving and
                                                logging come on top

A folder is neither read nor made: the steps are the first ones of a run with fresh weights. One that goes wrong ends it.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.training.batches import Batches
from scoresde.experiment.training.distributed import Group, processes
from scoresde.experiment.training.loop import describe
from scoresde.experiment.training.metrics_log import memory
from scoresde.experiment.training.prior_fit import check_prior
from scoresde.experiment.training.trainer import Trainer

STEPS = 5


@dataclass(frozen=True)
class DryRunResult:
    """What was found. Numbers of bytes are of one process; ``most`` is all that it held at once, data and libraries included.

    text: what is trained. steps: of the run. seconds: of one of them.
    """

    text: str
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    most: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        lines = [self.text, f"parameters         {self.parameters:>14,}"]
        parts = ("weights", "gradients", "optimizer", "averages", "activations")
        lines += [f"{name:<19}{getattr(self, name) / 2**20:>14,.1f} MiB" for name in parts]
        lines.append(f"{'together':<19}{sum(getattr(self, name) for name in parts) / 2**20:>14,.1f} MiB")
        lines.append(f"{'most at once':<19}{self.most / 2**20:>14,.1f} MiB, with the data and what torch itself holds")
        lines.append(f"{'seconds per step':<19}{self.seconds:>14.4f}")
        lines.append(f"{'hours':<19}{self.seconds * self.steps / 3600:>14.3f} for {self.steps:,} steps")
        return "\n".join(lines)


def dry_run(experiment: Experiment) -> DryRunResult | None:
    """Take a few steps with a copy of the model and say what they needed; None in a launcher's process that is not the first."""
    experiment.use_threads()
    check_prior(experiment)
    with processes(experiment) as group:
        if experiment.training.sharded and group.world > 1:
            raise ValueError(
                "--dry-run and training.sharded=True exclude each other: gathered weights would count as activations"
            )
        needs = _measure(replace(experiment, model=copy.deepcopy(experiment.model)), group)
        return needs if group.is_main else None


def _measure(experiment: Experiment, group: Group) -> DryRunResult:
    trainer, plan = Trainer(experiment, group), experiment.training
    text, seconds = f"dry run, nothing is written: {describe(trainer)}", []
    kept = Activations(trainer.parameters)
    with Batches(experiment, group) as batches:
        with kept:
            _step(trainer, batches)
        gradients = _bytes(p.grad for p in trainer.parameters if p.grad is not None)
        for _ in range(STEPS):
            before = trainer.seconds
            _step(trainer, batches)
            seconds.append(trainer.seconds - before)
    state = [v for values in trainer.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return DryRunResult(
        text=text,
        parameters=sum(p.numel() for p in trainer.parameters),
        weights=_bytes(trainer.network.state_dict().values()),
        gradients=gradients,
        optimizer=_bytes(state),
        averages=sum(_bytes(average.module.state_dict().values()) for average in trainer.averages),
        activations=kept.bytes,
        most=memory(group.device),
        steps=plan.steps,
        seconds=statistics.median(seconds),
    )


def _step(trainer: Trainer, batches: Batches) -> None:
    """The next step, after those that float16 skips while its scale is sought. Raises FloatingPointError where a loss or gradient
    is not finite: the run would skip it."""
    step = trainer.update(*batches[trainer.step])
    while step.skipped and not step.problem:
        step = trainer.update(*batches[trainer.step])
    if step.problem:
        raise FloatingPointError(f"dry run: {step.problem} at step {step.number}")


class Activations:
    """Inside, counts the bytes of tensors that forward passes keep for backward ones, and holds on to the most at any time.

    parameters: not counted. A tensor that is kept twice counts once.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.bytes, self._now = 0, 0
        self._seen: dict[int, int] = {}
        self._own = {p.untyped_storage().data_ptr() for p in parameters}
        self._hooks: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *given: object) -> None:
        self._hooks.__exit__(*given)  # type: ignore[arg-type]

    def _pack(self, tensor: Tensor) -> _Kept:
        return _Kept(self, tensor)

    @staticmethod
    def _unpack(kept: _Kept) -> Tensor:
        return kept.tensor

    def count(self, tensor: Tensor, change: int) -> None:
        """A tensor is kept once more, or once less."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._own:
            return
        times = self._seen.get(place, 0)
        self._seen[place] = times + change
        if (times == 0) != (times + change == 0):
            self._now += size * change
            self.bytes = max(self.bytes, self._now)


class _Kept:
    """A tensor for as long as the backward pass may ask for it."""

    def __init__(self, counter: Activations, tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.count(tensor, 1)

    def __del__(self) -> None:
        self.counter.count(self.tensor, -1)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
