"""Measures the memory and time that a run needs, from a few of its steps. Nothing is written.

    weights, gradients, optimizer, averages     bytes of their tensors
    activations                                 bytes that the first step's forward pass saves for its backward pass
    seconds per step                            median of `STEPS` steps after one that is not counted, without previews,
                                                checkpoints and logs; if some objectives are not updated in every step, the
                                                mean of the medians of each kind of step

No work folder is created: the steps are the first ones of a run with initial weights, or with those of another run. A
step with a loss that is not finite ends the dry run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.weight_names import DEFAULT
from scoresde.experiment.folder.initial import read_source
from scoresde.experiment.training.batches import Batches
from scoresde.experiment.training.distributed import Group, processes
from scoresde.experiment.training.loop import describe
from scoresde.experiment.training.metrics_log import peak_memory
from scoresde.experiment.training.prior_fit import check_prior
from scoresde.experiment.training.trainer import Trainer

STEPS = 5
"""Number of measured steps."""


@dataclass(frozen=True)
class DryRunResult:
    """The memory and time that a run needs. Numbers of bytes are for one process.

    Attributes:
        text: What is trained.
        parameters: Number of parameters.
        weights: Bytes of the weights and buffers.
        gradients: Bytes of the gradients.
        optimizer: Bytes of Adam's moments.
        averages: Bytes of the averages.
        activations: Bytes saved for the backward pass.
        peak_memory: Largest memory of the process, including data and libraries.
        steps: Steps of the run.
        seconds: Seconds per step.
    """

    text: str
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    peak_memory: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        lines = [self.text, f"parameters         {self.parameters:>14,}"]
        parts = ("weights", "gradients", "optimizer", "averages", "activations")
        lines += [f"{name:<19}{getattr(self, name) / 2**20:>14,.1f} MiB" for name in parts]
        lines.append(f"{'total':<19}{sum(getattr(self, name) for name in parts) / 2**20:>14,.1f} MiB")
        lines.append(f"{'peak memory':<19}{self.peak_memory / 2**20:>14,.1f} MiB, including data and libraries")
        lines.append(f"{'seconds per step':<19}{self.seconds:>14.4f}")
        lines.append(f"{'hours':<19}{self.seconds * self.steps / 3600:>14.3f} for {self.steps:,} steps")
        return "\n".join(lines)


def dry_run(
    experiment: Experiment,
    *,
    init_from: str | Path | None = None,
    init_weights: str | float = DEFAULT,
    steps: int = STEPS,
) -> DryRunResult | None:
    """Run a few training steps with a copy of the model and measure what they need.

    Args:
        experiment: The experiment.
        init_from: A run or checkpoint whose weights are used, as in `train`.
        init_weights: Which weights of ``init_from``.
        steps: Number of measured steps. One more is run before them.

    Returns:
        The measurements. None on the processes of a launcher other than the first.

    Raises:
        CheckpointError: If the weights of ``init_from`` cannot be read, or do not fit the network or the data.
        FloatingPointError: If a loss or gradient is not finite.
        ValueError: If ``training.sharded`` is set and there are several processes, or ``steps`` is not positive.
    """
    check_count("steps", steps)
    experiment.use_threads()
    check_prior(experiment)
    with processes(experiment) as group:
        if experiment.training.sharded and group.world > 1:
            raise ValueError(
                "--dry-run and training.sharded=True exclude each other, because gathered weights would count as activations"
            )
        copied = experiment.copy()
        if init_from is not None:
            read_source(init_from, init_weights).check_fit(copied.trained(), experiment.data.event_shape)
        needs = _measure(copied, group, steps)
        return needs if group.is_main else None


def _measure(experiment: Experiment, group: Group, steps: int) -> DryRunResult:
    trainer, config = Trainer(experiment, group), experiment.training
    text, seconds = f"dry run, nothing is written: {describe(trainer)}", 0.0
    kept = Activations(trainer.parameters)
    with Batches(experiment, group) as batches:
        with kept:
            _step(trainer, batches)
        gradients = _bytes(p.grad for p in trainer.parameters if p.grad is not None)
        for share, numbers in _kinds_of_step(trainer, steps):
            measured = []
            for trainer.step in numbers:
                before = trainer.seconds
                _step(trainer, batches)
                measured.append(trainer.seconds - before)
            seconds += share * statistics.median(measured)
    state = [v for values in trainer.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return DryRunResult(
        text=text,
        parameters=sum(p.numel() for p in trainer.parameters),
        weights=_bytes(trainer.trained.state_dict().values()),
        gradients=gradients,
        optimizer=_bytes(state),
        averages=sum(_bytes(average.module.state_dict().values()) for average in trainer.averages),
        activations=kept.bytes,
        peak_memory=peak_memory(group.device),
        steps=config.steps,
        seconds=seconds,
    )


def _kinds_of_step(trainer: Trainer, steps: int) -> list[tuple[float, list[int]]]:
    """The kinds of steps, by the objectives that are updated: the share of all steps, and numbers of ``steps`` such steps."""
    every = [part.optimizer.every for part in trainer.parts]
    found: dict[tuple[bool, ...], list[int]] = {}
    period = math.lcm(*every)
    last = period * max(1, -(-steps // period))
    for number in range(1, 1 + min(last, max(steps, trainer.config.steps))):
        found.setdefault(tuple(number % n == 0 for n in every), []).append(number)
    total = sum(map(len, found.values()))
    return [(len(numbers) / total, list(islice(cycle(numbers), steps))) for numbers in found.values()]


def _step(trainer: Trainer, batches: Batches) -> None:
    """Run the next step, after those that float16 skips to adjust its loss scale.

    Raises FloatingPointError if a loss or gradient is not finite; a run would skip the step.
    """
    step = trainer.update(*batches[trainer.step])
    while step.skipped and not step.problem:
        step = trainer.update(*batches[trainer.step])
    if step.problem:
        raise FloatingPointError(f"dry run: {step.problem} at step {step.number}")


class Activations:
    """A context that counts the bytes of tensors that forward passes save for backward passes.

    Args:
        parameters: Tensors that are not counted.

    Attributes:
        bytes: The largest number of bytes at any time. A tensor that is saved twice counts once.
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

    def _pack(self, tensor: Tensor) -> _Saved:
        return _Saved(self, tensor)

    @staticmethod
    def _unpack(kept: _Saved) -> Tensor:
        return kept.tensor

    def count(self, tensor: Tensor, change: int) -> None:
        """Count a tensor that is saved once more (``change=1``) or once less (``change=-1``)."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._own:
            return
        times = self._seen.get(place, 0)
        self._seen[place] = times + change
        if (times == 0) != (times + change == 0):
            self._now += size * change
            self.bytes = max(self.bytes, self._now)


class _Saved:
    """A tensor that is counted until the backward pass releases it."""

    def __init__(self, counter: Activations, tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.count(tensor, 1)

    def __del__(self) -> None:
        self.counter.count(self.tensor, -1)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
