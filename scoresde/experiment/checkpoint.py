"""Checkpoints: one safetensors file each, tensors and JSON, written so that a torn one never has the name of a whole one.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

Names in the file: ``model.*``, ``ema.*`` (network weights and buffers) and ``optimizer.<parameter>.<state>``; the header's JSON
has step, EMA updates, format version, and the digest of the config that they belong to. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scoresde._files import write_atomic
from scoresde.ema import EMA

FORMAT = 1
_NAME = re.compile(r"step-(\d{9})\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, torn, or of another model; the message says which, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name, and the header's JSON."""

    tensors: dict[str, Tensor]
    step: int
    ema_updates: int
    config_digest: str
    path: Path


def save_checkpoint(
    folder: Path, network: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, step: int, digest: str, keep: int
) -> Path:
    """Write the checkpoint of ``step`` and remove all but the last ``keep``. Refuses non-finite weights."""
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.module.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is not finite at step {step}: nothing was written, earlier checkpoints stay")
    header = {"format": FORMAT, "step": step, "ema_updates": ema.updates, "ema_decay": ema.decay, "config": digest}
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"scoresde": json.dumps(header)})
    path = folder / f"step-{step:09d}.safetensors"
    write_atomic(path, content)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*.safetensors") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file. Raises CheckpointError where it is torn or not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["scoresde"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem}") from problem
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {header.get('format')}: this version reads format {FORMAT}")
    return Checkpoint(tensors, int(header["step"]), int(header["ema_updates"]), str(header["config"]), path)


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
