"""Files of tensors with a JSON header and a checksum. A damaged file never has the name of a complete one.

    temporary name in the same folder -> write -> fsync -> rename -> fsync of the folder

    NAME.safetensors      whole tensors, written by one process
    NAME/                 rank-00000.safetensors, ... and index.json, written by all processes of a sharded run

In a folder, a tensor is the concatenation along its first dimension of the tensors of the same name in the files, in the order
of the ranks. Tensors that are the same on every process (buffers, counts) are in the first file only. index.json has the header
that a single file has, and the checksum of each file.

The header has a format version and a SHA-256 of itself and of the name, shape, dtype and bytes of every tensor, so a flipped
bit is detected. Format 1 has no checksum and can be read too. Nothing in a file is executed.
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
    """A checkpoint that is missing, torn, or of another model; the message says which, and what to do."""


def check_finite(
    tensors: Mapping[str, Tensor], step: int, end: str = "nothing was written, earlier checkpoints stay"
) -> None:
    """Raise CheckpointError where a tensor holds NaN or infinities. tensors: of ``step``, by name. end: of the message."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local_part(tensor)).all()):
            raise CheckpointError(f"{name} is not finite at step {step}: {end}")


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows where it is sharded (a DTensor), else all."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as ``like`` is held: a DTensor with a copy of this process's rows where ``like`` is one."""
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
    """Write tensors and JSON to one file, whole or not at all, with the checksum of both in the header."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    sealed = {**header, "sha256": _checksum(plain, header)}
    write_atomic(path, save(plain, {"scoresde": json.dumps(sealed)}))


def rank_file(folder: Path, rank: int) -> Path:
    """Where a process writes its rows."""
    return folder / f"rank-{rank:05d}.safetensors"


def write_index(folder: Path, world: int, header: Mapping[str, Any]) -> None:
    """Write what makes a folder of one file from each of ``world`` processes whole. Of the files, headers are read alone."""
    files = []
    for rank in range(world):
        with safe_open(rank_file(folder, rank), framework="pt") as file:
            files.append(json.loads(file.metadata()["scoresde"])["sha256"])
    sealed = {**header, "files": files}
    write_atomic(folder / INDEX, json.dumps({**sealed, "sha256": _checksum({}, sealed)}).encode())


def publish(temporary: Path, path: Path) -> None:
    """Give a folder that is whole its name. One of the same name, which is torn, goes before."""
    if path.exists():
        remove(path)
    os.replace(temporary, path)
    sync_folder(path.parent)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of a file by `write_tensors` or of a folder with an index, or of a checkpoint of format 1. Raises
    CheckpointError where it is torn or not ours."""
    return _read_folder(path) if path.is_dir() else _read_file(path)[:2]


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of what `read_tensors` reads, with its checksum under ``sha256``, without a look at the tensors. Raises
    CheckpointError where there is none."""
    try:
        _refuse_links(path)
        if path.is_dir():
            return dict(parse_json(read_plain(path / INDEX), path / INDEX))
        with safe_open(path, framework="pt") as file:
            return dict(parse_json((file.metadata() or {})["scoresde"], "its header"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem}") from problem


def _refuse_links(path: Path) -> None:
    """Raise ValueError for a symbolic link, which may lead out of the folder, and for a pipe or a device."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise ValueError("it is a link, or no file")


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    header = read_header(path)
    try:
        seal, files = header.pop("sha256"), list(header["files"])
    except (KeyError, TypeError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem!r} in its index") from problem
    if seal != _checksum({}, header):
        raise CheckpointError(
            f"{path / INDEX} is torn or no checkpoint of scoresde: its content does not have its checksum"
        )
    pieces: dict[str, list[Tensor]] = {}
    for rank, expected in enumerate(files):
        tensors, _, found = _read_file(rank_file(path, rank))
        if found != expected:
            raise CheckpointError(f"{rank_file(path, rank)} is of another checkpoint: its checksum is not the index's")
        for name, tensor in tensors.items():
            pieces.setdefault(name, []).append(tensor)
    del header["files"]
    try:
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}, header
    except (RuntimeError, TypeError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem}") from problem


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str | None]:
    """Tensors, JSON and checksum."""
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: {problem}") from problem
    if type(header.get("format")) is not int or header["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path} has format {shortened(header.get('format'))}: this version reads format 1 and {FORMAT}"
        )
    seal = header.pop("sha256", None)
    if (header["format"] != 1 or seal is not None) and seal != _checksum(tensors, header):
        raise CheckpointError(f"{path} is torn or no checkpoint of scoresde: its content does not have its checksum")
    return tensors, header, seal


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
