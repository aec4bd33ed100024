"""Build objects from the nodes of a config. This is the only place where a string becomes a class.

A node is a mapping with a ``name`` and arguments, ``{"name": "VPSDE", "beta_min": 0.1}``. Arguments may be nodes or lists of
nodes. The known names are the public classes and functions of the library's packages. ``"package.module:Name"`` names
any other class or function that can be imported. An unknown name or argument is an error; the message lists the known
ones and suggests the closest match.

Before a class or function is called, it is compared with the annotation of the parameter that it is passed to: a class
must be a subclass of the annotated class, a function must accept the annotated arguments. Every exception of a
constructor becomes a `ConfigError` with a message of one line. ``trust.py`` decides which names the config of a work
folder may contain.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

import scoresde.data
import scoresde.filters
import scoresde.guidance
import scoresde.jump
import scoresde.jump.confidences
import scoresde.jump.grids
import scoresde.likelihood
import scoresde.loggers
import scoresde.losses
import scoresde.metrics
import scoresde.networks
import scoresde.noise_distributions
import scoresde.operators
import scoresde.product
import scoresde.samplers
import scoresde.samplers.adaptive
import scoresde.samplers.discretization
import scoresde.samplers.exponential
import scoresde.samplers.fitted
import scoresde.samplers.grids
import scoresde.samplers.predictor_corrector
import scoresde.schedules
import scoresde.score
import scoresde.score.predictions
import scoresde.score.quantized
import scoresde.sde
import scoresde.solvers
from scoresde._validation import shown, suggestion
from scoresde.experiment.config.annotations import (
    accepts_class,
    accepts_value,
    describe,
    hints,
    makes,
    parameters_of,
    union_members,
)
from scoresde.experiment.config.limits import check_count_size, is_out_of_memory

_PACKAGES = (
    scoresde.sde,
    scoresde.score,
    scoresde.score.predictions,
    scoresde.score.quantized,
    scoresde.losses,
    scoresde.networks,
    scoresde.noise_distributions,
    scoresde.data,
    scoresde.operators,
    scoresde.samplers,
    scoresde.samplers.adaptive,
    scoresde.samplers.discretization,
    scoresde.samplers.exponential,
    scoresde.samplers.fitted,
    scoresde.samplers.grids,
    scoresde.samplers.predictor_corrector,
    scoresde.schedules,
    scoresde.jump,
    scoresde.jump.confidences,
    scoresde.jump.grids,
    scoresde.product,
    scoresde.solvers,
    scoresde.guidance,
    scoresde.filters,
    scoresde.likelihood,
    scoresde.metrics,
    scoresde.loggers,
)

Kind = TypeVar("Kind")


class ConfigError(ValueError):
    """A config from which no experiment can be built. The message names the key and states what is allowed."""


@functools.cache
def known_names() -> dict[str, Any]:
    """Every public class and function of the packages, by name."""
    found: dict[str, Any] = {}
    for package in _PACKAGES:
        for name in getattr(package, "__all__", [n for n in vars(package) if not n.startswith("_")]):
            thing = getattr(package, name)
            own = re.match(r"scoresde\.(?!_)", getattr(thing, "__module__", ""))
            exception = inspect.isclass(thing) and issubclass(thing, BaseException)
            if own and not exception and (inspect.isclass(thing) or inspect.isfunction(thing)):
                found[name] = thing
    return found


def build(node: Mapping[str, Any], where: str, kind: type[Kind] | None = None, **context: Any) -> Kind:
    """Build the object that a node describes.

    Args:
        node: A mapping with a ``name`` and arguments.
        where: The key of the node, for messages.
        kind: The class that the object must be an instance of.
        context: Values for parameters that the config does not give. They are used if the target has a parameter of
            that name.

    Returns:
        The object. If the node names a function, the function itself, or a ``functools.partial`` of it with the arguments.
        The same for a class where the annotation asks for a function that makes its instances.

    Raises:
        ConfigError: If the node cannot be built. A class or function of the wrong kind is not called.
    """
    out: Kind = _build(node, where, kind, context)
    return out


def build_section(cls: type[Kind], node: Mapping[str, Any], where: str, **context: Any) -> Kind:
    """Build the object of a section whose class is fixed, so that it has no ``name``.

    Args:
        cls: The class of the section.
        node: The section.
        where: The key of the section, for messages.
        context: Arguments that the section may not give.

    Raises:
        ConfigError: For unknown keys and wrong values.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"config.{where}={shown(node)}: give a section, {{'key': value, ...}}")
    for key in ("name", *context):
        if key in node:
            takes = [name for name in inspect.signature(cls).parameters if name not in context]
            raise ConfigError(f"config.{where}.{key} is not known: config.{where} takes {', '.join(takes)}")
    out: Kind = _construct(cls, node, where, "", context)
    return out


