"""Objects whose repr is the call that makes them: ``eval(repr(x)) == x``.

    >>> from scoresde import VPSDE
    >>> VPSDE(0.1, 15.0)
    VPSDE(beta_min=0.1, beta_max=15.0)

``prints_as_call`` gives a class ``__repr__``, ``__eq__`` and ``__hash__``. ``scoresde._arguments.check_constructors``
applies it to every public class, and subclasses inherit it. The arguments are the fields of a dataclass. For other classes
they are the recorded arguments of the constructor. Rules:

- The parameter ``T``, the last time of a process, is left out if it has its default.
- If the object has an attribute with the name of the parameter, and it has the type of the argument, or the argument was
  None, the attribute is shown, because it may have changed. Lists, tuples and dictionaries are shown as they were given.
- Modules and tensors are not stored a second time if the object has them under that name.
- A function is shown by its name, a ``functools.partial`` as the call that makes it.
- A tensor or array of more than ``LARGEST`` numbers is shown as its shape and dtype. This text cannot be evaluated.
- A module is shown as the call that makes its architecture, without its weights. Two modules are equal only if they are the
  same object, as everywhere in torch.
- A user's class whose arguments are not known is shown with its public numbers and strings.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

LARGEST = 100
"""Largest number of elements of a tensor that is printed."""
GIVEN = "_given"
"""The attribute with the recorded arguments of the constructor, by name."""

C = TypeVar("C", bound=type)


def prints_as_call(cls: C) -> C:
    """Give ``cls`` the repr, equality and hash of this module. It can be used as a decorator."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    constructor = vars(owner)["__init__"]
    ours = owner.__module__.partition(".")[0] == __name__.partition(".")[0]
    if ours and not _has_fields(owner) and not hasattr(constructor, "__recorded__"):
        _set(owner, "__init__", _recorded(constructor))
    _set(cls, "__repr__", _repr)
    if not issubclass(cls, nn.Module):  # torch compares modules by identity, and traces their hash
        _set(cls, "__eq__", _equal)
        _set(cls, "__hash__", _hash)
    elif cls.__hash__ is _hash:  # a module that is also a process
        _set(cls, "__eq__", nn.Module.__eq__)
        _set(cls, "__hash__", nn.Module.__hash__)
    return cls


def text_of(value: Any) -> str:
    """``value`` as Python code, if it has such a form."""
    if isinstance(value, Tensor):
        return _text_of_tensor(value)
    if isinstance(value, np.ndarray):
        if value.size > LARGEST:
            return f"<numpy.ndarray of shape {value.shape}, {value.dtype}>"
        return f"numpy.array({value.tolist()}, dtype={str(value.dtype)!r})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(float(value))!r})"
    if type(value) is tuple:
        return f"({', '.join(map(text_of, value))}{',' * (len(value) == 1)})"
    if type(value) is list:
        return f"[{', '.join(map(text_of, value))}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{text_of(k)}: {text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, functools.partial):
        given = [value.func, *value.args]
        return (
            f"partial({', '.join([*map(text_of, given), *(f'{k}={text_of(v)}' for k, v in value.keywords.items())])})"
        )
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if isinstance(value, FunctionType | BuiltinFunctionType | type) and "<" not in value.__qualname__:
        return value.__name__
    if isinstance(value, FunctionType):  # without the address, so that the text is the same in every process
        return f"<function {value.__qualname__}, {value.__module__} line {value.__code__.co_firstlineno}>"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def same_value(a: Any, b: Any) -> bool:
    """Whether two arguments are equal: tensors and arrays by type and content, lists and tuples item by item."""
    if a is b:
        return True
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(value, b[key]) for key, value in a.items())
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        return a.func is b.func and same_value(a.args, b.args) and same_value(a.keywords, b.keywords)
    if isinstance(a, Tensor | np.ndarray) or isinstance(b, Tensor | np.ndarray):
        return False
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def arguments_of(x: Any) -> dict[str, Any] | None:
    """The arguments of the call that makes ``x``, by name; None if they are not known."""
    cls = type(x)
    if _has_fields(cls):
        return {field.name: getattr(x, field.name) for field in dataclasses.fields(cls) if field.init}
    if cls.__init__ is object.__init__ or (isinstance(x, nn.Module) and cls.__init__ is nn.Module.__init__):
        return {}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    given = vars(x).get(GIVEN) or {p.name: _constant(cls, p.name) for p in parameters}
    named = {name: _attribute(x, name, value) for name, value in given.items()}
    return named if all(value is not _UNKNOWN for value in named.values()) else None


class _UNKNOWN:
    """A placeholder for an argument that is read from the object itself."""


def _set(cls: type, name: str, value: Any) -> None:
    type.__setattr__(cls, name, value)


