"""Configs of score_sde_pytorch as data: Python files by their syntax tree, never executed, or JSON.

    settings = read_settings("configs/vp/cifar10_ddpmpp.py", {"model.num_scales": "1000"})
    settings["model"]["nf"]

A Python file is read statement by statement: assignments of literals, arithmetic on them, ``ConfigDict()``, names for parts of
the config (``model = config.model``), functions without arguments, and imports of other configs. These are looked for next to
the file and in the folders above it; the reference's three default configs are known without their files. Everything else is
`Unread`, and an error once its value is needed. Statements that could change a config in a way that cannot be read are errors.
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
"""Larger files are no configs."""
UNUSED = "unused"
"""What a user gives for a setting that the network does not depend on."""


def read_settings(file: str | Path, given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings of a config of score_sde_pytorch, section by section.

    Args:
        file: a Python file with ``get_config()``, which is not executed, or a JSON file with the sections, at its top or below
            ``"config"``.
        given: values by dotted key, as Python literals or bare strings, which replace the file's; "unused" removes a key.

    Returns:
        Nested dictionaries. A value that cannot be read as data is an `Unread`.

    Raises:
        ConvertError: the file is not such a config, or changes it in a way that cannot be read; names file and line.
        OSError: there is no such file.
    """
    path = Path(file)
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConvertError(f"{path} has more than {MOST_BYTES:,} bytes: it is no config of score_sde_pytorch")
    try:
        settings = _of_json(path, content) if path.suffix == ".json" else Module.of(path).call("get_config")
    except (RecursionError, MemoryError) as problem:
        raise ConvertError(f"{path} is nested too deeply for a config of score_sde_pytorch") from problem
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise ConvertError(f"{path} is no config of score_sde_pytorch: it has no section `model`")
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
