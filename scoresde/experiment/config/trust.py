"""The names that the config of a work folder may contain.

A config in Python is code. Whoever passes it to ``--config`` trusts it, and the classes that it names. The config.json
of a work folder is data and may come from anyone, together with the checkpoints. It may name the library's own classes.
Any other name would make Python import a module, so it requires ``--trust MODULE`` on the command line, which the
author of the folder cannot write. Names are checked when the file is read (``loader.py``), before anything is imported
or built. Values of ``--config.KEY=VALUE`` are typed by the user and trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import scoresde

PROGRAMS = ("TorchScript",)
"""Classes of the library that run a program from a file.

A work folder may name them only if they are trusted by name.
"""


def untrusted(content: Mapping[str, Any], trust: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """The names in a config that need trust.

    Args:
        content: The config.
        trust: Modules or packages that are trusted, and names in `PROGRAMS`.

    Returns:
        Tuples (key, name, argument of ``--trust`` that allows the name).
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
    """Every ``name`` in a config with its key, including those in lists."""
    if isinstance(node, Mapping):
        if isinstance(node.get("name"), str):
            yield f"{key}.name".lstrip("."), node["name"]
        for part, value in node.items():
            yield from _names(value, f"{key}.{part}".lstrip("."))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _names(value, f"{key}.{number}")


def _own(module: str) -> bool:
    """Whether a module is a file of the library that does nothing when it is imported."""
    first, *parts = module.split(".")
    if first != "scoresde" or not parts or not all(part.isidentifier() and part[0] != "_" for part in parts):
        return False
    place = Path(scoresde.__file__).parent.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
