"""Safetensors files of a small trained network. The header says what it was trained for, and nothing in the file is executed.

The class and the layers of the network are not in the file: it is read into a network of the same structure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from scoresde._files import write_atomic
from scoresde._validation import shown
from scoresde.score.origin import weights_digest

_KEY = "scoresde.network"
_FORMAT = 1
Kind = TypeVar("Kind", bound="NetworkFile")


class NetworkFile:
    """A small network and what it was trained for, with a safetensors file.

    A subclass names the arguments of its constructor, apart from the network, that the file has in its header.
    """

    header: ClassVar[tuple[str, ...]]
    network: nn.Module
    process: str
    event_shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(of {self.process}, events of shape {self.event_shape})"

    def save(self, path: Path | str) -> None:
        """Write a safetensors file. An interrupted call leaves no partial file.

        Args:
            path: The file.
        """
        state = self.network.state_dict()
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        content = {name: getattr(self, name) for name in self.header}
        content |= {"format": _FORMAT, "kind": type(self).__name__, "digest": weights_digest(self.network)}
        write_atomic(Path(path), save(tensors, {_KEY: json.dumps(content)}))

    @classmethod
    def load(cls: type[Kind], path: Path | str, network: nn.Module) -> Kind:
        """Read a file that :meth:`save` wrote.

        Args:
            path: The file.
            network: A network of the same structure as the one that was saved. It gets the weights, and is in evaluation mode
                afterwards.

        Returns:
            The object of the file. It is refused for what it was not trained for.

        Raises:
            ValueError: If the file is damaged or contains something else, or if the network has another structure.
            FileNotFoundError: If there is no such file.
        """
        kind = cls.__name__
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
                f"network={shown(network)} does not have the structure of {path}: {name} has shape {wanted.get(name)}, in the "
                f"file {there.get(name)}"
            )
        network.load_state_dict(tensors)
        network.eval()
        if weights_digest(network) != header["digest"]:
            raise ValueError(f"{path} is damaged: its weights do not have the digest {header['digest']}")
        return cls(network, **{name: header[name] for name in cls.header})  # type: ignore[call-arg]
