"""The memory and time that a suggested plan needs on this machine, measured as `scoresde train --dry-run` does.

A first step with a few events tells how much a whole batch would need. A batch whose activations do not fit into the free
memory is divided into micro-batches. A step that would take too long is measured with fewer events and scaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.limits import is_out_of_memory, machine_memory
from scoresde.experiment.training.dry_run import STEPS, DryRunResult, dry_run

PROBED, PROBED_NUMBERS = 4, 2**17
"""Largest number of events of the first step, and largest number of values in them; at least one event."""
PATIENCE = 30.0
"""Seconds that a measurement may take."""
USABLE = 0.5
"""Part of the free memory that a plan may use."""
COPIES = 2
"""Copies of the weights during a measurement: of the experiment, and of the dry run."""


@dataclass(frozen=True)
class Cost:
    """What a plan needs.

    Attributes:
        device: Where it was measured.
        parameters: Number of parameters.
        weights: Bytes of the weights.
        training: Bytes of weights, gradients, Adam's moments and averages.
        micro_batch: Events that fit into memory at a time; 0 for the whole batch.
        activations: Bytes of the activations of these events. None if nothing was measured.
        seconds: Seconds per step. None if nothing was measured.
        events: Number of events of the measured step.
        why: Why nothing was measured.
    """

    device: str
    parameters: int
    weights: int
    training: int
    micro_batch: int = 0
    activations: int | None = None
    seconds: float | None = None
    events: int = 0
    why: str = ""


def measure(experiment: Experiment, patience: float = PATIENCE) -> Cost:
    """Measure a few steps of an experiment.

    Args:
        experiment: The experiment.
        patience: Seconds that the measurement may take, about.

    Returns:
        The cost. It has no seconds if the network does not fit into the free memory.
    """
    cost = weight_cost(experiment)
    free = free_memory(experiment.device)
    if cost.training + COPIES * cost.weights > free:
        return replace(cost, why=f"training needs more than the free memory, {as_bytes(free)}")
    try:
        return _measured(experiment, cost, free, patience)
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        return replace(cost, why=f"a step of a few events needs more than the free memory, {as_bytes(free)}")


def weight_cost(experiment: Experiment) -> Cost:
    """The part of the cost that is known without a measurement."""
    modules, config = experiment.trained(), experiment.training
    weights = sum(t.numel() * t.element_size() for t in modules.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in modules.parameters())
    averages = len(config.decays) + len(config.posthoc_widths)
    device = f"{experiment.device.type}"
    if experiment.device.type == "cpu":
        threads = experiment.threads or torch.get_num_threads()
        device += f", {threads} thread{'s' if threads > 1 else ''}"
    count = sum(p.numel() for p in modules.parameters())
    return Cost(device, count, weights, weights + 3 * trained + averages * weights)


def _measured(experiment: Experiment, cost: Cost, free: int, patience: float) -> Cost:
    batch = experiment.training.batch_size
    size = math.prod(experiment.data.event_shape)
    few = max(1, min(PROBED, batch, PROBED_NUMBERS // size))
    found = _run(experiment, few, 0, 1)
    per_event = found.activations / few
    micro = _micro_batch(batch, per_event, USABLE * free - cost.training)
    events, expected = batch, found.seconds * batch / few
    while events > few and 2 * expected * events / batch > patience:
        events //= 2
    if events > few or events == batch:
        steps = STEPS if (1 + STEPS) * expected <= patience else 1
        found = _run(experiment, events, micro if micro < events else 0, steps)
    return replace(
        cost, micro_batch=micro if micro < batch else 0, activations=round(per_event * min(micro, batch)),
        seconds=found.seconds * batch / max(events, few), events=max(events, few),
    )  # fmt: skip


def _run(experiment: Experiment, batch: int, micro_batch: int, steps: int) -> DryRunResult:
    changes: dict[str, Any] = {"batch_size": batch, "micro_batch": micro_batch}
    found = dry_run(replace(experiment, training=replace(experiment.training, **changes)), steps=steps)
    assert found is not None  # a single process
    return found


def _micro_batch(batch: int, per_event: float, free: float) -> int:
    """The largest power of two of events that fit, or the batch."""
    micro = batch
    while micro > 1 and micro * per_event > free:
        micro = 1 << (micro.bit_length() - 2 if micro & (micro - 1) == 0 else micro.bit_length() - 1)
    return micro


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free on a device. On a CPU the limit of the control group counts as well."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [machine_memory()]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            found.append(max(0, int(limit) - int(used)))
    except (OSError, ValueError, IndexError):
        pass
    return min(found)


def as_bytes(count: float) -> str:
    """A number of bytes in MiB or GiB."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def as_time(seconds: float) -> str:
    """A time with its unit."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"
