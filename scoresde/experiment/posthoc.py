"""Averages of any width, made after the run from snapshots of a few (scoresde/ema.py has the mathematics).

averages/step-000001000.safetensors     power0.*, power1.*: the averages of ``training.posthoc``; in the header updates and widths

weights = posthoc(Workdir("runs/x"), std=0.08)
network.load_state_dict(weights)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.ema import EMA, PowerEMA, posthoc_coefficients
from scoresde.experiment.checkpoint import FORMAT, CheckpointError, Files, list_checkpoints, read_tensors
from scoresde.experiment.workdir import Workdir


def snapshot(workdir: Workdir, averages: Sequence[EMA], step: int, files: Files) -> None:
    """Write the power-function averages of a step; nothing where there are none."""
    kept = [average for average in averages if isinstance(average, PowerEMA)]
    if not kept:
        return
    tensors = {f"power{n}.{k}": v for n, a in enumerate(kept) for k, v in a.module.state_dict().items()}
    header = {"format": FORMAT, "step": step, "updates": kept[0].updates, "stds": [a.std for a in kept]}
    files.write(workdir.averages / f"step-{step:09d}.safetensors", tensors, header)


def posthoc(workdir: Workdir, std: float, updates: int | None = None) -> dict[str, Tensor]:
    """The network's state averaged with a power function of relative width ``std``; buffers are those of the last snapshot.

    updates: where the run is taken to have ended; the last snapshot unless given.

    Raises CheckpointError where there are no snapshots up to there, or a torn one.
    """
    stored: list[tuple[float, float]] = []
    parts: list[dict[str, Tensor]] = []
    for file in list_checkpoints(workdir.averages):
        tensors, header = read_tensors(file)
        if updates is None or header["updates"] <= updates:
            for number, width in enumerate(header["stds"]):
                prefix = f"power{number}."
                stored.append((float(header["updates"]), float(width)))
                parts.append({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    if not stored:
        raise CheckpointError(
            f"no snapshots in {workdir.averages}{'' if updates is None else f' up to update {updates}'}: train with "
            "--config.training.posthoc='[0.05, 0.1]'"
        )
    weights = posthoc_coefficients(stored, stored[-1][0] if updates is None else updates, std)
    made = {}
    for name, last in parts[-1].items():
        if last.is_floating_point():
            total = torch.zeros_like(last, dtype=torch.float64)
            for weight, part in zip(weights.tolist(), parts, strict=True):
                total += weight * part[name].double()
            made[name] = total.to(last.dtype)
        else:
            made[name] = last
    return made
