"""Files of tensors with a JSON header and a checksum. A damaged file never has the name of a complete one.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

    NAME.safetensors      whole tensors, written by one process
    NAME/                 rank-00000.safetensors, ... and index.json, written by all processes of a sharded run

In a folder, a tensor is the concatenation along its first dimension of the tensors of the same name in the files, in
the order of the ranks. Tensors that are the same on every process (buffers, counts) are in the first file only.
index.json has the header that a single file has, and the checksum of each file.

The header has a format version and a SHA-256 of itself and of the name, shape, dtype and bytes of every tensor, so a
flipped bit is detected. Format 1 has no checksum and can be read too. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scoresde._files import parse_json, read_plain, sync_folder, write_atomic
from scoresde.experiment.folder.header import shortened
from scoresde.experiment.folder.tree import remove

FORMAT = 2
INDEX = "index.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, or of another model. The message says which one, and what to do."""


def check_finite(
    tensors: Mapping[str, Tensor], step: int, end: str = "nothing was written, earlier checkpoints stay"
) -> None:
    """Raise CheckpointError if a tensor contains NaN or infinities.

    Args:
        tensors: The tensors of ``step``, by name.
        step: The step.
        end: The end of the message.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local_part(tensor)).all()):
            raise CheckpointError(f"{name} is not finite at step {step}: {end}")


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process stores: its rows of a sharded tensor (a DTensor), otherwise all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor like ``like``: a DTensor with a copy of this process's rows if ``like`` is one."""
    if not hasattr(like, "device_mesh"):
        return whole
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    parts = whole.chunk(mesh.size()) if whole.ndim else (whole,)
    rows = parts[mesh.get_rank()] if mesh.get_rank() < len(parts) else whole[:0]
    rows = rows.to(like.device, copy=True).contiguous()
    return DTensor.from_local(rows, mesh, like.placements, run_check=False, shape=whole.shape, stride=whole.stride())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one file, completely or not at all. The header gets the checksum of both."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    sealed = {**header, "sha256": tensors_digest(plain, header)}
    write_atomic(path, save(plain, {"scoresde": json.dumps(sealed)}))


def rank_file(folder: Path, rank: int) -> Path:
    """The file of one process in the folder of a sharded run."""
    return folder / f"rank-{rank:05d}.safetensors"


def write_index(folder: Path, world: int, header: Mapping[str, Any]) -> None:
    """Write the index.json that completes a folder with a file from each of ``world`` processes.

    It reads their headers only.
    """
    files = []
    for rank in range(world):
        with safe_open(rank_file(folder, rank), framework="pt") as file:
            files.append(json.loads(file.metadata()["scoresde"])["sha256"])
    sealed = {**header, "files": files}
    write_atomic(folder / INDEX, json.dumps({**sealed, "sha256": tensors_digest({}, sealed)}).encode())


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete folder. A damaged folder of the same name is removed first."""
    if path.exists():
        remove(path)
    os.replace(temporary, path)
    sync_folder(path.parent)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header of a file by `write_tensors`, of a folder with an index, or of a checkpoint of format 1.

    Raises CheckpointError if it is damaged or not a checkpoint of scoresde.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)[:2]


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a file or folder without its tensors.

    The checksum is under ``sha256``. Raises CheckpointError.
    """
    try:
        _refuse_links(path)
        if path.is_dir():
            return dict(parse_json(read_plain(path / INDEX), path / INDEX))
        with safe_open(path, framework="pt") as file:
            return dict(parse_json((file.metadata() or {})["scoresde"], "its header"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as problem:
        raise CheckpointError(f"{path} is damaged or not a checkpoint of scoresde: {problem}") from problem


def _refuse_links(path: Path) -> None:
    """Raise ValueError for a symbolic link, which may lead out of the folder, and for a pipe or a device."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise ValueError("it is a link or not a file")


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = read_header(path)
    try:
        checksum, files = header.pop("sha256"), list(header["files"])
    except (KeyError, TypeError) as problem:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint of scoresde: {problem!r} in its index"
        ) from problem
    if checksum != tensors_digest({}, header):
        raise CheckpointError(f"{path / INDEX} is damaged or not a checkpoint of scoresde: its checksum does not match")
    pieces: dict[str, list[Tensor]] = {}
    for rank, expected in enumerate(files):
        tensors, _, found = _read_file(rank_file(path, rank))
        if found != expected:
            raise CheckpointError(
                f"{rank_file(path, rank)} belongs to another checkpoint: its checksum differs from the index"
            )
        for name, tensor in tensors.items():
            pieces.setdefault(name, []).append(tensor)
    del header["files"]
    try:
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}, header
    except (RuntimeError, TypeError) as problem:
        raise CheckpointError(f"{path} is damaged or not a checkpoint of scoresde: {problem}") from problem


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str | None]:
    """Tensors, header and checksum of a file."""
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(f"{path} is damaged or not a checkpoint of scoresde: {problem}") from problem
    if type(header.get("format")) is not int or header["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path} has format {shortened(header.get('format'))}: this version reads formats 1 and {FORMAT}"
        )
    checksum = header.pop("sha256", None)
    if (header["format"] != 1 or checksum is not None) and checksum != tensors_digest(tensors, header):
        raise CheckpointError(f"{path} is damaged or not a checkpoint of scoresde: its checksum does not match")
    return tensors, header, checksum


def tensors_digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """The SHA-256 of a header and of the name, shape, dtype and bytes of every tensor."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
