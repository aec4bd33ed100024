"""Upper limits on sizes, checked before memory is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from scoresde._validation import check_count

LARGEST = 2**20
"""Largest width, depth or number of steps in a node of the library."""
BATCHES = 10**6
"""Largest number of batches of samples."""
DRAWS = 10**5
"""Largest number of dequantizations of an event."""
AVERAGES = 100
"""Largest number of averages of the weights of a run."""
THREADS = 1024
"""Largest number of CPU threads."""
MODULES = 10_000
"""Largest number of modules in a network."""
_ANY_SIZE = ("seed", "split_seed", "levels")
"""Whole numbers without an upper limit here: they are not sizes, or have a check of their own.

The same holds for ``max_...``.
"""


class TooLarge(ValueError):
    """A network that does not fit into the memory of this machine."""


def check_count_size(key: str, value: Any) -> str:
    """A message if a whole number, or one in a list, is too large; otherwise an empty string."""
    if key in _ANY_SIZE or key.startswith("max_"):
        return ""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, Integral) and not isinstance(one, bool) and int(one) > LARGEST:
            return f"{key}={value!r} is not allowed: give whole numbers up to {LARGEST}"
    return ""


def check_size(name: str, value: int, *, least: int = 1, most: int = LARGEST) -> None:
    """Raise ValueError unless ``value`` is a whole number from ``least`` to ``most``."""
    check_count(name, value, least=least)
    if value > most:
        raise ValueError(f"{name}={value!r} is not allowed: give a whole number up to {most}")


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def within_memory() -> Iterator[None]:
    """Refuse a network as soon as its parameters need more than the memory of this machine.

    The check runs before the parameters are written: freshly allocated memory costs nothing until then.

    Raises:
        TooLarge: If the parameters or the number of modules are too large.
    """
    memory, spent = machine_memory(), {"bytes": 0, "modules": 0}

    def parameter(owner: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            spent["bytes"] += value.numel() * value.element_size()
            if spent["bytes"] > memory:
                raise TooLarge(
                    f"its parameters need more than this machine's {memory / 2**30:.0f} GiB: give smaller sizes"
                )

    def module(owner: nn.Module, name: str, value: Any) -> None:
        spent["modules"] += 1
        if spent["modules"] > MODULES:
            raise TooLarge(f"it has more than {MODULES} modules: give smaller counts")

    with ExitStack() as held:
        for hook in (
            hooks.register_module_parameter_registration_hook(parameter),
            hooks.register_module_module_registration_hook(module),
        ):
            held.callback(hook.remove)
        yield


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that there is not enough memory.

    Args:
        problem: An exception of Python, or of PyTorch on a CPU or a GPU.

    Returns:
        True for MemoryError, torch.OutOfMemoryError and the RuntimeErrors that PyTorch raises on a CPU.
    """
    message = str(problem)
    return isinstance(problem, MemoryError | torch.OutOfMemoryError) or (
        isinstance(problem, RuntimeError)
        and any(
            word in message
            for word in ("not enough memory", "can't allocate memory", "Storage size calculation overflowed")
        )
    )
