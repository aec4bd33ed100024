"""Checkpoints: one safetensors file each, tensors and JSON, written so that a torn one never has the name of a whole one.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

Names in the file: ``model.*`` (network weights and buffers), ``ema.*``, ``ema1.*``, ... (averages, in the order of the config)
and ``optimizer.<parameter>.<state>``. The header's JSON has format version, step, EMA updates, the digest of the config that they
belong to, and facts of the run; and a SHA-256 of itself and of every tensor's name, shape, type and bytes, so that a flipped bit
is seen. Format 1, without it, is read too. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scoresde._files import write_atomic
from scoresde.ema import EMA

FORMAT = 2
_NAME = re.compile(r"step-(\d{9})\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, torn, or of another model; the message says which, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name, and the header's JSON. facts: what the run itself put there."""

    tensors: dict[str, Tensor]
    step: int
    ema_updates: int
    config_digest: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


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
) -> Path:
    """Write the checkpoint of ``step`` and remove all but the last ``keep`` and, where it is not 0, those of every
    ``keep_every`` steps.

    averages: the one that samples are drawn with first. facts: plain JSON for the header. Raises CheckpointError for non-finite
    weights, OSError where they cannot be written: earlier checkpoints stay.
    """
    averages = [averages] if isinstance(averages, EMA) else list(averages)
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    for number, average in enumerate(averages):
        tensors |= {f"{average_name(number)}.{k}": v for k, v in average.module.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is not finite at step {step}: nothing was written, earlier checkpoints stay")
    header = {
        "format": FORMAT, "step": step, "ema_updates": averages[0].updates, "ema_decay": averages[0].decay, "config": digest,
        "facts": dict(facts or {}),
    }  # fmt: skip
    path = folder / f"step-{step:09d}.safetensors"
    write_tensors(path, tensors, header)
    for old in list_checkpoints(folder)[:-keep]:
        if not keep_every or _step(old) % keep_every:
            old.unlink()
    return path


def average_name(number: int) -> str:
    """The name of an average in a checkpoint."""
    return f"ema{number}" if number else "ema"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and JSON to one file, whole or not at all, with the checksum of both in the header."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    sealed = {**header, "sha256": _checksum(plain, header)}
    write_atomic(path, save(plain, {"scoresde": json.dumps(sealed)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of a file by `write_tensors`, or of a checkpoint of format 1. Raises CheckpointError where it is torn or
    not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})["scoresde"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem}") from problem
    if header.get("format") not in (1, FORMAT):
        raise CheckpointError(f"{path} has format {header.get('format')!r}: this version reads format 1 and {FORMAT}")
    seal = header.pop("sha256", None)
    if header["format"] != 1 and seal != _checksum(tensors, header):
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: its content does not have its checksum")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*.safetensors") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file. Raises CheckpointError where it is torn or not ours."""
    tensors, header = read_tensors(path)
    try:
        step, updates, digest = int(header["step"]), int(header["ema_updates"]), str(header["config"])
    except (KeyError, ValueError, TypeError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem!r} in its header") from problem
    return Checkpoint(tensors, step, updates, digest, path, header.get("facts", {}))


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


def load_weights(network: nn.Module, checkpoint: Checkpoint, which: str) -> None:
    """Load ``model`` or ``ema`` weights; names and shapes must agree exactly."""
    found = {k.removeprefix(f"{which}."): v for k, v in checkpoint.tensors.items() if k.startswith(f"{which}.")}
    try:
        network.load_state_dict(found, strict=True)
    except RuntimeError as problem:
        raise CheckpointError(f"{checkpoint.path} is of another network: {problem}") from problem


def load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put the optimizer's state back, parameter by parameter."""
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device, parameter.dtype) for k, v in state.items()
            }
