"""Events as a file to look at: a picture, or text for data that is text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Splits
from scoresde.experiment.folder.plots import event_picture

PICTURE, TEXT = ".png", ".txt"
"""Endings of the files' names."""


def is_text(data: Splits) -> bool:
    """Whether events are text to read."""
    return data.texts(torch.zeros(1, *data.event_shape, dtype=torch.int64)) is not None


def shown_events(data: Splits, raw: Tensor) -> tuple[str, bytes]:
    """The ending of the file's name and its content.

    Args:
        data: The data of the events.
        raw: Decoded events of shape (B, *event).
    """
    if data.texts(raw[:1]) is not None and (made := data.sample_file(raw)) is not None:
        return made
    return PICTURE, event_picture(raw, data.transform)


def shown_file(index: Path, facts: Mapping[str, Any]) -> Path:
    """The file with the first samples of an index ``samples/NAME.json``, whose facts name it."""
    return index.with_name(Path(str(facts.get("shown in", f"{index.stem}.png"))).name)
