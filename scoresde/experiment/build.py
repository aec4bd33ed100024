"""From a config's nodes to objects: the one place where a string becomes a class.

A node is a mapping with a ``name`` and arguments, ``{"name": "VPSDE", "beta_min": 0.1}``; arguments may be nodes. The known
names are the public classes and functions of the library's rooms, found by looking, so that there is no registry to keep;
``"package.module:Name"`` names anything else that can be imported. A name or an argument that is not known is refused with
the known ones and the nearest.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import scoresde.data
import scoresde.levels
import scoresde.likelihood
import scoresde.losses
import scoresde.metrics
import scoresde.networks
import scoresde.predictions
import scoresde.samplers
import scoresde.samplers.grids
import scoresde.score
import scoresde.sde
import scoresde.solvers
from scoresde._validation import suggestion

_ROOMS = (
    scoresde.sde,
    scoresde.score,
    scoresde.predictions,
    scoresde.levels,
    scoresde.losses,
    scoresde.networks,
    scoresde.data,
    scoresde.samplers,
    scoresde.samplers.grids,
    scoresde.solvers,
    scoresde.likelihood,
    scoresde.metrics,
)

Kind = TypeVar("Kind")


class ConfigError(ValueError):
    """A config that cannot be built; the message says which key, and what is allowed."""


@functools.cache
def known() -> dict[str, Any]:
    """Every public class and function of the rooms, by name."""
    found: dict[str, Any] = {}
    for room in _ROOMS:
        for name in getattr(room, "__all__", [n for n in vars(room) if not n.startswith("_")]):
            thing = getattr(room, name)
            own = re.match(r"scoresde\.(?!_)", getattr(thing, "__module__", ""))
            if own and (inspect.isclass(thing) or inspect.isfunction(thing)):
                found[name] = thing
    return found


def build(
    node: Mapping[str, Any], where: str, kind: type[Kind] | None = None, *, among: tuple[type, ...] = (), **context: Any
) -> Kind:
    """The object of a node.

    where: the key of the node, for messages. kind: what it must be an instance of. among: classes whose subclasses are listed
    where the name is not known, ``kind`` unless given.
    context: values for parameters that the config does not give, used where the target has a parameter of that name.

    A function with ``functools.partial`` applied is returned in place of a call. Raises ConfigError.
    """
    if not isinstance(node, Mapping) or "name" not in node:
        raise ConfigError(f"config.{where}={node!r}: give a node, {{'name': ..., arguments}}")
    target = _find(str(node["name"]), where, among or ((kind,) if kind else ()))
    allowed = inspect.signature(target).parameters
    title = "" if kind is target else f"{node['name']} "
    arguments = _arguments(node, where, target, title, context)
    for key, value in context.items():
        if key in allowed and key not in arguments:
            arguments[key] = value
    if inspect.isfunction(target):
        return functools.partial(target, **arguments)  # type: ignore[return-value]
    missing = [
        name
        for name, p in allowed.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in arguments
    ]
    if missing:
        raise ConfigError(f"config.{where}: {node['name']} needs {', '.join(missing)}")
    try:
        made = target(**arguments)
    except (ValueError, TypeError) as problem:
        named = str(problem).partition("=")[0] in arguments  # "steps=0 is not allowed: ..."
        said = f".{problem}" if named else f": {title and f'{title}refuses: '}{problem}"
        raise ConfigError(f"config.{where}{said}") from problem
    if kind is not None and not isinstance(made, kind):
        raise ConfigError(f"config.{where}: {node['name']} is not a {kind.__name__}")
    return made


def _arguments(node: Mapping[str, Any], where: str, target: Any, title: str, context: dict[str, Any]) -> dict[str, Any]:
    """What a node gives its target, nodes among it built. Raises ConfigError for what the target does not take."""
    allowed, arguments = inspect.signature(target).parameters, {}
    for key, value in node.items():
        if key == "name":
            continue
        if key not in allowed:
            raise ConfigError(
                f"config.{where}.{key} is not known: {title or f'config.{where} '}takes {_listed(allowed)}"
                f"{suggestion(key, list(allowed))}"
            )
        nested = isinstance(value, Mapping) and "name" in value
        if nested:
            arguments[key] = build(value, f"{where}.{key}", among=_classes(target, key), **context)
        else:
            arguments[key] = _plain(value)
    return arguments


def settings(cls: type[Kind], node: Mapping[str, Any], where: str, **context: Any) -> Kind:
    """A dataclass of plain settings from a section without a name; unknown keys are refused. context: as for `build`."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"config.{where}={node!r}: give a section, {{'key': value, ...}}")
    return build({"name": f"{cls.__module__}:{cls.__qualname__}", **dict(node)}, where, cls, **context)


def _find(name: str, where: str, kinds: tuple[type, ...]) -> Any:
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as problem:
            hint = "" if isinstance(problem, AttributeError) else "; is its folder on PYTHONPATH, or the current one?"
            raise ConfigError(f"config.{where}.name={name!r} cannot be imported: {problem}{hint}") from problem
    names = known()
    if name not in names:
        fitting = sorted(
            n for n, thing in names.items()
            if not kinds or (inspect.isclass(thing) and issubclass(thing, kinds) and not inspect.isabstract(thing))
        )  # fmt: skip
        raise ConfigError(
            f"config.{where}.name={name!r} is not known: allowed are {', '.join(fitting)}, or 'package.module:Name'"
            f"{suggestion(name, fitting)}"
        )
    return names[name]


def _classes(target: Any, key: str) -> tuple[type, ...]:
    """The library's classes that a parameter is annotated with; () where that says nothing."""
    try:
        hint = typing.get_type_hints(target if inspect.isfunction(target) else target.__init__).get(key)
    except (NameError, TypeError, AttributeError):
        return ()
    ours = [c for c in typing.get_args(hint) or (hint,) if inspect.isclass(c) and c.__module__.startswith("scoresde")]
    return tuple(c for c in ours if not getattr(c, "_is_protocol", False))


def _listed(parameters: Mapping[str, Any]) -> str:
    return ", ".join(parameters) or "none"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
