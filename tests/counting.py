"""Counts of tensor operations and of waits for the device, what a GPU would pay for, taken on a CPU."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass

from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "aten.equal.")
"""Operations whose result must be on the host before it goes on."""


@dataclass(frozen=True)
class Counts:
    """operations: all that were dispatched. waits: those among them that wait for the device. names: how often each."""

    operations: int
    waits: int
    names: collections.Counter[str]


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> Counts:
    """The operations of ``run``."""
    with _Count() as counter:
        run()
    waits = sum(n for name, n in counter.seen.items() if any(wait in name for wait in WAITS))
    return Counts(sum(counter.seen.values()), waits, counter.seen)
