"""What `scoresde inspect` knows about data before it reads the events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.data.stored import Stored


@dataclass(frozen=True)
class Source:
    """The data that was found.

    Attributes:
        what: A description.
        node: The ``data`` section of the config without its transform.
        events: All events (n, *event); those of the training set if the data is already split.
        name: The name of an event in messages, a function of its index.
        notes: Remarks for the user.
        warnings: Remarks on what makes the result worse than it could be.
        problems: Problems that must be fixed before training, with file names.
        columns: Names of the coordinates of an event, if they have names.
        dequantized: Names of those that are dequantized.
        tokens: Number of tokens, where events are tokens; 0 for numbers.
    """

    what: str
    node: dict[str, Any]
    events: Tensor | Stored
    name: Callable[[int], str] = str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dequantized: tuple[str, ...] = ()
    tokens: int = 0


def counted(count: int, noun: str, verb: str = "") -> str:
    """The number of things, with a verb that agrees: "1 file is", "2 files are". The verb is "is", "has" or none."""
    many = {"is": " are", "has": " have", "": ""}[verb]
    return f"1 {noun}{' ' + verb if verb else ''}" if count == 1 else f"{count} {noun}s{many}"
