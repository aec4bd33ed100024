"""What is kept as it is computed: a folder for each setting, so that figures of different settings never mix.

KIND-FINGERPRINT/settings.json    everything that the content depends on; the name is its digest
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from scoresde._files import write_atomic


class Cache:
    """The folder of one setting.

    folder: where the settings' folders are. settings: what the content depends on, plain JSON. Nothing is written before
    there is something to keep.
    """

    kind: ClassVar[str]
    """What the folder's name begins with."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        self.folder, self.settings, self._text = folder, settings, text
        self.fingerprint = _digest(text.encode())
        self.path = folder / f"{self.kind}-{self.fingerprint}"

    def write_settings(self) -> None:
        """Make the folder, and say what it belongs to, where it does not say so yet."""
        file = self.path / "settings.json"
        if not file.is_file() or file.read_bytes() != self._text.encode():
            write_atomic(file, self._text.encode())

    def others(self) -> list[dict[str, Any]]:
        """The settings of the other folders beside this one, the last one written last.

        A file that is not what was written, by the digest in its folder's name, is passed over.
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
    """``key: before -> value``, for every key of ``settings`` that differs."""
    found = [f"{key}: {before.get(key)} -> {value}" for key, value in settings.items() if before.get(key) != value]
    return "; ".join(found)


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()[:16]
