"""The files that a work folder may contain, and the removal of temporary files that killed processes leave.

A work folder may come from anyone. A link in it could lead a command to files outside, so no command follows one: a
folder with a link, or with a folder in the place of a file, is refused before anything is read or written. The work
folder itself may be reached through a link. The entries of checkpoints/ and averages/ are checked when they are read.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from scoresde._files import kind_of

FILES = ("config.json", "environment.json", "initial.safetensors", "log.txt", "metrics.csv", "report.html")
FOLDERS = (
    "checkpoints", "averages", "previews", "bad_batches", "samples", "likelihood", "evaluation", "edits", "tensorboard",
    "loggers",
)  # fmt: skip
UNCHECKED = ("checkpoints", "averages")
"""Folders whose entries are checked by the checkpoint reader, which skips other files."""
LEFTOVERS = {
    "train": ("checkpoints/.step-*.tmp", "averages/.*.tmp", "bad_batches/.*.tmp", "previews/.*.tmp", "loggers/.*.tmp",
              ".metrics.csv.*.tmp", ".config.json.*.tmp", ".environment.json.*.tmp", ".initial.safetensors.*.tmp"),
    "sample": ("samples/**/.*.tmp",),
    "likelihood": ("likelihood/**/.*.tmp", "checkpoints/.grid-*.tmp", "checkpoints/.bound-*.tmp"),
    "evaluate": ("evaluation/**/.*.tmp",),
    "edit": ("edits/**/.*.tmp",),
    "report": (".report.html.*.tmp",),
}  # fmt: skip
"""Patterns of temporary files by the lock under which they are written. The only holder of the lock may remove them."""


def misplaced(path: Path) -> list[str]:
    """Entries of a work folder that no run creates: links, and files in place of folders or the reverse."""
    found = []
    for name in (*FILES, *FOLDERS):
        place = path / name
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            continue
        except OSError as problem:
            return [f"{place} cannot be read: {problem.strerror}"]
        right = stat.S_ISREG(mode) if name in FILES else stat.S_ISDIR(mode)
        if not right:
            found.append(f"{place} is {kind_of(mode)}, not {'a file' if name in FILES else 'a folder'}")
        elif name in FOLDERS and name not in UNCHECKED:
            found += [f"{place}/{inner} is {kind_of(mode)}" for inner, mode in _strange(place)]
    return found


def _strange(folder: Path) -> Iterator[tuple[str, int]]:
    """Entries below a folder that are neither files nor folders, by their relative path."""
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            place = Path(root) / name
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:  # another process has renamed its temporary file
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield str(place.relative_to(folder)), mode


def remove_leftovers(path: Path, lock: str) -> None:
    """Remove temporary files of killed processes. ``lock`` is the lock that only this process holds."""
    for pattern in LEFTOVERS[lock]:
        for left in path.glob(pattern):
            remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder. A folder is renamed first, so that it is never found incomplete."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    os.replace(path, hidden)
    shutil.rmtree(hidden)
