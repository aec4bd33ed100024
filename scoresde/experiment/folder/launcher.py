"""Processes that a launcher such as torchrun started."""

from __future__ import annotations

import os


class WorkerError(RuntimeError):
    """A process died before its parts were done; the message says which, and what is kept."""


def launched() -> tuple[int, int]:
    """(rank, world) as a launcher says them, (0, 1) without one. Raises ValueError for what makes no sense."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as problem:
        raise ValueError(f"RANK and WORLD_SIZE in the environment must be whole numbers: {problem}") from problem
    if not 0 <= rank < world:
        raise ValueError(f"RANK={rank} and WORLD_SIZE={world} in the environment: give 0 <= RANK < WORLD_SIZE")
    return rank, world
