"""Configs of score_sde_pytorch as data, from Python files, which are parsed and never executed, or from JSON files.

    settings = read_settings("configs/vp/cifar10_ddpmpp.py", {"model.num_scales": "1000"})
    settings["model"]["nf"]

A Python file is interpreted statement by statement. The interpreter supports assignments of literals, arithmetic,
``ConfigDict()``, names for sections of the config (``model = config.model``), functions without arguments, and imports of
other configs. It searches for imported configs next to the file and in the folders above it, and knows the three default
configs of the reference without their files. Everything else becomes `Unread`, which is an error if its value is needed.
Statements that could change a config in an unknown way are errors.
"""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde.interop.errors import ConvertError
from scoresde.interop.source_expressions import Unread
from scoresde.interop.source_statements import Module

MOST_BYTES = 1_000_000
"""Largest size of a config in bytes."""
UNUSED = "unused"
"""The value that removes a setting on which the network does not depend."""


def read_settings(file: str | Path, given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read the settings of a config of score_sde_pytorch.

    Args:
        file: A Python file with ``get_config()``, which is not executed, or a JSON file with the sections at its top level
            or under ``"config"``.
        given: Values by dotted key, as Python literals or bare strings, that replace those of the file. "unused" removes a key.

    Returns:
        Sections of values, as nested dictionaries. A value that cannot be read as data is an `Unread`.

    Raises:
        ConvertError: If the file is not such a config, or changes it in an unknown way. The message names file and line.
        OSError: If the file does not exist.
    """
    path = Path(file)
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConvertError(f"{path} has more than {MOST_BYTES:,} bytes: it is not a config of score_sde_pytorch")
    try:
        settings = _of_json(path, content) if path.suffix == ".json" else Module.of(path).call("get_config")
    except (RecursionError, MemoryError) as problem:
        raise ConvertError(f"{path} is nested too deeply for a config of score_sde_pytorch") from problem
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise ConvertError(f"{path} is not a config of score_sde_pytorch: it has no section `model`")
    settings = copy.deepcopy(settings)
    for key, text in (given or {}).items():
        _give(settings, key, text)
    return settings


def _of_json(path: Path, content: bytes) -> Any:
    try:
        found = json.loads(content)
    except ValueError as problem:
        raise ConvertError(f"{path} is not JSON: {problem}") from problem
    return found["config"] if isinstance(found, dict) and "config" in found else found


def _give(settings: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    node: Any = settings
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not last:
        raise ConvertError(
            f"--source.{key}={text!r} is not allowed: give a setting of the source's config, e.g. model.nf"
        )
    if text == UNUSED:
        node.pop(last, None)
        return
    try:
        node[last] = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        node[last] = {"true": True, "false": False, "none": None}.get(text.lower(), text)


__all__ = ["Unread", "read_settings"]
