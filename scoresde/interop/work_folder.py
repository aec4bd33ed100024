"""Work folders of converted checkpoints.

A folder is created atomically: it is written to a temporary place next to its final one, read, compared with the source, and then
renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from scoresde.ema import EMA
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.checkpoint import save_checkpoint
from scoresde.experiment.folder.workdir import Workdir, WorkdirError, config_digest


def free_folder(folder: str | Path) -> Path:
    """The folder, if it is new or empty. Raises WorkdirError otherwise."""
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise WorkdirError(f"--workdir {place} is in use: give a new or empty folder")
    return place


def write_folder(
    place: Path,
    experiment: Experiment,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    step: int,
    compare: Callable[[Path], dict[str, str]],
) -> dict[str, str]:
    """Create the folder atomically, after ``compare`` has read the checkpoint. Returns the digests of ``compare``."""
    there = next(parent for parent in place.absolute().parents if parent.exists())
    making, network = there / f".{place.name}.{os.getpid()}.tmp", experiment.model.network
    try:
        workdir = Workdir(making)
        workdir.claim(experiment, data=False)
        path = save_checkpoint(workdir.checkpoints, network, ema, optimizer, step, config_digest(experiment), 1)
        digests = compare(path)
        if place.exists():
            place.rmdir()
        place.parent.mkdir(parents=True, exist_ok=True)
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return digests


def logged(place: Path, summary: str) -> str:
    """The summary, which is also written to the log of the folder."""
    with open(Workdir(place).log_file, "a") as log:
        log.write(summary + "\n")
    return summary


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hex digits of the SHA-256 of names, shapes and values, in the order given."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
