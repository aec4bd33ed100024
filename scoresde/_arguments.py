"""Checks of arguments against their annotations, for every public class and function.

``check_constructors(globals())`` at the end of a package wraps the constructors of its public classes, and
``@checked_arguments`` wraps a function. A wrapped call compares each given argument with the annotation of its parameter, by
the table in ``_kinds.py``. Whether a value of the right kind is allowed is checked by the function itself: ``check_number``,
``check_count``, ``check_choice`` and others in ``_validation.py``. Defaults are not checked. Annotations are resolved at the
first call. Nothing is checked within ``torch.compile``. A wrapped function keeps its signature, docstring and name.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from scoresde._kinds import Kind, kinds
from scoresde._representation import prints_as_call
from scoresde._validation import KindError, shown

F = TypeVar("F", bound=Callable[..., Any])


def checked_arguments(function: F, *, finite: bool = True, wide: Sequence[str] = ()) -> F:
    """Returns ``function`` with its arguments checked against their annotations.

    Args:
        function: A function with annotations.
        finite: Whether floats must be finite.
        wide: Names of floats that may be any float64, such as the unit of the data.

    Returns:
        The wrapped function.

    Raises:
        KindError: When called, if an argument has the wrong kind, or is a number outside the range of its kind.
    """
    number = len(_CHECKERS)
    _CHECKERS.append(_Checker(function, finite, wide))

    # torch.compile copies the variables of a closure, and supports only functions and numbers there
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            _CHECKERS[number].check(args, kwargs)
        return function(*args, **kwargs)

    wrapper.__checked__ = True  # type: ignore[attr-defined]
    return typing.cast(F, wrapper)


class _Checker:
    """Checks the arguments of a function's calls. The kinds of its parameters are resolved at the first call."""

    def __init__(self, function: Callable[..., Any], finite: bool, wide: Sequence[str]) -> None:
        self.function, self.finite, self.wide = function, finite, wide
        self.kinds: dict[str, tuple[str, Kind, set[type]] | None] = {}
        self.places: list[tuple[str, Kind, set[type]] | None] | None = None
        self.by_keyword: list[str] = []

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise KindError for the first argument that does not have its parameter's kind.

        Raise TypeError, with the names, if a keyword-only argument is given by position.
        """
        if self.places is None:
            self._resolve()
        if self.by_keyword and len(args) > len(self.places or ()):
            name, extra = self.function.__qualname__.removesuffix(".__init__"), args[len(self.places or ())]
            names = ", ".join(self.by_keyword)
            raise TypeError(f"{name}: the positional argument {shown(extra)} needs a keyword, one of {names}")
        for known, value in zip(self.places or (), args, strict=False):
            if known is not None and type(value) not in known[2]:
                _check_value(*known, value)
        for name, value in kwargs.items():
            known = self.kinds.get(name)
            if known is not None and type(value) not in known[2]:
                _check_value(*known, value)

    def _resolve(self) -> None:
        parameters = inspect.signature(self.function).parameters.values()
        found = kinds(self.function, self.finite, self.wide)
        self.kinds = {name: (name, kind, set()) for name, kind in found.items()}
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self.by_keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        by_place = (p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        self.places = [self.kinds.get(name) for name in by_place]


_CHECKERS: list[_Checker] = []


def check_constructors(
    namespace: dict[str, Any],
    *,
    records: Sequence[type] = (),
    own_repr: Sequence[type] = (),
    wide: Sequence[str] = (),
) -> None:
    """Wraps the constructors of a module's public classes by ``checked_arguments``.

    The classes also get the repr of ``prints_as_call``: the call that makes the object.

    Args:
        namespace: ``globals()`` of a package with ``__all__``, or of a module without it, whose own classes are then
            wrapped.
        records: Classes that functions return. Their numbers may be NaN or infinite, and they keep their own repr.
        own_repr: Other classes that keep their own repr.
        wide: Names of floats that may be any float64.
    """
    names = namespace.get("__all__") or [name for name in namespace if not name.startswith("_")]
    for name in names:
        made = namespace[name]
        if not inspect.isclass(made) or getattr(made, "_is_protocol", False):
            continue
        if "__all__" not in namespace and made.__module__ != namespace["__name__"]:
            continue
        owner = next(base for base in made.__mro__ if "__init__" in vars(base))
        constructor = vars(owner)["__init__"]
        if owner.__module__.startswith("scoresde") and not hasattr(constructor, "__checked__"):
            type.__setattr__(owner, "__init__", checked_arguments(constructor, finite=made not in records, wide=wide))
        if not (issubclass(made, BaseException) or made in records or made in own_repr):
            prints_as_call(made)


def _check_value(name: str, kind: Kind, passed: set[type], value: Any) -> None:
    """Raise KindError if ``value`` does not have the kind, or is a value that no parameter allows."""
    if kind.tensor and type(value) is Tensor and not value.is_complex():
        return
    if not kind.fits(value):
        raise KindError(f"{name}={shown(value)} {kind.lacks(value)}: give {kind.words}{_hint(value)}")
    fault = kind.fault(value)
    if fault is not None and isinstance(value, Tensor):
        raise KindError(f"{name} has dtype {value.dtype}: {fault}")
    if fault is not None:
        raise KindError(f"{name}={shown(value)} is not allowed: {fault}")
    if kind.typed(value):
        passed.add(type(value))


def _hint(value: Any) -> str:
    return f"; this is the class itself, not an instance: {value.__name__}(...)" if inspect.isclass(value) else ""
