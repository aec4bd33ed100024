"""Checkpoints: network, averages and optimizer of a step, in one file or in the folder of a sharded run.

    step-000001000.safetensors      one process
    step-000001000/                 a sharded run: rank-00000.safetensors, ... and index.json

Names of the tensors: ``model.*`` (weights and buffers of the network), ``ema.*``, ``ema1.*``, ... (averages, in the
order of the config), ``optimizer.<parameter>.<state>`` and ``times.<objective>.*`` (what a distribution of t has learned).
The header contains the step, the number of EMA updates, the digest of the config and facts about the run.
``tensor_file.py`` describes the files themselves.
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

SHOWN = 4
"""Number of differences between a checkpoint and a network that a message lists."""
_NAME = re.compile(r"step-(\d{9})(\.safetensors)?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        tensors: Tensors by name.
        step: Its step.
        ema_updates: Number of updates of the averages.
        config_digest: Digest of the config that it was trained with.
        path: The file or folder.
        facts: What the run wrote to the header.
        made_of: A digest of the files that the tensors were computed from, if they are not those of a single file.
        without_moments: Names of trained parameters for which Adam has no moments. None if this is not known.
    """

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
        """16 hex digits that differ if any tensor differs."""
        return self.made_of or file_digest(self.index_file)

    def describe(self, which: str) -> str:
        """A description of the weights ``which``.

        For a post-hoc average it includes the error of the averaging profile.
        """
        if not self.made_of:
            return f"weights {which} of {self.path.name}"
        count, off = self.facts["snapshots"], self.facts["off"]
        return f"weights {which} of {count} snapshots (averaging profile off by {off:.2g} of its norm)"

    @property
    def index_file(self) -> Path:
        """The file whose bytes determine the whole checkpoint."""
        return self.path / INDEX if self.path.is_dir() else self.path


class Files(Protocol):
    """How the processes of a run write files."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
        """Write what `read_tensors` reads. Returns the path."""

    def on_all(self, action: Callable[[], object]) -> None:
        """Run ``action`` on every process that writes. If it raises on one process, all processes raise."""

    def on_main(self, action: Callable[[], object]) -> None:
        """Run ``action`` on one process while the others wait."""


class OneFile:
    """One process writes one file."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
        """Write the file by `write_tensors`."""
        write_tensors(path, tensors, header)
        return path

    def on_all(self, action: Callable[[], object]) -> None:
        """Run ``action``."""
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
    learned: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    files: Files | None = None,
) -> Path:
    """Write the checkpoint of ``step`` and remove old ones.

    Args:
        folder: The folder of the checkpoints.
        network: The network.
        averages: Averages of the network. Samples are drawn with the first one.
        optimizer: Its Adam optimizer.
        step: The step.
        digest: Digest of the config.
        keep: Number of last checkpoints that are kept.
        keep_every: Checkpoints at multiples of this number of steps are kept too; 0 keeps none of them.
        learned: More tensors by name, such as the history of a distribution of t.
        facts: Plain JSON for the header.
        files: How the processes write; this process alone unless given.

    Returns:
        The path of the checkpoint.

    Raises:
        CheckpointError: If weights are not finite. Nothing is written.
        OSError: If the file cannot be written. Earlier checkpoints are kept.
    """
    averages, files = [averages] if isinstance(averages, EMA) else list(averages), files or OneFile()
    tensors = _state(network, averages, optimizer) | dict(learned or {})
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
    """The step in the name of a checkpoint."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: A file, or the folder of a sharded run.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If it is damaged or not a checkpoint of scoresde, if its header is not valid, or if its name is
            that of another step.
    """
    tensors, header = read_tensors(path)
    try:
        step, updates = whole_number("step", header["step"]), whole_number("ema_updates", header["ema_updates"], 2**53)
        if _NAME.fullmatch(path.name) and step_of(path) != step:
            raise ValueError(f"step={step}, but its name is that of step {step_of(path)}")
        if not isinstance(header["config"], str):
            raise ValueError(f"config={shortened(header['config'])} is not a digest")
        facts, without = checked_facts(header.get("facts", {})), without_moments(header)
    except (KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint of scoresde: its header has {problem}"
        ) from problem
    return Checkpoint(tensors, step, updates, header["config"], path, facts, without_moments=without)


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None if there is none at all. Raises CheckpointError if all are damaged."""
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
    """Names of the checkpoints that are newer than the one that `last_checkpoint` returned. They are damaged."""
    return [path.name for path in list_checkpoints(checkpoint.path.parent) if path.name > checkpoint.path.name]


def load_weights(network: nn.Module, checkpoint: Checkpoint, which: str) -> None:
    """Load the weights ``which`` of a checkpoint: ``model`` or an average. Names and shapes must match exactly.

    Raises CheckpointError if they do not, or if a weight is not finite. Nothing is changed then.
    """
    found = {k.removeprefix(f"{which}."): v for k, v in checkpoint.tensors.items() if k.startswith(f"{which}.")}
    own = network.state_dict()
    if problems := _differences(found, own):
        if modules := _other_modules(found, network):
            raise CheckpointError(f"{checkpoint.path} belongs to another network: {modules}")
        more = f"; and {len(problems) - SHOWN} more differences" if problems[SHOWN:] else ""
        raise CheckpointError(f"{checkpoint.path} belongs to another network: {'; '.join(problems[:SHOWN])}{more}")
    check_finite({f"{which}.{k}": v for k, v in found.items()}, checkpoint.step, f"{checkpoint.path} cannot be used")
    network.load_state_dict({k: shard_like(v, own[k]) for k, v in found.items()}, strict=True)


def _other_modules(found: Mapping[str, Tensor], network: nn.Module) -> str:
    """How the trained modules differ, if the weights are those of one of several modules, or of several in place of one."""
    ours = list(network) if isinstance(network, nn.ModuleDict) else []
    for name in ours:
        if not _differences(found, network[name].state_dict()):  # type: ignore[index]
            return f"it has the weights of {name} only, but this run trains {', '.join(ours)}"
    theirs = list(dict.fromkeys(name.partition(".")[0] for name in found))
    for one in [] if ours else theirs:
        part = {name.removeprefix(f"{one}."): v for name, v in found.items() if name.startswith(f"{one}.")}
        if not _differences(part, network.state_dict()):
            return f"it has the weights of {', '.join(theirs)}, but this run trains {one} only"
    return ""


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Where the tensors of a checkpoint differ from those of a network in their names, shapes and dtypes."""
    lines = []
    for name in [*own, *(name for name in found if name not in own)]:
        if name not in found:
            lines.append(f"{name} of shape {tuple(own[name].shape)} is only in the network")
        elif name not in own:
            lines.append(f"{name} of shape {tuple(found[name].shape)} is only in the checkpoint")
        elif found[name].shape != own[name].shape:
            lines.append(
                f"{name} has shape {tuple(found[name].shape)} in the checkpoint, and {tuple(own[name].shape)} in the network"
            )
        elif found[name].dtype != own[name].dtype:
            lines.append(
                f"{name} has dtype {found[name].dtype} in the checkpoint, and {own[name].dtype} in the network"
            )
    return lines