def find_class(node: Any, where: str, kind: Any) -> Any:
    """The class or function that a node names, before it is called.

    Args:
        node: A mapping with a ``name`` and arguments.
        where: The key of the node, for messages.
        kind: The annotation that it must suit.

    Raises:
        ConfigError: If there is none, or if it is not of the kind.
    """
    if not isinstance(node, Mapping) or "name" not in node:
        raise ConfigError(f"config.{where}={shown(node)}: give a node, {{'name': ..., arguments}}, of {_kind(kind)}")
    name, arguments = node["name"], {key: value for key, value in node.items() if key != "name"}
    if not isinstance(name, str):
        raise ConfigError(f"config.{where}.name={shown(name)} is not allowed: give the name of a class")
    target = _find(name, where, kind)
    if inspect.isfunction(target):
        _check_names(arguments, where, target, f"{name} ")
    if _incomplete(target) or not accepts_class(target, kind, arguments):
        raise ConfigError(f"config.{where}: {name} is not allowed here: give {_kind(kind)}, {_allowed(kind)}")
    return target


def _build(node: Any, where: str, hint: Any, context: Mapping[str, Any]) -> Any:
    target = find_class(node, where, hint)
    arguments = {key: value for key, value in node.items() if key != "name"}
    called = inspect.isclass(target) and not makes(target, hint)
    return _construct(target, arguments, where, f"{node['name']} ", context, called=called)


def _construct(
    target: Any, node: Mapping[str, Any], where: str, title: str, context: Mapping[str, Any], *, called: bool = True
) -> Any:
    """Call a class with the arguments of its node. Without ``called``, the function of the remaining arguments."""
    parameters, annotated = parameters_of(target), hints(target)
    arguments = _arguments(node, where, target, title, context)
    wrong = next((key for key, value in arguments.items() if not accepts_value(value, annotated.get(key))), None)
    if not called:
        if wrong is not None:
            raise ConfigError(_wrong(where, wrong, node[wrong], annotated[wrong]))
        return functools.partial(target, **arguments) if arguments or inspect.isclass(target) else target
    filled = {key: value for key, value in context.items() if key in parameters and key not in arguments}
    taken = {**arguments, **filled}
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in taken
    ]
    if missing:
        raise ConfigError(f"config.{where}: {title}needs {', '.join(missing)}")
    message = "" if wrong is None else _wrong(where, wrong, node[wrong], annotated[wrong])
    with config_errors(where, title, arguments, message):
        made = target(**taken)
    if message:
        raise ConfigError(message)
    return made


@contextmanager
def config_errors(where: str, title: str = "", arguments: Collection[str] = (), wrong: str = "") -> Iterator[None]:
    """Turn the exceptions of a constructor into a ConfigError of one line.

    Args:
        where: The key of the node, for messages.
        title: The name of the class followed by a space, or an empty string.
        arguments: Names of the arguments. A message that begins with one of them gets its key in front.
        wrong: The message if the constructor's own message does not name an argument.
    """
    try:
        yield
    except (ConfigError, OSError):
        raise
    except (Exception, SystemExit) as problem:
        message = str(problem).strip()
        if message.partition("=")[0] in arguments:  # "steps=0 is not allowed: ..."
            raise ConfigError(f"config.{where}.{_line(message)}") from problem
        if wrong:
            raise ConfigError(wrong) from problem
        if is_out_of_memory(problem):
            message = f"{title}does not fit into memory: give smaller sizes"
        elif isinstance(problem, ValueError | TypeError):
            message = f"{title and f'{title}cannot be built: '}{_line(message)}"
        else:
            message = (
                f"{title and f'{title}cannot be built: '}{type(problem).__name__}: {_line(message)} ({_place(problem)})"
            )
        raise ConfigError(f"config.{where}: {message}") from problem


