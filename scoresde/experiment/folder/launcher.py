"""The environment of processes that a launcher such as torchrun starts."""

from __future__ import annotations

import os


class WorkerError(RuntimeError):
    """A process ended before its work was done. The message says which one, and what is saved."""


def launched() -> tuple[int, int]:
    """(rank, world size) from the environment of a launcher, (0, 1) without one.

    Raises ValueError for invalid values.
    """
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as problem:
        raise ValueError(f"RANK and WORLD_SIZE in the environment must be whole numbers: {problem}") from problem
    if not 0 <= rank < world:
        raise ValueError(f"RANK={rank} and WORLD_SIZE={world} in the environment: give 0 <= RANK < WORLD_SIZE")
    return rank, world
