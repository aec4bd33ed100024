"""Batches whose loss or gradient was not finite, saved for inspection.

    bad_batches/step-000000005.safetensors     position, x (B, *event), condition.NAME, and t and loss (B,) of the objective
                                               header: step and problem

Nothing was updated in such a step. The last `MAX_FILES` files are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.data.dataset import Batch
from scoresde.experiment.folder.tensor_file import FORMAT, write_tensors
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.trainer import Step

MAX_FILES = 16
"""Number of files that are kept."""


def save_bad_batch(workdir: Workdir, group: Group, step: Step, batch: Batch, batch_size: int) -> str:
    """Write the batch of a step, gathered from all processes, and return a line about it.

    ``batch`` is this process's part.
    """

    def whole(values: Tensor) -> Tensor:
        return group.gather(values.to(group.device), batch_size).cpu()

    shown = step.shown
    position, t, loss, x = (whole(values) for values in (step.position, shown.t, shown.values, batch.x))
    condition = {f"condition.{name}": whole(rows) for name, rows in batch.condition.items()}
    bad = ~torch.isfinite(loss)
    bad = bad if bool(bad.any()) else torch.ones_like(bad)
    name = f"step-{step.number:09d}.safetensors"
    if group.is_main:
        header = {"format": FORMAT, "step": step.number, "problem": step.problem}
        write_tensors(
            workdir.bad_batches / name, {"position": position, "t": t, "loss": loss, "x": x, **condition}, header
        )
        for old in sorted(workdir.bad_batches.glob("step-*.safetensors"))[:-MAX_FILES]:
            old.unlink()
    where, times = position[bad].tolist(), t[bad]
    some = ", ".join(map(str, where[:8])) + (", ..." if len(where) > 8 else "")
    return (
        f"{step.problem} at step {step.number}, t in [{float(times.min()):g}, {float(times.max()):g}], positions [{some}]: "
        f"nothing was updated, the batch is saved in {workdir.bad_batches.name}/{name}"
    )
