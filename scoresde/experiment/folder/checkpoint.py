"""Checkpoints: one safetensors file each, tensors and JSON, written so that a torn one never has the name of a whole one.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

    step-000001000.safetensors      whole tensors; written by one process
    step-000001000/                 rank-00000.safetensors, ... and index.json; written by all processes of a sharded run

Of a folder, a tensor is what the files have under its name, one below the other in the order of the ranks; what every process has
alike (buffers, counts) is in the first alone. index.json has the header that a single file has, and the checksum of each file.

Names in the file: ``model.*`` (network weights and buffers), ``ema.*``, ``ema1.*``, ... (averages, in the order of the config)
and ``optimizer.<parameter>.<state>``. The header's JSON has format version, step, EMA updates, the digest of the config that they
belong to, and facts of the run; and a SHA-256 of itself and of every tensor's name, shape, type and bytes, so that a flipped bit
is seen. Format 1, without it, is read too. Nothing in a file is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scoresde.ema import EMA
from scoresde.experiment.config.weight_names import average_name
from scoresde.experiment.folder.cache import file_digest
from scoresde.experiment.folder.header import WITHOUT_MOMENTS, checked_facts, shortened, whole_number, without_moments
from scoresde.experiment.folder.tensor_file import (
    FORMAT,
    INDEX,
    CheckpointError,
    check_finite,
    read_tensors,
    shard_like,
    write_tensors,
)
from scoresde.experiment.folder.tree import remove

_NAME = re.compile(r"step-(\d{9})(\.safetensors)?")


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name, and the header's JSON. facts: what the run itself put there. made_of: a digest of the files that tensors
    were made of, where they are those of no single one.
    without_moments: names of parameters without moments; None where not known."""

    tensors: dict[str, Tensor]
    step: int
    ema_updates: int
    config_digest: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    made_of: str = ""
    without_moments: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """16 hex digits that are others where any tensor is another."""
        return self.made_of or file_digest(self.seal)

    def said(self, which: str) -> str:
        """A few words on its weights of a name; of an average made of snapshots, how near it is to the one that is meant."""
        if not self.made_of:
            return f"weights {which} of {self.path.name}"
        count, off = self.facts["snapshots"], self.facts["off"]
        return f"weights {which} of {count} snapshots (profile off by {off:.2g} of its norm)"

    @property
    def seal(self) -> Path:
        """The file whose bytes say what all of it is."""
        return self.path / INDEX if self.path.is_dir() else self.path


class Files(Protocol):
    """How the processes of a run write."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
        """Write what `read_tensors` reads; where it lies."""

    def on_all(self, action: Callable[[], object]) -> None:
        """Each process that writes acts; all refuse where one does."""

    def on_main(self, action: Callable[[], object]) -> None:
        """One process acts, and the others wait."""


class OneFile:
    """One process writes one file."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
        """`write_tensors`."""
        write_tensors(path, tensors, header)
        return path

    def on_all(self, action: Callable[[], object]) -> None:
        """Act."""
        action()

    on_main = on_all


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    averages: EMA | Sequence[EMA],
    optimizer: torch.optim.Optimizer,
    step: int,
    digest: str,
    keep: int,
    *,
    keep_every: int = 0,
    facts: Mapping[str, Any] | None = None,
    files: Files | None = None,
) -> Path:
    """Write the checkpoint of ``step`` and remove all but the last ``keep`` and, where it is not 0, those of every
    ``keep_every`` steps.

    averages: the one that samples are drawn with first. facts: plain JSON for the header. files: who writes; this process alone
    unless given. Raises CheckpointError for non-finite weights, OSError where they cannot be written: earlier checkpoints stay.
    """
    averages, files = [averages] if isinstance(averages, EMA) else list(averages), files or OneFile()
    tensors = _state(network, averages, optimizer)
    files.on_all(lambda: check_finite(tensors, step))
    header = {
        "format": FORMAT, "step": step, "ema_updates": averages[0].updates, "ema_decay": averages[0].decay, "config": digest,
        WITHOUT_MOMENTS: [n for n, p in network.named_parameters() if p.requires_grad and not optimizer.state.get(p)],
        "facts": dict(facts or {}),
    }  # fmt: skip
    path = files.write(folder / f"step-{step:09d}.safetensors", tensors, header)
    files.on_main(lambda: _prune(folder, keep, keep_every))
    return path


def _state(network: nn.Module, averages: Sequence[EMA], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run, by their names in a checkpoint."""
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    for number, average in enumerate(averages):
        tensors |= {f"{average_name(number)}.{k}": v for k, v in average.module.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    return tensors


def _prune(folder: Path, keep: int, keep_every: int) -> None:
    for old in list_checkpoints(folder)[:-keep]:
        if not keep_every or step_of(old) % keep_every:
            remove(old)


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file, or the folder of a sharded run. Raises CheckpointError where it is torn or not ours, where its header
    does not make sense, and where its name is that of another step."""
    tensors, header = read_tensors(path)
    try:
        step, updates = whole_number("step", header["step"]), whole_number("ema_updates", header["ema_updates"], 2**53)
        if _NAME.fullmatch(path.name) and step_of(path) != step:
            raise ValueError(f"step={step} under the name of step {step_of(path)}")
        if not isinstance(header["config"], str):
            raise ValueError(f"config={shortened(header['config'])} is not a digest")
        facts, without = checked_facts(header.get("facts", {})), without_moments(header)
    except (KeyError, ValueError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: in its header {problem}") from problem
    return Checkpoint(tensors, step, updates, header["config"], path, facts, without_moments=without)


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, None where there is none at all. Raises where there are only torn ones."""
    problem: CheckpointError | None = None
    for path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as found:
            problem = problem or found
    if problem is not None:
        raise problem
    return None


def newer_damaged(checkpoint: Checkpoint) -> list[str]:
    """Names of the checkpoints after one that `last_checkpoint` returned: they are torn."""
    return [path.name for path in list_checkpoints(checkpoint.path.parent) if path.name > checkpoint.path.name]


def load_weights(network: nn.Module, checkpoint: Checkpoint, which: str) -> None:
    """Load weights by their name in a checkpoint, ``model`` or an average's; names and shapes must agree exactly."""
    found = {k.removeprefix(f"{which}."): v for k, v in checkpoint.tensors.items() if k.startswith(f"{which}.")}
    own = network.state_dict()
    for k, v in found.items():
        if k in own and v.dtype != own[k].dtype:
            raise CheckpointError(
                f"{checkpoint.path} is of another network: {which}.{k} is {v.dtype}, {own[k].dtype} is expected"
            )
    check_finite({f"{which}.{k}": v for k, v in found.items()}, checkpoint.step, f"{checkpoint.path} cannot be used")
    try:
        network.load_state_dict({k: shard_like(v, own[k]) if k in own else v for k, v in found.items()}, strict=True)
    except RuntimeError as problem:
        raise CheckpointError(f"{checkpoint.path} is of another network: {' '.join(str(problem).split())}") from problem
