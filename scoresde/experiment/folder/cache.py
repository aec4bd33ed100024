"""Cached results: one folder for each combination of settings, so that results of different settings are never mixed.

KIND-FINGERPRINT/settings.json contains everything that the results depend on. FINGERPRINT is the digest of this file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from scoresde._files import write_atomic


class Cache:
    """The folder of one combination of settings. Nothing is written until there is a result.

    Args:
        folder: The parent folder.
        settings: What the results depend on, plain JSON.
    """

    kind: ClassVar[str]
    """The beginning of the folder's name."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        self.folder, self.settings, self._text = folder, settings, text
        self.fingerprint = _digest(text.encode())
        self.path = folder / f"{self.kind}-{self.fingerprint}"

    def write_settings(self) -> None:
        """Create the folder and its settings.json, unless they exist."""
        file = self.path / "settings.json"
        if not file.is_file() or file.read_bytes() != self._text.encode():
            write_atomic(file, self._text.encode())

    def others(self) -> list[dict[str, Any]]:
        """The settings of the other folders of this kind, the last one written last.

        A settings.json whose digest differs from the name of its folder is ignored.
        """
        found = []
        for file in sorted(self.folder.glob(f"{self.kind}-*/settings.json"), key=lambda f: f.stat().st_mtime):
            content = file.read_bytes()
            if file.parent != self.path and file.parent.name == f"{self.kind}-{_digest(content)}":
                found.append(json.loads(content))
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def changes(before: dict[str, Any], settings: dict[str, Any]) -> str:
    """A text ``key: before -> value`` for every key of either mapping that differs."""
    keys = [*settings, *(key for key in before if key not in settings)]
    found = [f"{key}: {before.get(key)} -> {settings.get(key)}" for key in keys if before.get(key) != settings.get(key)]
    return "; ".join(found)


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()[:16]
