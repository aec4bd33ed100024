"""Checkpoints of the reference implementation (yang-song/score_sde_pytorch), read without executing anything in them.

    model        raw weights by the names of ``score_sde.layout`` with the prefix ``module.``, and the table of noise levels
    ``sigmas`` ema          averaged weights, a list without names in the order of the trained weights; decay; number of updates
    optimizer    moments of Adam by the number of the weight, counting frozen weights
    step         number of updates

A file is a program for the unpickler of Python. The weights-only reader of torch runs it. It creates only tensors, numbers and
containers, and raises an error for any other name. Scalars of numpy are replaced by an inert class that stores their bytes.

Since torch 1.6 a file is a zip archive with a checksum for each member, which torch does not compare. This module compares
them, and passes a new archive of the checked members to torch, which could otherwise read a damaged directory. Older files
have no checksums.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.interop.errors import ConvertError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The moments of Adam by their names in torch."""
_MOST_STEPS = 10**9 - 1
"""The largest step that fits in the name of a checkpoint."""
_KINDS = re.compile(r"[fiu][1248]|b1|\?")
"""The codes of numpy for the numbers that a file may contain."""
_PARTS = ("model", "ema", "optimizer", "step")


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """The content of a checkpoint of the reference implementation.

    Attributes:
        model: Raw weights by name, without the prefix ``module.``.
        averages: Averaged weights in order.
        ema_decay: The decay of the averages.
        ema_updates: The number of updates of the averages.
        moments: The state of Adam by the number of the weight.
        step: The number of updates.
        sigmas: The table of noise levels, descending, float64; None if the file has none.
        checked: Whether the file has checksums, which were compared.
    """

    model: dict[str, Tensor]
    averages: list[Tensor]
    ema_decay: float
    ema_updates: int
    moments: dict[int, dict[str, Tensor]]
    step: int
    sigmas: Tensor | None = None
    checked: bool = True


