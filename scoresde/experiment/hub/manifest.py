"""The manifest of a published model: manifest.json lists every other file with its size and SHA-256.

A manifest may come from anyone. The names in it are checked before any file is read or written: they are relative, stay in the
folders that `push` writes, and contain nothing that another system could read as a path or a pattern.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde._files import SEAL, kind_of, read_sealed, write_sealed
from scoresde._validation import shown
from scoresde.experiment.folder.header import whole_number

MANIFEST = "manifest.json"
FORMAT = 1
FILES = ("README.md", "config.json", "environment.json", "initial.safetensors", "metrics.csv")
FOLDERS = ("checkpoints", "averages", "likelihood", "evaluation", "pictures")
NEEDED = ("README.md", "config.json", "environment.json")
_PART = re.compile(r"[^./\\:*?\"<>|\[\]\s][^/\\:*?\"<>|\[\]]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 2**24
"""Largest size of a manifest in bytes."""


class TransferError(ValueError):
    """A model that cannot be published or fetched. The message names the file or the place."""


@dataclass(frozen=True)
class FileFacts:
    """What a manifest states about a file.

    Args:
        size: Its size in bytes.
        sha256: Its SHA-256 in hex.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> FileFacts:
        """The facts of an existing file."""
        found = hashlib.sha256()
        with open(file, "rb") as stream:
            while block := stream.read(2**20):
                found.update(block)
        return cls(file.stat().st_size, found.hexdigest())


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a complete folder. ``facts`` are further entries."""
    files = {
        file.relative_to(folder).as_posix(): vars(FileFacts.of(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_sealed(folder / MANIFEST, {"format": FORMAT, **facts, "files": files})


def read_manifest(file: Path, place: str) -> dict[str, FileFacts]:
    """The files of a manifest.

    Raises:
        TransferError: If there is none, if it has changed, or if it has a name that `push` does not write. ``place`` is where it
            comes from.
    """
    try:
        if file.lstat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        content = read_sealed(file)
        if content.get("format") != FORMAT:
            raise ValueError(f"format={shown(content.get('format'))}: this version reads format {FORMAT}")
        found = {name: _facts(name, facts) for name, facts in dict(content["files"]).items()}
        if missing := [name for name in NEEDED if name not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if not any(name.startswith("checkpoints/") for name in found):
            raise ValueError("it lacks a checkpoint")
    except FileNotFoundError as problem:
        raise TransferError(f"{place} has no {MANIFEST}: it is not a model that scoresde push wrote") from problem
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as problem:
        text = str(problem).replace(str(file), MANIFEST)
        raise TransferError(f"{place}: {MANIFEST} cannot be used: {text}") from problem
    return found


def _facts(name: str, facts: Any) -> FileFacts:
    top, *rest = name.split("/")
    known = (not rest and top in FILES) or (0 < len(rest) <= 3 and top in FOLDERS)
    if (
        not known
        or len(name) > 300
        or not name.isprintable()
        or not all(_PART.fullmatch(part) for part in (top, *rest))
    ):
        raise ValueError(f"{shown(name)} is not a name of a file that scoresde push writes")
    if set(facts) != {"size", SEAL} or not isinstance(facts[SEAL], str) or not _DIGEST.fullmatch(facts[SEAL]):
        raise ValueError(f"the entry of {shown(name)} needs size and {SEAL}")
    return FileFacts(whole_number(f"size of {name}", facts["size"], 2**63 - 1), facts[SEAL])


def check_file(file: Path, name: str, facts: FileFacts, place: str) -> None:
    """Raise TransferError unless a file is the one that the manifest lists."""
    try:
        mode = file.lstat().st_mode
    except OSError as problem:
        raise TransferError(f"{place}: {name} is missing, but {MANIFEST} lists it") from problem
    if not stat.S_ISREG(mode):
        raise TransferError(f"{place}: {name} is {kind_of(mode)}, not a file")
    if file.stat().st_size != facts.size or FileFacts.of(file) != facts:
        raise TransferError(f"{place}: {name} has changed: its SHA-256 is not the one in {MANIFEST}")


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file into a new one. Folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as content, open(target, "xb") as file:
        shutil.copyfileobj(content, file, 2**20)
