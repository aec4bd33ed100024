"""Config files: ml_collections configs made by ``get_config()``, overridden from the command line.

    config = load_config("configs/vp/digits.py")
    apply_overrides(config, {"training.steps": "500", "sde.name": "VESDE"})

An override sets a key; whether the key and its value are allowed is seen when the experiment is built, where the classes know
their arguments. Overriding a node's ``name`` starts the node anew: the old class's arguments do not fit the new one.
"""

from __future__ import annotations

import ast
import json
import traceback
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scoresde._validation import suggestion
from scoresde.experiment.build import ConfigError

SECTIONS = (
    "seed", "device", "threads", "data", "sde", "network", "model", "objective", "training", "sampling", "samplers", "likelihood",
    "evaluation",
)  # fmt: skip
"""The keys at the top of a config."""
OPTIONAL = ("model", "training", "sampling", "samplers", "likelihood", "evaluation")
"""Those with keys below them that a config may leave out."""


def load_config(file: str | Path) -> ConfigDict:
    """The config of a Python file's ``get_config()``, or that of a work folder's config.json. Raises ConfigError."""
    path = Path(file)
    if path.is_dir():
        raise ConfigError(f"--config {str(file)!r} is a folder: give a Python file with get_config()")
    if not path.is_file():
        there = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ConfigError(f"--config {str(file)!r}: no such file{suggestion(str(file), there)}")
    if path.suffix == ".json":
        return _kept_config(path)
    spec = spec_from_file_location(f"scoresde_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {str(file)!r}: not a Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(f"--config {str(file)!r}: has no function get_config()")
        config = module.get_config()
    except ConfigError:
        raise
    except (Exception, SystemExit) as problem:
        raise ConfigError(f"--config {_line(path, problem)}: {type(problem).__name__}: {problem}") from problem
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config {str(file)!r}: get_config() must return an ml_collections.ConfigDict")
    return config


def _kept_config(file: Path) -> ConfigDict:
    try:
        return ConfigDict(json.loads(file.read_text()))
    except (ValueError, TypeError) as problem:
        raise ConfigError(f"--config {str(file)!r} is not the config.json of a work folder: {problem}") from problem


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
        value = _literal(overrides[key])
        if last == "name" and node.get("name") != value:
            for old in list(node):
                del node[old]
        with node.unlocked(), node.ignore_type():
            node[last] = value


def _refuse(key: str, node: Any, part: str) -> None:
    there = list(node) if isinstance(node, ConfigDict) else []
    raise ConfigError(
        f"--config.{key} is not known: there are {', '.join(there) or 'no keys'}{suggestion(part, there)}"
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def to_json(config: ConfigDict) -> str:
    """The config as stable JSON: what a work folder keeps and compares."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str) + "\n"


def difference(ours: str, theirs: str) -> list[str]:
    """Lines ``key: theirs -> ours`` for every key in which two JSON configs differ."""
    a, b = _flat(json.loads(ours)), _flat(json.loads(theirs))
    return [
        f"{k}: {b.get(k, '(absent)')!r} -> {a.get(k, '(absent)')!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)
    ]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: node}
