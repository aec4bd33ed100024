"""From a config's nodes to objects: the one place where a string becomes a class.

A node is a mapping with a ``name`` and arguments, ``{"name": "VPSDE", "beta_min": 0.1}``; arguments may be nodes. The known
names are the public classes and functions of the library's packages, found by looking, so that there is no registry to keep;
``"package.module:Name"`` names anything else that can be imported. A name or an argument that is not known is refused with
the known ones and the nearest.

What a name stands for is compared with the annotation of the parameter that it is for, before it is called: a class must be a
subclass of the annotated one, a function must take what is annotated. Every exception of a constructor becomes a `ConfigError`
of one line. Which names a work folder's config may have at all is decided where it is read: trust.py.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

import scoresde.data
import scoresde.likelihood
import scoresde.losses
import scoresde.metrics
import scoresde.networks
import scoresde.samplers
import scoresde.samplers.adaptive
import scoresde.samplers.discretization
import scoresde.samplers.exponential
import scoresde.samplers.fitted
import scoresde.samplers.grids
import scoresde.samplers.predictor_corrector
import scoresde.score
import scoresde.score.predictions
import scoresde.score.quantized
import scoresde.sde
import scoresde.solvers
from scoresde._validation import shown, suggestion
from scoresde.experiment.config.annotations import alternatives, described, fits, hints, offers
from scoresde.experiment.config.limits import check_count_size, is_out_of_memory

_ROOMS = (
    scoresde.sde,
    scoresde.score,
    scoresde.score.predictions,
    scoresde.score.quantized,
    scoresde.losses,
    scoresde.networks,
    scoresde.data,
    scoresde.samplers,
    scoresde.samplers.adaptive,
    scoresde.samplers.discretization,
    scoresde.samplers.exponential,
    scoresde.samplers.fitted,
    scoresde.samplers.grids,
    scoresde.samplers.predictor_corrector,
    scoresde.solvers,
    scoresde.likelihood,
    scoresde.metrics,
)

Kind = TypeVar("Kind")


class ConfigError(ValueError):
    """A config that cannot be built; the message says which key, and what is allowed."""


@functools.cache
def known() -> dict[str, Any]:
    """Every public class and function of the packages, by name."""
    found: dict[str, Any] = {}
    for room in _ROOMS:
        for name in getattr(room, "__all__", [n for n in vars(room) if not n.startswith("_")]):
            thing = getattr(room, name)
            own = re.match(r"scoresde\.(?!_)", getattr(thing, "__module__", ""))
            exception = inspect.isclass(thing) and issubclass(thing, BaseException)
            if own and not exception and (inspect.isclass(thing) or inspect.isfunction(thing)):
                found[name] = thing
    return found


def build(node: Mapping[str, Any], where: str, kind: type[Kind] | None = None, **context: Any) -> Kind:
    """The object of a node.

    Args:
        node: a name and arguments.
        where: the key of the node, for messages.
        kind: what it must be an instance of.
        context: values for parameters that the config does not give, used where the target has a parameter of that name.

    Returns:
        The object; of a function, the function with `functools.partial` applied.

    Raises:
        ConfigError: where the node cannot be built. Nothing is called that is not of the kind.
    """
    out: Kind = _build(node, where, kind, context)
    return out


def settings(cls: type[Kind], node: Mapping[str, Any], where: str, **context: Any) -> Kind:
    """The object of a section without a name, whose class is fixed. context: values that the section may not give.

    Raises ConfigError for unknown keys and wrong values.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"config.{where}={shown(node)}: give a section, {{'key': value, ...}}")
    for key in ("name", *context):
        if key in node:
            takes = [name for name in inspect.signature(cls).parameters if name not in context]
            raise ConfigError(f"config.{where}.{key} is not known: config.{where} takes {', '.join(takes)}")
    out: Kind = _made(cls, node, where, "", context)
    return out


def _build(node: Any, where: str, hint: Any, context: Mapping[str, Any]) -> Any:
    if not isinstance(node, Mapping) or "name" not in node:
        raise ConfigError(f"config.{where}={shown(node)}: give a node, {{'name': ..., arguments}}, of {_kind(hint)}")
    name, arguments = node["name"], {key: value for key, value in node.items() if key != "name"}
    if not isinstance(name, str):
        raise ConfigError(f"config.{where}.name={shown(name)} is not allowed: give the name of a class")
    target = _find(name, where, hint)
    if inspect.isfunction(target):
        _named(arguments, where, target, f"{name} ")
    if _incomplete(target) or not offers(target, hint, arguments):
        raise ConfigError(f"config.{where}: {name} is not allowed here: give {_kind(hint)}, {_allowed(hint)}")
    return _made(target, arguments, where, f"{name} ", context)


def _made(target: Any, node: Mapping[str, Any], where: str, title: str, context: Mapping[str, Any]) -> Any:
    """The object of a class and what its node gives."""
    parameters, annotated = inspect.signature(target).parameters, hints(target)
    arguments = _arguments(node, where, target, title, context)
    wrong = next((key for key, value in arguments.items() if not fits(value, annotated.get(key))), None)
    if inspect.isfunction(target):
        if wrong is not None:
            raise ConfigError(_wrong(where, wrong, node[wrong], annotated[wrong]))
        return functools.partial(target, **arguments)
    filled = {key: value for key, value in context.items() if key in parameters and key not in arguments}
    taken = {**arguments, **filled}
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in taken
    ]
    if missing:
        raise ConfigError(f"config.{where}: {title}needs {', '.join(missing)}")
    said = "" if wrong is None else _wrong(where, wrong, node[wrong], annotated[wrong])
    with refused(where, title, arguments, said):
        made = target(**taken)
    if said:
        raise ConfigError(said)
    return made


