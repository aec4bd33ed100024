"""Classes and functions that note when they are called: a config that may not name them must leave `CALLS` empty."""

from __future__ import annotations

from scoresde.metrics import Coordinates
from scoresde.sde import VPSDE

CALLS: list[str] = []


class Thing:
    """Of no kind that a config takes."""

    def __init__(self, *args, **kwargs):
        CALLS.append("Thing")


class Process(VPSDE):
    """Of the kind of config.sde."""

    def __init__(self, beta_max: float = 20.0) -> None:
        CALLS.append("Process")
        super().__init__(beta_max=beta_max)


class Extractor(Coordinates):
    """Of the kind of config.evaluation.extractor."""

    def __init__(self) -> None:
        CALLS.append("Extractor")


def function(*args, **kwargs):
    """Takes anything."""
    CALLS.append("function")
