"""The values that a parameter accepts, read from its annotation.

Configs need two questions that the argument checks of ``scoresde._kinds`` do not answer: whether the class or function
that a node names is right for a parameter before it is called, and how to describe the allowed values of a config in a
message.

An annotation without information (``Any``, or none at all) accepts any value, and any class or Python function.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

_PLAIN = {
    bool: "True or False", int: "a whole number", float: "a finite number", str: "text in quotes", type(None): "None",
    Tensor: "a list of numbers",
}  # fmt: skip
_SEQUENCES = (tuple, list, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


@functools.lru_cache(maxsize=1024)
def hints(target: Any) -> Mapping[str, Any]:
    """The annotation of each parameter of a class or function. Empty if they cannot be resolved."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


@functools.lru_cache(maxsize=1024)
def parameters_of(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function, by name. Raises TypeError or ValueError if there is no signature."""
    return inspect.signature(target).parameters


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union. Any other annotation is returned as a tuple of one."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def accepts_class(target: Any, hint: Any, given: Mapping[str, Any] | None = None) -> bool:
    """Whether a node may name ``target`` for a parameter with the annotation ``hint``. Nothing is called.

    Args:
        target: The class or function that the node names.
        hint: The annotation of the parameter.
        given: The arguments of the node. A function must be callable with the remaining arguments as ``hint`` states.
    """
    if not inspect.isclass(target) and not inspect.isfunction(target):
        return False
    return any(_accepts_class(target, one, given) for one in union_members(hint))


def _accepts_class(target: Any, hint: Any, given: Mapping[str, Any] | None) -> bool:
    if _is_uninformative(hint):
        return True
    if (typing.get_origin(hint) or hint) is collections.abc.Callable:
        return makes(target, hint) or _callable(target, hint, given)
    if not inspect.isclass(hint) or not inspect.isclass(target) or hint in _PLAIN:
        return False
    if getattr(hint, "_is_protocol", False):
        return _implements(target, hint, own=1)
    return issubclass(target, hint)


def makes(target: Any, hint: Any) -> bool:
    """Whether a class is itself the function of ``Callable[..., Y]``, because its instances are Y."""
    made = [
        typing.get_args(one)[1] for one in union_members(hint) if typing.get_origin(one) is collections.abc.Callable
    ]
    plain = [kind for kind in made if inspect.isclass(kind) and typing.get_origin(kind) is None]
    return inspect.isclass(target) and issubclass(target, tuple(plain))


def _callable(target: Any, hint: Any, given: Mapping[str, Any] | None) -> bool:
    """Whether a function, or an instance of a class, matches ``Callable[[...], ...]``."""
    function, own = target, 0
    if inspect.isclass(target):
        # a module is called with what its forward takes
        function, own = getattr(target, "forward" if issubclass(target, nn.Module) else "__call__", None), 1
        if not any("__call__" in vars(cls) for cls in target.__mro__):
            return False
    wanted, back = (*typing.get_args(hint), ..., Any)[:2]
    arguments = list(wanted) if isinstance(wanted, list) else None
    try:
        signature = inspect.signature(function)
        if arguments is not None:
            keywords = {} if own or given is None else given
            signature.bind(*[None] * (own + len(arguments)), **keywords)
    except (TypeError, ValueError):
        return False
    annotated = {} if own and not inspect.isfunction(function) else hints(function)
    pairs = [(annotated.get("return"), back)]
    if arguments is not None:
        pairs += zip((annotated.get(name) for name in list(signature.parameters)[own:]), arguments, strict=False)
    return all(_agree(theirs, ours) for theirs, ours in pairs)


def _agree(theirs: Any, ours: Any) -> bool:
    """Whether two annotations can describe the same value. True if one of them has no information."""
    if theirs is None or _is_uninformative(theirs) or _is_uninformative(ours):
        return True
    if inspect.isclass(theirs) and inspect.isclass(ours):
        return issubclass(ours, theirs) or issubclass(theirs, ours)
    return theirs == ours or not (inspect.isclass(theirs) or inspect.isclass(ours))


def _implements(target: Any, protocol: type, own: int) -> bool:
    """Whether a class (``own=1``, for ``self``) or an object has the methods of a protocol, with compatible parameters."""
    for name in _members(protocol):
        method = getattr(target, name, None)
        if not callable(method):
            return False
        parameters = list(inspect.signature(vars(protocol)[name]).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty]
        keywords = {p.name: None for p in needed if p.kind is p.KEYWORD_ONLY}
        try:
            inspect.signature(method).bind(*[None] * (own + len(needed) - len(keywords)), **keywords)
        except TypeError:
            return False
        except ValueError:  # a builtin without a signature
            continue
    return True


def _members(protocol: type) -> list[str]:
    return [name for name, thing in vars(protocol).items() if inspect.isfunction(thing) and _is_member(name)]


def _is_member(name: str) -> bool:
    return not name.startswith("_") or name in ("__len__", "__getitem__", "__call__")


def _is_uninformative(hint: Any) -> bool:
    return hint in (Any, object, None, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar)


def accepts_value(value: Any, hint: Any) -> bool:
    """Whether a value, plain or built from a node, has the annotated type."""
    return any(_accepts_value(value, one) for one in union_members(hint))


def _accepts_value(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    if _is_uninformative(hint):
        return True
    if hint in _PLAIN:
        return _plain(value, hint)
    if origin in _SEQUENCES:
        return _elements(value, typing.get_args(hint))
    if origin in _MAPPINGS:
        return isinstance(value, Mapping)
    if origin is collections.abc.Callable:
        return callable(value) and not inspect.isclass(value)
    if getattr(hint, "_is_protocol", False):
        return _implements(value, hint, own=0)
    return isinstance(value, hint) if inspect.isclass(hint) else True


def _plain(value: Any, hint: type) -> bool:
    flag = isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not flag and finite(value)
    if hint is int:
        return isinstance(value, Integral) and not flag
    if hint is str:
        return isinstance(value, str | os.PathLike)
    if hint is Tensor:
        return isinstance(value, Tensor) or (_elements(value, ()) and all(_number_or_row(one) for one in value))
    return isinstance(value, hint)


def _number_or_row(value: Any) -> bool:
    return _plain(value, float) or (_elements(value, ()) and all(_number_or_row(one) for one in value))


def _elements(value: Any, kinds: Sequence[Any]) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    if len(kinds) > 1 and kinds[-1] is not ...:
        return len(value) == len(kinds) and all(
            accepts_value(one, kind) for one, kind in zip(value, kinds, strict=True)
        )
    return not kinds or all(accepts_value(one, kinds[0]) for one in value)


def finite(value: Any) -> bool:
    """Whether a number is neither infinite nor NaN. Integers that are too large for a float are not finite."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def describe(hint: Any) -> str:
    """The allowed values of an annotation, in words."""
    return ", or ".join(dict.fromkeys(map(_describe, union_members(hint))))


def _describe(hint: Any) -> str:
    origin, kinds = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is None or hint in _PLAIN:
        return _PLAIN[type(None) if hint is None else hint]
    if origin in _SEQUENCES:
        inner = [one for one in kinds if one is not ...]
        several = {int: "whole numbers", float: "finite numbers", str: "texts"}
        return f"a list of {several.get(inner[0], 'values') if len(inner) == 1 else 'values'}"
    if origin in _MAPPINGS:
        return "a section, {'key': value, ...}"
    if origin is collections.abc.Callable:
        made = kinds[1].__name__ if kinds and inspect.isclass(kinds[1]) and issubclass(kinds[1], nn.Module) else ""
        return f"a node of {made}" if made else f"a node of a function{_of(kinds)}"
    return f"a node of {hint.__name__}" if inspect.isclass(hint) else "another value"


def _of(kinds: tuple[Any, ...]) -> str:
    wanted = kinds[0] if kinds and isinstance(kinds[0], list) else []
    return f" of {', '.join(getattr(one, '__name__', str(one)) for one in wanted)}" if wanted else ""
