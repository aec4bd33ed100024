"""Load configs and applies overrides from the command line.

A config is an ml_collections ConfigDict that the function ``get_config()`` of a Python file returns::

    config = load_config("configs/vp/digits.py")
    apply_overrides(config, {"training.steps": "500", "sde.name": "VESDE"})

An override sets a key. Whether the key and its value are allowed is checked when the experiment is built, because the
classes define their arguments. Overriding the ``name`` of a node removes the other arguments of the node, since the
arguments of the old class do not fit the new one.
"""

from __future__ import annotations

import ast
import json
import math
import traceback
from collections.abc import Collection, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scoresde._validation import shown, suggestion
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.trust import untrusted

SECTIONS = (
    "seed", "device", "threads", "data", "sde", "process", "network", "model", "objective", "objectives", "training", "sampling",
    "samplers", "guidance", "likelihood", "evaluation", "editing", "loggers",
)  # fmt: skip
"""The keys at the top level of a config."""
OPTIONAL = (
    "sde",
    "process",
    "model",
    "objectives",
    "training",
    "sampling",
    "samplers",
    "guidance",
    "likelihood",
    "evaluation",
    "editing",
    "loggers",
)
"""The sections that a config may leave out."""
BY_NAME = ("sampling.condition", "editing.condition", "editing.guidance")
"""Values that may be a text or missing, or values by name. An override of one name, ``sampling.condition.label``, makes the
latter."""
LARGEST_FILE = 2**24
"""Largest size of a config.json in bytes."""
LONGEST = 100_000
"""Largest number of characters of a value on the command line."""
DEEPEST = 32
"""Largest depth of nested nodes and lists."""


def load_config(file: str | Path, trust: Collection[str] = ()) -> ConfigDict:
    """Load the config of a Python file, or the config.json of a work folder.

    Args:
        file: A Python file with a function ``get_config()``, which is executed. Or a JSON file, which is data: it may
            name the library's own classes only.
        trust: Modules or packages whose classes a JSON file may name as well; see ``trust.py``.

    Returns:
        The config.

    Raises:
        ConfigError: If there is no config, or if a JSON file names a class that is not trusted.
    """
    path = Path(file)
    if path.is_dir():
        raise ConfigError(f"--config {str(file)!r} is a folder: give a Python file with get_config()")
    if not path.is_file():
        there = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"--config {str(file)!r}: no such file{suggestion(str(file), there)}")
    return _folder_config(path, trust) if path.suffix == ".json" else _python_config(path)


def _python_config(path: Path) -> ConfigDict:
    spec = spec_from_file_location(f"scoresde_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {str(path)!r}: this is not a Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(f"--config {str(path)!r}: the file has no function get_config()")
        config = module.get_config()
    except ConfigError:
        raise
    except (Exception, SystemExit) as problem:
        message = one_line(problem)
        raise ConfigError(
            f"--config {_line(path, problem)}: {type(problem).__name__}: {message}{_dots(message)}"
        ) from problem
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config {str(path)!r}: get_config() must return an ml_collections.ConfigDict")
    return config


def _folder_config(file: Path, trust: Collection[str]) -> ConfigDict:
    """The config of a work folder.

    Raises ConfigError if the file is not a config or names a class that is not trusted.
    """
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE} bytes")
        content = read_config(file.read_text())
        if wrong := untrusted(content, trust):
            key, name, needed = wrong[0]
            if not all(part.isidentifier() for part in needed.split(".")):
                raise ConfigError(f"{str(file)!r}: config.{key}={shown(name)} is not allowed: give the name of a class")
            flags = " ".join(f"--trust {one}" for one in dict.fromkeys(one for _, _, one in wrong))
            raise ConfigError(
                f"{str(file)!r}: config.{key}={shown(name)} is not allowed in a folder's config, since it runs code: if you "
                f"trust it, give {flags}, or --config with a Python file"
            )
        return ConfigDict(content)
    except ConfigError:
        raise
    except Exception as problem:
        message = one_line(problem)
        raise ConfigError(
            f"--config {str(file)!r} is not the config.json of a work folder: {message}{_dots(message)}"
        ) from problem


