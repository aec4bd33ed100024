"""The values that an annotation allows, for ``_arguments.py``.

The annotations and their values are ::

    bool                 True or False only; no number and no string
    int                  a whole number of at most 64 bits; no bool
    float                a number that float32 can represent together with its square; infinite if the default is; no NaN
    str, Tensor, dtype   an instance; a tensor must be real
    Sequence[int], ...   a list or tuple whose items fit (no str); tuple[...] likewise
    Mapping[...]         a mapping
    Callable[[X], Y]     something that can be called with this number of arguments; a class only if it makes a Y
    a class              an instance of it; for a Protocol, an object with its methods
    X | Y | None         any of them
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_FLOAT32 = (torch.finfo(torch.float32).tiny, 1e19)
"""Absolute values that a float may have: float32 can represent it and its square."""
_FLOAT64 = (0.0, torch.finfo(torch.float64).max)


@dataclass(frozen=True)
class Kind:
    """The values that a parameter allows.

    Args:
        words: What to give, for an error message.
        fits: Whether a value has this kind.
        fault: None, or what is wrong with a value of this kind, for an error message.
        typed: Whether the type of a value decides alone. A type that fitted once is then not checked again.
        tensor: Whether a tensor of real numbers fits.
        lacks: Why a value of a more general class does not fit, for an error message.
    """

    words: str
    fits: Callable[[Any], bool]
    fault: Callable[[Any], str | None] = lambda value: None
    typed: Callable[[Any], bool] = lambda value: False
    tensor: bool = False
    lacks: Callable[[Any], str] = lambda value: "is not allowed"


def kinds(function: Callable[..., Any], finite: bool, wide: Sequence[str]) -> dict[str, Kind]:
    """The kinds of all parameters that are checked; ``finite`` and ``wide`` as for ``checked_arguments``."""
    known = typing.get_type_hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            infinite = isinstance(parameter.default, float) and math.isinf(parameter.default)
            sizes = _FLOAT64 if name in wide else _FLOAT32
            fault = functools.partial(_number_fault, finite=finite, infinite=infinite, sizes=sizes)
            kind = _kind(known[name], fault)
            if kind is not None:
                found[name] = kind
    return found


def _kind(annotation: Any, number: Callable[[Any], str | None]) -> Kind | None:
    """The kind that an annotation describes, with ``number`` as the fault of a float; None if it allows any value."""
    if annotation is Any or annotation is object:
        return None
    if isinstance(annotation, TypeVar):
        return _kind(annotation.__bound__ or Any, number)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _either([_kind(part, number) for part in inner])
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if annotation is float:
        return Kind("a number", _is_number, number)
    if origin is Callable or annotation is Callable:
        return _callable(inner)
    origin = origin or annotation
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence) and inner):
        return _items(inner, number)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return Kind("a dictionary", lambda value: isinstance(value, Mapping))
    if getattr(origin, "_is_protocol", False):
        return _protocol(origin)
    if not inspect.isclass(origin):
        raise TypeError(f"the annotation {annotation!r} is not supported: arguments cannot be checked against it")
    return _class(origin)


def _class(wanted: type) -> Kind:
    """An instance of a class."""
    home = wanted.__module__.partition(".")[0]
    called = wanted.__name__ if home in ("scoresde", "builtins") else f"{home}.{wanted.__name__}"
    called = called.replace("torch.Module", "nn.Module")
    wider = tuple(base for base in wanted.__mro__[1:] if base.__module__.startswith("scoresde"))

    def lacks(value: Any) -> str:
        return (
            f"has no {wanted.special}" if hasattr(wanted, "special") and isinstance(value, wider) else "is not allowed"
        )

    spelt = called[:2].isupper() or called[:3] == "nn."  # spelled letter by letter
    article = "an" if called[0].upper() in ("AEFHILMNORSX" if spelt else "AEIOU") else "a"
    return Kind(f"{article} {called}", lambda value: isinstance(value, wanted), typed=_always, lacks=lacks)


def _either(kinds: list[Kind | None]) -> Kind | None:
    """Any of the kinds."""
    if any(kind is None for kind in kinds):
        return None
    options = [kind for kind in kinds if kind is not None]
    options.sort(key=lambda kind: kind.words == "None")

    def fault(value: Any) -> str | None:
        said = [option.fault(value) for option in options if option.fits(value)]
        return None if None in said else said[0]

    words = [option.words for option in options]
    return Kind(
        ", ".join(words[:-1]) + " or " + words[-1],
        lambda value: any(option.fits(value) for option in options),
        fault,
        lambda value: any(option.typed(value) and option.fits(value) for option in options),
        any(option.tensor for option in options),
        options[0].lacks,
    )


def _always(value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number_fault(value: Any, *, finite: bool, infinite: bool, sizes: tuple[float, float]) -> str | None:
    """What is wrong with a float. Whole numbers may be too large for a float."""
    size = abs(int(value)) if isinstance(value, Integral) else abs(float(value))
    if isinstance(value, Integral) and size >= 2**63:  # the largest number that torch accepts
        return "give a whole number of at most 64 bits, or a float"
    if size == 0 or sizes[0] <= size <= sizes[1] or not finite or (infinite and size == math.inf):
        return None
    return f"give a finite number, 0 or from {sizes[0]:.2g} to {sizes[1]:.2g} in size"


def _whole_fault(value: Any) -> str | None:
    return None if abs(int(value)) < 2**64 else "give a whole number of at most 64 bits"


def _tensor_fault(value: Tensor) -> str | None:
    return "give real numbers" if value.is_complex() else None


_PLAIN: dict[Any, Kind] = {
    bool: Kind("True or False", lambda value: isinstance(value, bool), typed=_always),
    int: Kind(
        "a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool), _whole_fault
    ),
    str: Kind("a string", lambda value: isinstance(value, str), typed=_always),
    Tensor: Kind("a torch.Tensor", lambda value: isinstance(value, Tensor), _tensor_fault, tensor=True),
    type(None): Kind("None", lambda value: value is None, typed=_always),
}


def _callable(inner: tuple[Any, ...]) -> Kind:
    """``Callable[[X, Y], Z]``."""
    takes, gives = inner if inner else (..., Any)
    count = len(takes) if isinstance(takes, list) else None
    makes = gives if inspect.isclass(gives) else object

    def fits(value: Any) -> bool:
        return callable(value) and (not inspect.isclass(value) or makes is object or issubclass(value, makes))

    def fault(value: Any) -> str | None:
        if count is None or isinstance(value, nn.Module):
            return None
        try:
            inspect.signature(value).bind(*[None] * count)
        except TypeError:
            return f"give a function that can be called with {count} argument{'s' * (count != 1)}"
        except ValueError:  # a builtin without a signature
            return None
        return None

    names = ", ".join(getattr(part, "__name__", str(part)) for part in takes) if count is not None else "..."
    return Kind(f"a function ({names}) -> {getattr(gives, '__name__', 'anything')}", fits, fault)


def _items(inner: tuple[Any, ...], number: Callable[[Any], str | None]) -> Kind:
    """``Sequence[X]``, ``list[X]``, ``tuple[X, ...]`` or ``tuple[X, Y]``."""
    exact = len(inner) > 1 and inner[1] is not ...
    kinds = [_kind(part, number) for part in (inner if exact else inner[:1])]
    words = ", ".join("anything" if kind is None else kind.words for kind in kinds)

    def pairs(value: Any) -> Any:
        return zip(value, kinds if exact else kinds * len(value), strict=False)

    def fits(value: Any) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or (exact and len(value) != len(kinds)):
            return False
        return all(kind is None or kind.fits(item) for item, kind in pairs(value))

    def fault(value: Any) -> str | None:
        said = [kind.fault(item) for item, kind in pairs(value) if kind is not None]
        return next((f"for each item, {one}" for one in said if one is not None), None)

    several = {"a number": "of numbers", "a whole number": "of whole numbers", "a string": "of strings"}
    return Kind(
        f"a tuple ({words})" if exact else f"a tuple or list {several.get(words, f'({words}, ...)')}", fits, fault
    )


def _protocol(wanted: Any) -> Kind:
    """An object with the methods of a protocol."""
    own = f"{wanted.__qualname__}."  # typing adds its own functions
    methods = [
        name for name, part in vars(wanted).items() if inspect.isfunction(part) and part.__qualname__.startswith(own)
    ]
    named = [
        name for name in methods if not name.startswith("_")
    ]  # a tensor has a method of many a name, such as solve
    return Kind(
        f"an object with {' and '.join(methods)}, such as a {wanted.__name__}",
        lambda value: (
            not inspect.isclass(value)
            and not (isinstance(value, Tensor) and (named or value.ndim == 0))
            and all(hasattr(value, name) for name in methods)
        ),
    )
