"""Which names the config of a work folder may have.

A config in Python is code: who gives it to ``--config`` trusts it, and what it names. The config.json of a folder is data: it
may come from anyone, with the checkpoints. It may name the library's own classes. Any other name makes Python import a module,
so that it needs ``--trust MODULE`` on the command line, where the folder's author cannot write. Names are checked when the file
is read (config.py), before anything is imported or built; ``--config.KEY=VALUE`` is typed by the user, and trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import scoresde

PROGRAMS = ("TorchScript",)
"""Classes of the library's that run a program from a file: a folder may name them where they are trusted by name."""


def untrusted(content: Mapping[str, Any], trust: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """Names in a config that need trust: (key, name, what ``--trust`` takes to allow it).

    Args:
        content: the config.
        trust: modules or packages, and names in `PROGRAMS`, that are trusted.
    """
    found = []
    for key, name in _names(content, ""):
        module, colon, attribute = name.partition(":")
        own = not colon or _own(module)
        if own and (attribute or module) not in PROGRAMS:
            continue
        needed = (attribute or module) if own else module
        parents = [needed.rsplit(".", depth)[0] for depth in range(needed.count(".") + 1)]
        if not any(one in trust for one in parents):
            found.append((key, name, needed))
    return found


def _names(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every ``name`` in a config, with its key; in a list too."""
    if isinstance(node, Mapping):
        if isinstance(node.get("name"), str):
            yield f"{key}.name".lstrip("."), node["name"]
        for part, value in node.items():
            yield from _names(value, f"{key}.{part}".lstrip("."))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _names(value, f"{key}.{number}")


def _own(module: str) -> bool:
    """Whether a module is a file of the library's, and not one that does something when it is imported."""
    first, *parts = module.split(".")
    if first != "scoresde" or not parts or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    place = Path(scoresde.__file__).parent.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
