"""Classes and functions that record their calls. A config that may not name them must leave `CALLS` empty."""

from __future__ import annotations

from scoresde.metrics import Coordinates
from scoresde.sde import VPSDE

CALLS: list[str] = []


class Thing:
    """A class that no key of a config accepts."""

    def __init__(self, *args, **kwargs):
        CALLS.append("Thing")


class Process(VPSDE):
    """A class that config.sde accepts."""

    def __init__(self, beta_max: float = 20.0) -> None:
        CALLS.append("Process")
        super().__init__(beta_max=beta_max)


class Extractor(Coordinates):
    """A class that config.evaluation.extractor accepts."""

    def __init__(self) -> None:
        CALLS.append("Extractor")


def function(*args, **kwargs):
    """Accepts any arguments."""
    CALLS.append("function")