def _has_fields(cls: type) -> bool:
    """Whether the constructor is that of a dataclass."""
    owner = next((base for base in cls.__mro__ if "__init__" in vars(base)), object)
    parameters = vars(owner).get("__dataclass_params__")
    return parameters is not None and bool(parameters.init)


def _recorded(constructor: Any) -> Any:
    """``constructor``, which records its arguments if it is that of the object's own class."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)
        if type(self).__init__ is recording:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            named = dict(list(bound.arguments.items())[1:])
            vars(self)[GIVEN] = {name: _kept(self, name, value) for name, value in named.items()}

    recording.__recorded__ = True  # type: ignore[attr-defined]
    return recording


def _kept(x: Any, name: str, value: Any) -> Any:
    """An argument as it is recorded: mutable containers are copied; what the object stores itself is read from there."""
    held = _held(x, name)
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and isinstance(held, Tensor)):
        return _UNKNOWN
    return _frozen(value)


def _frozen(value: Any) -> Any:
    """Lists as tuples, dictionaries as copies."""
    if type(value) in (list, tuple):
        return tuple(map(_frozen, value))
    return {key: _frozen(item) for key, item in value.items()} if type(value) is dict else value


def _attribute(x: Any, name: str, given: Any) -> Any:
    """The current value of an argument: the attribute of that name, if it has the type of the argument."""
    if isinstance(given, list | tuple | dict):
        return given
    held = _held(x, name)
    if held is _UNKNOWN or not (given is None or given is _UNKNOWN or type(held) is type(given)):
        return given
    return held


def _held(x: Any, name: str) -> Any:
    """The attribute of the object itself, not of its class, with the name of a parameter."""
    tables = [vars(x)]
    if isinstance(x, nn.Module):
        tables += [x._modules, x._parameters, x._buffers]
    return next((table[key] for key in (name, f"_{name}") for table in tables if key in table), _UNKNOWN)


def _constant(cls: type, name: str) -> Any:
    """The number or string that is a class attribute with the name of a parameter."""
    value = getattr(cls, name, _UNKNOWN)
    return value if isinstance(value, int | float | str) else _UNKNOWN


def _numbers(x: Any) -> dict[str, Any]:
    """The public numbers and strings of an object."""
    return {k: v for k, v in vars(x).items() if not k.startswith("_") and isinstance(v, int | float | str)}


def _repr(self: Any) -> str:
    """The call that makes the object."""
    arguments = arguments_of(self)
    arguments = _numbers(self) if arguments is None else arguments
    if "T" in arguments and arguments["T"] in (None, getattr(type(self), "T", None)):
        del arguments["T"]
    return f"{type(self).__name__}({', '.join(f'{name}={text_of(value)}' for name, value in arguments.items())})"


def _equal(self: Any, other: object) -> Any:
    """Whether the other has the same class, equal arguments, and equal public numbers and strings."""
    if self is other:
        return True
    if type(self) is not type(other) or isinstance(self, nn.Module):
        return NotImplemented
    ours, theirs = arguments_of(self), arguments_of(other)
    return (
        ours is not None
        and theirs is not None
        and same_value(_compared(self, ours), _compared(other, theirs))
        and same_value(_compared(self, _numbers(self)), _compared(other, _numbers(other)))
    )


def _compared(x: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values without the dataclass fields that are declared with compare=False."""
    left_out = {field.name for field in dataclasses.fields(x) if not field.compare} if _has_fields(type(x)) else set()
    return {name: value for name, value in values.items() if name not in left_out}


def _hash(self: Any) -> int:
    """The hash of the class and of the numbers and strings among the arguments."""
    arguments = None if isinstance(self, nn.Module) else arguments_of(self)
    if arguments is None:
        return object.__hash__(self)
    compared = _compared(self, arguments)
    plain = sorted((name, value) for name, value in compared.items() if isinstance(value, int | float | str))
    return hash((type(self), tuple(plain)))


def _text_of_tensor(value: Tensor) -> str:
    kind = str(value.dtype)
    if type(value) not in (Tensor, nn.Parameter) or value.numel() > LARGEST or value.device.type == "meta":
        return f"<torch.Tensor of shape {tuple(value.shape)}, {kind}>"
    if value.numel() == 0:
        return f"torch.zeros({tuple(value.shape)}, dtype={kind})"
    content = value.detach().cpu()
    if content.dtype.is_floating_point and content.dtype != torch.float64:
        content = content.to(torch.float32)
        shortest = [float(str(number)) for number in content.numpy().reshape(-1)]
        content = torch.tensor(shortest, dtype=torch.float64).reshape(content.shape)
    device = "" if value.device.type == "cpu" else f", device={str(value.device)!r}"
    return f"torch.tensor({text_of(content.tolist())}, dtype={kind}{device})"