def read_config(text: str) -> dict[str, Any]:
    """The content of a config.json. Raises ConfigError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"this is not the config.json of a work folder: {one_line(problem)}") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"this is not the config.json of a work folder: its content is a {type(content).__name__}")
    check_values(content)
    return content


def check_values(node: Any, key: str = "", depth: int = 0) -> None:
    """Raise ConfigError for values that no key accepts.

    These are numbers that are not finite or exceed 64 bits, and nodes that are nested too deeply.
    """
    if depth > DEEPEST:
        raise ConfigError(f"config.{key[:80]} is nested too deeply: give at most {DEEPEST} levels of nodes and lists")
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not isinstance(name, str):
                raise ConfigError(f"config.{key}: {shown(name)} is not allowed as a key: give text")
            check_values(value, f"{key}.{name}".lstrip("."), depth + 1)
    elif isinstance(node, list | tuple):
        for value in node:
            check_values(value, key, depth + 1)
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        message = f"={node}" if node.bit_length() < 256 else f" of {node.bit_length()} bits"
        raise ConfigError(f"config.{key}{message} is not allowed: give whole numbers within 64 bits")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"config.{key}={node!r} is not allowed: give finite numbers")


def one_line(problem: BaseException) -> str:
    """The message of an exception in one line of limited length."""
    message = " ".join(str(problem).split())
    return message if len(message) <= 400 else message[:400] + " ..."


def _dots(message: str) -> str:
    """A hint that completes the message of ml_collections about dots in keys."""
    return "; give it a name without dots" if "accept dots" in message else ""


def _line(path: Path, problem: BaseException) -> str:
    """The file name and the innermost line of that file that led to an exception."""
    lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if Path(f.filename) == path.absolute()]
    if isinstance(problem, SyntaxError) and Path(problem.filename or "") == path.absolute():
        lines = [problem.lineno]
    return f"{str(path)!r}" + (f", line {lines[-1]}" if lines else "")


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Set keys of a config to values from the command line.

    Args:
        config: The config, changed in place.
        overrides: Values by dotted key. A value is a Python literal, or otherwise a plain string.

    Raises:
        ConfigError: For a key that does not exist or a value that cannot be set.
    """
    # names first, because they remove the other arguments of a node
    for key in sorted(overrides, key=lambda k: not k.endswith(".name")):
        *parents, last = key.split(".")
        node = config
        if parents and parents[0] in OPTIONAL and parents[0] not in config:
            with config.unlocked():
                config[parents[0]] = ConfigDict()
        for depth, part in enumerate(parents):
            by_name = ".".join(parents[: depth + 1]) in BY_NAME
            if by_name and isinstance(node, ConfigDict) and not isinstance(node.get(part), ConfigDict):
                with node.unlocked(), node.ignore_type():
                    node[part] = ConfigDict()
            if not isinstance(node, ConfigDict) or part not in node:
                _refuse(".".join(parents[: depth + 1]), node, part)
            node = node[part]
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"--config.{key}: config.{'.'.join(parents)}={node!r} has no keys below it")
        if not parents and last not in (*config, *SECTIONS):
            _refuse(last, config, last)
        value = _literal(key, overrides[key])
        if last == "name" and node.get("name") != value:
            for old in list(node):
                del node[old]
        try:
            with node.unlocked(), node.ignore_type():
                node[last] = value
        except Exception as problem:
            message = one_line(problem)
            raise ConfigError(f"--config.{key}={shown(value)} cannot be set: {message}{_dots(message)}") from problem


def _refuse(key: str, node: Any, part: str) -> None:
    there = list(node) if isinstance(node, ConfigDict) else []
    if key == part:  # a section that the config does not have yet is allowed too
        there = sorted({*there, *SECTIONS})
    raise ConfigError(
        f"--config.{key} is not known: the keys are {', '.join(there) or 'none'}{suggestion(part, there)}"
    )


def _literal(key: str, text: str) -> Any:
    """The value of a text on the command line: a Python literal, or otherwise the text itself. Raises ConfigError."""
    if len(text) > LONGEST:
        raise ConfigError(f"--config.{key} has a value of {len(text)} characters: give at most {LONGEST}")
    try:
        value = ast.literal_eval(_NotFinite().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, TypeError) as problem:
        if text.strip()[:1] in ("{", "["):
            raise ConfigError(
                f"--config.{key}={shown(text)} is not allowed: {_first_name(text)}; give a Python value, with texts in quotes"
            ) from problem
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    except (MemoryError, RecursionError) as problem:
        raise ConfigError(f"--config.{key} has a value that is nested too deeply") from problem
    check_values(value, key)
    return value


class _NotFinite(ast.NodeTransformer):
    """Replaces nan and inf within a value by the floats, which ``check_values`` refuses by their key."""

    def visit_Expression(self, node: ast.Expression) -> ast.AST:
        return node if isinstance(node.body, ast.Name) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(float(node.id)), node) if node.id in ("nan", "inf") else node


def _first_name(text: str) -> str:
    """What is wrong with the text of a value: its first name without quotes, or its syntax."""
    try:
        names = [node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)]
    except SyntaxError as problem:
        return f"{problem.msg} at character {problem.offset}"
    return f"{names[0]} is not a value" if names else "it holds an expression"


def to_json(config: ConfigDict) -> str:
    """The config as JSON with sorted keys, as it is saved in the work folder."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"


def difference(ours: str, theirs: str) -> list[str]:
    """A line ``key: theirs -> ours`` for every key in which two JSON configs differ."""
    a, b = flat(read_config(ours)), flat(read_config(theirs))
    return [
        f"{k}: {b.get(k, '(absent)')!r} -> {a.get(k, '(absent)')!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)
    ]


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by their dotted keys."""
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: node}
