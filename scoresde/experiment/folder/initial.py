"""Initial weights of a run that come from another run.

    initial.safetensors     model.*: a copy of the weights; the header states their source and contains its config

The file is written before the config.json of the new folder, and environment.json repeats what its header states about
the source. A folder with a config.json therefore contains the weights that its run starts from, and the source is not
read again, also if the run is killed before its first checkpoint. The checkpoints of the new run repeat the statement.

The statement does not depend on paths: the digest of the source's config, the step, the name of the weights (see
``weight_names.py``), and the SHA-256 of their names, shapes and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from scoresde._files import read_sealed
from scoresde._validation import suggestion
from scoresde.experiment.config.weight_names import DEFAULT, weights_name, width
from scoresde.experiment.folder.averages import combine_snapshots
from scoresde.experiment.folder.checkpoint import (
    Checkpoint,
    last_checkpoint,
    load_weights,
    newer_damaged,
    read_checkpoint,
)
from scoresde.experiment.folder.header import checked_config, checked_source
from scoresde.experiment.folder.tensor_file import (
    FORMAT,
    INDEX,
    CheckpointError,
    read_tensors,
    tensors_digest,
    write_tensors,
)
from scoresde.experiment.folder.tree import misplaced
from scoresde.experiment.folder.workdir import INITIAL, Workdir


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from.

    Attributes:
        checkpoint: The weights, as ``model.*``.
        source: What is stated about their source: ``config``, ``step``, ``weights`` and ``sha256``.
        config: The JSON of the source's config. Empty if it is not known.
        event_shape: Shape of the source's events. None if it is not known.
        damaged: Names of newer checkpoints of the source, which are damaged.
    """

    checkpoint: Checkpoint
    source: dict[str, Any]
    config: str = ""
    event_shape: tuple[int, ...] | None = None
    damaged: list[str] = field(default_factory=list)

    def check_fit(self, network: nn.Module, event_shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the weights are finite and fit a network for events of this shape."""
        if self.event_shape not in (None, event_shape):
            raise CheckpointError(
                f"{self.checkpoint.path} was trained on events of shape {self.event_shape}, but the config's data has "
                f"events of shape {event_shape}: give data of the same shape"
            )
        self.load(network)

    def load(self, network: nn.Module) -> None:
        """Load the weights into a network. Raises CheckpointError if they do not fit; then nothing is changed."""
        load_weights(network, self.checkpoint, "model")

    def write(self, file: Path) -> None:
        """Write the copy in a work folder."""
        write_tensors(file, self.checkpoint.tensors, {"format": FORMAT, "source": self.source, "config": self.config})


def describe_source(source: dict[str, Any]) -> str:
    """A text about the source of initial weights."""
    return (
        f"weights {source['weights']} of step {source['step']:,} of a run with config digest {source['config']} "
        f"(sha256 {source['sha256'][:16]})"
    )


def read_source(source: str | Path, which: str | float = DEFAULT) -> InitialWeights:
    """Read weights of another run.

    Args:
        source: The work folder of the run, for its newest intact checkpoint. Or one of its checkpoints.
        which: The weights, see ``weight_names.py``. The width of a post-hoc average requires a work folder.

    Returns:
        The weights.

    Raises:
        CheckpointError: If there is no checkpoint, only damaged ones, or none with these weights.
    """
    path, which = Path(source), weights_name(which)
    last, of_run = _newest(path)
    found, prefix = last, f"{which}."
    if (std := width(which)) is not None:
        if not of_run:
            raise CheckpointError(
                f"--init-weights {which} is the width of an average, which is computed from the snapshots of a run: give "
                f"a work folder to --init-from, not {path}"
            )
        found = combine_snapshots(Workdir(path), std, prefix=prefix)
        if found.config_digest and found.config_digest != last.config_digest:
            raise CheckpointError(f"{found.path} belongs to another config than {last.path}: remove one of them")
    tensors = {f"model.{k.removeprefix(prefix)}": v for k, v in found.tensors.items() if k.startswith(prefix)}
    if not tensors:
        names = {name.partition(".")[0] for name in last.tensors} - {"optimizer"}
        raise CheckpointError(f"{found.path} has no weights {which!r}: give --init-weights {', '.join(sorted(names))}")
    shape = last.facts.get("event_shape")
    return InitialWeights(
        Checkpoint(tensors, found.step, 0, last.config_digest, found.path),
        {"config": last.config_digest, "step": found.step, "weights": which, "sha256": tensors_digest(tensors, {})},
        last.facts.get("config", ""),
        None if shape is None else tuple(shape),
        newer_damaged(last) if of_run else [],
    )


def _newest(path: Path) -> tuple[Checkpoint, bool]:
    """The checkpoint at a path, and whether the path is a work folder. Raises CheckpointError."""
    wanted = "give the work folder of a run, or one of its checkpoints"
    if not path.exists():
        there = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"--init-from {path} does not exist: {wanted}{suggestion(str(path), there)}")
    if not path.is_dir() or (path / INDEX).is_file():
        return read_checkpoint(path), False
    if strange := misplaced(path):
        raise CheckpointError(
            f"--init-from {path}: {strange[0]}: remove it; commands do not follow links inside a work folder"
        )
    last = last_checkpoint(path / "checkpoints")
    if last is None:
        raise CheckpointError(f"--init-from {path} contains no checkpoint: {wanted}")
    return last, True


def read_initial(workdir: Workdir) -> InitialWeights | None:
    """Read the initial weights of a run. None if it starts from random weights.

    Raises CheckpointError if the file is damaged, or if environment.json states another source.
    """
    path = workdir.initial_file
    stated = _statement(workdir)
    if not path.exists():
        if stated:
            raise CheckpointError(
                f"{path} is missing: this run starts from {describe_source(stated)}. Restore the file, or start the run in "
                "another folder"
            )
        return None
    tensors, header = read_tensors(path)
    try:
        source, config = checked_source(header["source"]), header["config"] and checked_config(header["config"])
        if tensors_digest(tensors, {}) != source["sha256"]:
            raise ValueError(f"source.sha256={source['sha256']}, which is not that of the weights")
    except (KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{path} is damaged or not a file of initial weights: its header has {problem}"
        ) from problem
    if stated not in (None, source):
        raise CheckpointError(
            f"{path} has {describe_source(source)}, but this run starts from "
            f"{describe_source(stated) if stated else 'random weights'}: restore the file"
        )
    return InitialWeights(Checkpoint(tensors, source["step"], 0, source["config"], path), source, config)


def source_of_run(workdir: Workdir) -> dict[str, Any]:
    """What a run states about the source of its initial weights. Empty if it started from random weights.

    It is read from environment.json. If that file is missing or has changed, from the newest intact checkpoint.
    """
    stated = _statement(workdir)
    if stated is None:
        last = last_checkpoint(workdir.checkpoints)
        stated = {} if last is None else last.facts.get("initial", {})
    return stated


def _statement(workdir: Workdir) -> dict[str, Any] | None:
    """The source in environment.json, empty for random weights. None if the file is missing or has changed."""
    try:
        stated = read_sealed(workdir.environment_file).get(INITIAL)
        return {} if stated is None else checked_source(stated)
    except (OSError, ValueError):
        return None