def read_reference(file: str | Path) -> ReferenceCheckpoint:
    """Read a checkpoint without executing anything in it.

    Args:
        file: The file.

    Returns:
        Its content.

    Raises:
        ConvertError: If the file is damaged or is not such a checkpoint. The message names the file.
        OSError: If the file does not exist.
    """
    content, checked = read_content(file)
    try:
        if not isinstance(content, dict):
            raise TypeError("it must be a dictionary")
        averages, state = content["ema"], content["optimizer"]["state"]
        model = {_bare(name): tensor for name, tensor in content["model"].items()}
        sigmas = model.pop("sigmas", None)
        return ReferenceCheckpoint(
            model={name: weight_of(name, tensor) for name, tensor in model.items()},
            averages=[weight_of(f"average {k}", tensor) for k, tensor in enumerate(averages["shadow_params"])],
            ema_decay=float(_number(averages["decay"])),
            ema_updates=_count("num_updates", averages["num_updates"]),
            moments={int(k): _moments(k, m) for k, m in state.items()},
            step=_count("step", content["step"]),
            sigmas=None if sigmas is None else torch.as_tensor(sigmas).to(torch.float64),
            checked=checked,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as problem:
        raise ConvertError(f"{file} is not a checkpoint of score_sde_pytorch: {_why(content, problem)}") from problem


def read_content(file: str | Path, project: str = "score_sde_pytorch") -> tuple[Any, bool]:
    """The content of a file, and whether its checksums were compared. Nothing in it is executed.

    Args:
        file: The file.
        project: The project whose checkpoint is wanted, for messages.

    Raises:
        ConvertError: If the file is damaged, or asks for anything but tensors, numbers and containers.
        OSError: If the file does not exist.
    """
    with open(file, "rb") as stream:
        checked = stream.read(2) == b"PK"
        stream.seek(0)
        try:
            source = _compared(stream) if checked else stream
            with torch.serialization.safe_globals(_STAND_INS):
                return torch.load(source, map_location="cpu", weights_only=True), checked
        except Exception as problem:  # a malicious or damaged file can raise any exception
            asked = re.search(r"GLOBAL (\S+)", str(problem))
            why = f"it asks for {asked[1]}, which was not executed" if asked else repr(problem).split("\\n")[0][:200]
            raise ConvertError(f"{file} is damaged, or not a checkpoint of {project}: {why}") from problem


def _compared(stream: IO[bytes]) -> IO[bytes]:
    """A new archive in memory with the members of an archive. Raises an error if a checksum is wrong."""
    made = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(made, "w") as new:
        names = [part.filename for part in old.infolist()]
        if len({*names}) != len(names):
            raise ValueError("two of its parts have the same name")
        for part in old.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its part {part.filename!r} is compressed, but torch does not compress")
            new.writestr(zipfile.ZipInfo(part.filename), old.read(part))  # compares the checksum
    made.seek(0)
    return made


def _why(content: Any, problem: Exception) -> str:
    """The reason why the content of a file is not a checkpoint, and what the file contains."""
    wanted = f"{', '.join(_PARTS[:-1])} and {_PARTS[-1]} with all their parts are wanted"
    if not isinstance(content, Mapping):
        return f"{problem!r}; it holds {type(content).__name__}, and {wanted}"
    if {*_PARTS} <= {*content} and not isinstance(problem, KeyError):
        return str(problem)
    weights = content.get("state_dict", content.get("model", content))
    if not {*_PARTS} & {*content} - {"model"} and isinstance(weights, Mapping):
        tensors = [name for name, value in weights.items() if isinstance(value, Tensor)]
        if tensors:
            return (
                f"it is a bare state dict, {len(tensors)} tensors by name (..., {tensors[-1]}), without averages (ema), Adam's "
                "moments (optimizer) and step, of which a work folder is made; in Python, "
                "scoresde.interop.score_sde.from_reference(network, tensors) gives what network.load_state_dict takes"
            )
    there = [str(name) for name in content]
    shown = there if len(there) <= 8 else [*there[:8], f"and {len(there) - 8} more"]
    return f"{problem!r}; it holds {shown}, and {wanted}"


class _StandIn:
    """Replaces a function or class of numpy that a file names. It stores its arguments and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()  # type: tuple[Any, ...], Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STAND_INS: list[Any] = [
    type(name, (_StandIn,), {"__module__": module})
    for module, name in (
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    )
]
"""The components of a numpy scalar, by the names that numpy 1 and 2 write."""


def _number(value: Any) -> Any:
    """The number of a numpy scalar or of a tensor with one element; other values are unchanged."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if not isinstance(value, _StandIn):
        return value
    kind, content = value.arguments
    code, order = kind.arguments[0], kind.state[1] if kind.state else "="
    if not isinstance(code, str) or not _KINDS.fullmatch(code) or not isinstance(content, bytes):
        raise ValueError(f"a number of numpy's type {code!r} is not known")
    dtype = np.dtype(code).newbyteorder(">" if order == ">" else "<")
    if len(content) != dtype.itemsize:
        raise ValueError(f"a number of numpy's type {code!r} has {len(content)} bytes")
    return np.frombuffer(content, dtype)[0].item()


def _count(name: str, value: Any) -> int:
    value = _number(value)
    check_count(name, value, least=0)
    if value > _MOST_STEPS:
        raise ValueError(f"{name}={value} is not a number of steps")
    return int(value)


def _bare(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not the name of a weight")
    return name.removeprefix("module.")


def weight_of(name: str, value: Any) -> Tensor:
    """The value, if it is a finite float32 tensor. Raises TypeError or ValueError otherwise."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        raise TypeError(f"{name} is {getattr(value, 'dtype', type(value).__name__)}: it must be float32")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} is not finite: it holds a NaN or an infinity")
    return value


def _moments(number: Any, state: Any) -> dict[str, Tensor]:
    """The state of Adam for one weight."""
    step = torch.as_tensor(float(_number(state["step"])))
    return {"step": step, **{name: weight_of(f"{name} of weight {number}", state[name]) for name in MOMENTS}}
