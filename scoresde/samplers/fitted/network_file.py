"""Safetensors files of a small trained network. The header says what it was trained for, and nothing in the file is executed.

The class and the layers of the network are not in the file: it is read into a network of the same structure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from scoresde._files import write_atomic
from scoresde._validation import shown
from scoresde.score.origin import weights_digest

_KEY = "scoresde.network"
_FORMAT = 1


def write_network(path: Path | str, kind: str, network: nn.Module, header: Mapping[str, Any]) -> None:
    """Write a network and its header. An interrupted call leaves no partial file.

    Args:
        path: The file.
        kind: Name of the class that the file is of.
        network: The network.
        header: Values for JSON.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    content = {**header, "format": _FORMAT, "kind": kind, "digest": weights_digest(network)}
    write_atomic(Path(path), save(tensors, {_KEY: json.dumps(content)}))


def read_network(path: Path | str, kind: str, network: nn.Module) -> dict[str, Any]:
    """Read a file of `write_network`.

    Args:
        path: The file.
        kind: Name of the class that the file must be of.
        network: A network of the same structure, which gets the weights and is in evaluation mode afterwards.

    Returns:
        The header.

    Raises:
        ValueError: If the file is damaged or contains something else, or if the network has another structure.
        FileNotFoundError: If there is no such file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if (header["format"], header["kind"]) != (_FORMAT, kind):
            raise ValueError(f"{header['kind']} of format {header['format']}, wanted {kind} of format {_FORMAT}")
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{path} is damaged or not a {kind} of scoresde: {problem}") from problem
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != there:
        name = next(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
        raise ValueError(
            f"network={shown(network)} does not have the structure of {path}: {name} has shape {wanted.get(name)}, in the file "
            f"{there.get(name)}"
        )
    network.load_state_dict(tensors)
    network.eval()
    if weights_digest(network) != header["digest"]:
        raise ValueError(f"{path} is damaged: its weights do not have the digest {header['digest']}")
    return dict(header)
