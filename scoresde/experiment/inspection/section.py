"""A section of a config with the reasons for its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """A key of the config, its value, and the reasons."""

    key: str
    value: Any
    reasons: tuple[str, ...]