@contextmanager
def refused(where: str, title: str = "", arguments: Collection[str] = (), wrong: str = "") -> Iterator[None]:
    """Make what a constructor raises a ConfigError of one line. wrong: said where the constructor names no parameter."""
    try:
        yield
    except (ConfigError, OSError):
        raise
    except (Exception, SystemExit) as problem:
        said = str(problem).strip()
        if said.partition("=")[0] in arguments:  # "steps=0 is not allowed: ..."
            raise ConfigError(f"config.{where}.{_line(said)}") from problem
        if wrong:
            raise ConfigError(wrong) from problem
        if is_out_of_memory(problem):
            said = f"{title}does not fit into memory: give smaller sizes"
        elif isinstance(problem, ValueError | TypeError):
            said = f"{title and f'{title}refuses: '}{_line(said)}"
        else:
            said = f"{title and f'{title}fails: '}{type(problem).__name__}: {_line(said)} ({_place(problem)})"
        raise ConfigError(f"config.{where}: {said}") from problem


def _arguments(
    node: Mapping[str, Any], where: str, target: Any, title: str, context: Mapping[str, Any]
) -> dict[str, Any]:
    """What a node gives its target, nodes among it built. Raises ConfigError for what the target does not take."""
    _named(node, where, target, title)
    annotated, arguments = hints(target), {}
    ours = title and target.__module__.startswith("scoresde.")
    for key, value in node.items():
        if key == "sde" and key in context:
            raise ConfigError(f"config.{where}.sde is not allowed: it is config.sde")
        if isinstance(value, Mapping) and "name" in value:
            arguments[key] = _build(value, f"{where}.{key}", annotated.get(key), context)
        else:
            if ours and (problem := check_count_size(key, value)):
                raise ConfigError(f"config.{where}.{problem}")
            arguments[key] = tuple(value) if isinstance(value, list) else value
    return arguments


def _named(node: Mapping[str, Any], where: str, target: Any, title: str) -> None:
    """Raise ConfigError for an argument that the target does not have."""
    allowed = [
        name for name, p in inspect.signature(target).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]  # fmt: skip
    for key in node:
        if key not in allowed:
            raise ConfigError(
                f"config.{where}.{key} is not known: {title or f'config.{where} '}takes {', '.join(allowed) or 'none'}"
                f"{suggestion(key, allowed)}"
            )


def _find(name: str, where: str, hint: Any) -> Any:
    """What a name stands for. Raises ConfigError where there is no such thing, or it cannot be in a config."""
    if ":" not in name:
        if name in known():
            return known()[name]
        near = suggestion(name, _fitting(hint))
        raise ConfigError(
            f"config.{where}.name={shown(name)} is not known: {_allowed(hint)}, or 'package.module:Name'{near}"
        )
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ConfigError(f"config.{where}.name={shown(name)} is not allowed: give 'package.module:Name'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        hint = "; is its folder on PYTHONPATH, or the current one?" if isinstance(problem, ImportError) else ""
        said = f"{type(problem).__name__}: " if not isinstance(problem, ImportError | AttributeError) else ""
        raise ConfigError(
            f"config.{where}.name={name!r} cannot be imported: {said}{_line(str(problem))}{hint}"
        ) from problem
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise ConfigError(
            f"config.{where}.name={name!r} is a {type(found).__name__}: give a class or a function written in Python"
        )
    if module.partition(".")[0] == "scoresde" and not found.__module__.startswith("scoresde."):
        raise ConfigError(f"config.{where}.name={name!r} is of {found.__module__}: give that module")
    try:
        inspect.signature(found)
    except ValueError as problem:
        raise ConfigError(f"config.{where}.name={name!r} does not say which arguments it takes") from problem
    return found


def _fitting(hint: Any) -> list[str]:
    """Known names that may stand where ``hint`` is annotated. Networks, which are callable too, are not listed as functions."""
    network = any(inspect.isclass(one) and issubclass(one, nn.Module) for one in alternatives(hint))
    return sorted(
        name for name, thing in known().items()
        if offers(thing, hint)
        and not (_incomplete(thing) or (inspect.isclass(thing) and issubclass(thing, nn.Module) and not network))
    )  # fmt: skip


def _incomplete(target: Any) -> bool:
    """Whether a class cannot have objects."""
    return inspect.isabstract(target) or getattr(target, "_is_protocol", False)


def _allowed(hint: Any) -> str:
    return f"allowed are {', '.join(_fitting(hint)) or 'none of scoresde'}"


def _kind(hint: Any) -> str:
    return "a class" if hint is None else described(hint).replace("a node of ", "")


def _wrong(where: str, key: str, value: Any, hint: Any) -> str:
    return f"config.{where}.{key}={shown(value)} is not allowed: give {described(hint)}"


def _line(text: str) -> str:
    """The first line, shortened."""
    first = text.strip().splitlines()[0] if text.strip() else "without a message"
    return first if len(first) <= 400 else first[:400] + " ..."


def _place(problem: BaseException) -> str:
    """Where an exception was raised, for who wrote the class."""
    frames = traceback.extract_tb(problem.__traceback__) or traceback.extract_stack(sys._getframe(), 1)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