def _arguments(
    node: Mapping[str, Any], where: str, target: Any, title: str, context: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a node, with nested nodes built.

    Raises ConfigError for arguments that the target does not have.
    """
    _check_names(node, where, target, title)
    annotated, arguments = hints(target), {}
    ours = title and target.__module__.startswith("scoresde.")
    for key, value in node.items():
        if key in ("sde", "process") and key in context:
            raise ConfigError(f"config.{where}.{key} is not allowed: it is config.{key}")
        if isinstance(value, Mapping) and "name" in value:
            arguments[key] = _build(value, f"{where}.{key}", annotated.get(key), context)
        elif _is_nodes(value):
            item = (typing.get_args(annotated.get(key)) or (None,))[0]
            arguments[key] = tuple(_build(one, f"{where}.{key}.{k}", item, context) for k, one in enumerate(value))
        else:
            if ours and (problem := check_count_size(key, value)):
                raise ConfigError(f"config.{where}.{problem}")
            arguments[key] = tuple(value) if isinstance(value, list) else value
    return arguments


def _is_nodes(value: Any) -> bool:
    """Whether a value is a list of nodes."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(one, Mapping) and "name" in one for one in value)
    )


def _check_names(node: Mapping[str, Any], where: str, target: Any, title: str) -> None:
    """Raise ConfigError for an argument that the target does not have."""
    allowed = [
        name for name, p in parameters_of(target).items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]  # fmt: skip
    for key in node:
        if key not in allowed:
            raise ConfigError(
                f"config.{where}.{key} is not known: {title or f'config.{where} '}takes {', '.join(allowed) or 'none'}"
                f"{suggestion(key, allowed)}"
            )


def _find(name: str, where: str, hint: Any) -> Any:
    """The class or function of a name. Raises ConfigError if it does not exist or cannot be used in a config."""
    if ":" not in name:
        if name in known_names():
            return known_names()[name]
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
        message = f"{type(problem).__name__}: " if not isinstance(problem, ImportError | AttributeError) else ""
        raise ConfigError(
            f"config.{where}.name={name!r} cannot be imported: {message}{_line(str(problem))}{hint}"
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
    """The known names that are allowed for an annotation. Networks are callable, but are not listed as functions."""
    network = makes(nn.Module, hint) or any(
        inspect.isclass(one) and issubclass(one, nn.Module) for one in union_members(hint)
    )
    return sorted(
        name for name, thing in known_names().items()
        if accepts_class(thing, hint)
        and not (_incomplete(thing) or (inspect.isclass(thing) and issubclass(thing, nn.Module) and not network))
    )  # fmt: skip


def _incomplete(target: Any) -> bool:
    """Whether a class is abstract or a protocol."""
    return inspect.isabstract(target) or getattr(target, "_is_protocol", False)


def _allowed(hint: Any) -> str:
    return f"allowed are {', '.join(_fitting(hint)) or 'none of scoresde'}"


def _kind(hint: Any) -> str:
    return "a class" if hint is None else describe(hint).replace("a node of ", "")


def _wrong(where: str, key: str, value: Any, hint: Any) -> str:
    return f"config.{where}.{key}={shown(value)} is not allowed: give {describe(hint)}"


def _line(text: str) -> str:
    """The first line of a text, shortened."""
    first = text.strip().splitlines()[0] if text.strip() else "without a message"
    return first if len(first) <= 400 else first[:400] + " ..."


def _place(problem: BaseException) -> str:
    """The file and line where an exception was raised, for the author of the class."""
    frames = traceback.extract_tb(problem.__traceback__) or traceback.extract_stack(sys._getframe(), 1)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
