"""Config files: ml_collections configs made by ``get_config()``, overridden from the command line.

    config = load_config("configs/vp/digits.py")
    apply_overrides(config, {"training.steps": "500", "sde.name": "VESDE"})

An override sets a key; whether the key and its value are allowed is seen when the experiment is built, where the classes know
their arguments. Overriding a node's ``name`` starts the node anew: the old class's arguments do not fit the new one.
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
    "seed", "device", "threads", "data", "sde", "network", "model", "objective", "training", "sampling", "samplers", "likelihood",
    "evaluation",
)  # fmt: skip
"""The keys at the top of a config."""
OPTIONAL = ("model", "training", "sampling", "samplers", "likelihood", "evaluation")
"""Those with keys below them that a config may leave out."""
LARGEST_FILE = 2**24
"""Bytes of a config.json."""
LONGEST = 100_000
"""Characters of a value on the command line."""
DEEPEST = 32
"""Levels of nodes and lists in each other."""


def load_config(file: str | Path, trust: Collection[str] = ()) -> ConfigDict:
    """The config of a Python file's ``get_config()``, or that of a work folder's config.json.

    Args:
        file: a Python file is code, and is executed. A JSON file is data: it may name the library's own classes only.
        trust: modules, or packages, whose classes a JSON file may name too; see trust.py.

    Raises:
        ConfigError: where there is no config, or a JSON file names what is not trusted.
    """
    path = Path(file)
    if path.is_dir():
        raise ConfigError(f"--config {str(file)!r} is a folder: give a Python file with get_config()")
    if not path.is_file():
        there = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"--config {str(file)!r}: no such file{suggestion(str(file), there)}")
    return _kept_config(path, trust) if path.suffix == ".json" else _python_config(path)


def _python_config(path: Path) -> ConfigDict:
    spec = spec_from_file_location(f"scoresde_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {str(path)!r}: not a Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(f"--config {str(path)!r}: has no function get_config()")
        config = module.get_config()
    except ConfigError:
        raise
    except (Exception, SystemExit) as problem:
        said = one_line(problem)
        raise ConfigError(
            f"--config {_line(path, problem)}: {type(problem).__name__}: {said}{_dots(said)}"
        ) from problem
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config {str(path)!r}: get_config() must return an ml_collections.ConfigDict")
    return config


def _kept_config(file: Path, trust: Collection[str]) -> ConfigDict:
    """A folder's config. Raises ConfigError for what is none, and for names that are not trusted."""
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
        said = one_line(problem)
        raise ConfigError(
            f"--config {str(file)!r} is not the config.json of a work folder: {said}{_dots(said)}"
        ) from problem


def read_config(text: str) -> dict[str, Any]:
    """The content of a config.json. Raises ConfigError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"this is not the config.json of a work folder: {one_line(problem)}") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"this is not the config.json of a work folder: it holds a {type(content).__name__}")
    check_values(content)
    return content


def check_values(node: Any, key: str = "", depth: int = 0) -> None:
    """Raise ConfigError for values that no key takes: numbers that are not finite or do not fit into 64 bits, and nodes that lie
    too deep."""
    if depth > DEEPEST:
        raise ConfigError(f"config.{key[:80]} lies too deep: give at most {DEEPEST} levels of nodes and lists")
    if isinstance(node, Mapping):
        for name, value in node.items():
            if not isinstance(name, str):
                raise ConfigError(f"config.{key}: {shown(name)} is not allowed as a key: give text")
            check_values(value, f"{key}.{name}".lstrip("."), depth + 1)
    elif isinstance(node, list | tuple):
        for value in node:
            check_values(value, key, depth + 1)
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        said = f"={node}" if node.bit_length() < 256 else f" of {node.bit_length()} bits"
        raise ConfigError(f"config.{key}{said} is not allowed: give whole numbers within 64 bits")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"config.{key}={node!r} is not allowed: give finite numbers")


def one_line(problem: BaseException) -> str:
    """What an exception says, in one line that is not too long."""
    said = " ".join(str(problem).split())
    return said if len(said) <= 400 else said[:400] + " ..."


def _dots(said: str) -> str:
    """How to help ml_collections' message about dots."""
    return "; give it a name without dots" if "accept dots" in said else ""


def _line(path: Path, problem: BaseException) -> str:
    """``path``, line N: the innermost line of the file itself that led to a problem."""
    lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if Path(f.filename) == path.absolute()]
    if isinstance(problem, SyntaxError) and Path(problem.filename or "") == path.absolute():
        lines = [problem.lineno]
    return f"{str(path)!r}" + (f", line {lines[-1]}" if lines else "")


def apply_overrides(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Set dotted keys to values written as Python literals, or as bare strings. Raises ConfigError."""
    # names first: they start a node anew
    for key in sorted(overrides, key=lambda k: not k.endswith(".name")):
        *parents, last = key.split(".")
        node = config
        if parents and parents[0] in OPTIONAL and parents[0] not in config:
            with config.unlocked():
                config[parents[0]] = ConfigDict()
        for depth, part in enumerate(parents):
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
            said = one_line(problem)
            raise ConfigError(f"--config.{key}={shown(value)} cannot be set: {said}{_dots(said)}") from problem


def _refuse(key: str, node: Any, part: str) -> None:
    there = list(node) if isinstance(node, ConfigDict) else []
    raise ConfigError(
        f"--config.{key} is not known: there are {', '.join(there) or 'no keys'}{suggestion(part, there)}"
    )


def _literal(key: str, text: str) -> Any:
    """A value on the command line: a Python literal, or else the text itself. Raises ConfigError."""
    if len(text) > LONGEST:
        raise ConfigError(f"--config.{key} has a value of {len(text)} characters: give at most {LONGEST}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    except (MemoryError, RecursionError) as problem:
        raise ConfigError(f"--config.{key} has a value that is nested too deep") from problem
    check_values(value, key)
    return value


def to_json(config: ConfigDict) -> str:
    """The config as stable JSON: what a work folder keeps and compares."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"


def difference(ours: str, theirs: str) -> list[str]:
    """Lines ``key: theirs -> ours`` for every key in which two JSON configs differ."""
    a, b = _flat(read_config(ours)), _flat(read_config(theirs))
    return [
        f"{k}: {b.get(k, '(absent)')!r} -> {a.get(k, '(absent)')!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)
    ]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: node}
