"""Evaluation of scores by samplers and likelihoods: evaluation mode, precision and checks of the output.

A score is any callable (x, t), and often calls a network. In training mode, dropout makes results random and batch
statistics make samples depend on each other. Samplers and likelihoods therefore run in ``evaluation_mode``.
``modules_of`` finds the networks: a module, a wrapper around one (``DataParallel``, ``torch.compile``,
``functools.partial``), an object with a module as an attribute, and a function that refers to one by a closure, a
default or a global name. If a score reaches its network in another way, its mode is not changed. A score that needs
dropout must call ``network.train()`` itself.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from scoresde._validation import check_output, shown
from scoresde.conditions import rows_of
from scoresde.sde.base import Score

_P = ParamSpec("_P")
_R = TypeVar("_R")

HALF = (torch.float16, torch.bfloat16)
"""Data types in which a score can be evaluated. States and coefficients always have a wider type."""


def modules_of(*scores: object) -> list[nn.Module]:
    """Networks that the scores use, each once, without their submodules."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    kept, ahead = [], list(scores)  # a reference keeps each object alive, so that its id is not used again
    while ahead:
        value = ahead.pop()
        if id(value) in seen or isinstance(value, type):
            continue
        seen.add(id(value))
        kept.append(value)
        if isinstance(value, nn.Module):
            found.append(value)
        else:
            ahead += _parts(value)
    return found


def _parts(value: object) -> list[object]:
    """Objects that a callable or container refers to."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return _parts_of_method(value)
    if isinstance(value, FunctionType):
        return _references(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    return [*_attributes(value), type(value).__call__] if callable(value) else []


def _parts_of_method(method: MethodType) -> list[object]:
    owner = method.__self__
    return [owner] if isinstance(owner, nn.Module | type) else [owner, method.__func__, *_attributes(owner)]


def _attributes(value: object) -> list[object]:
    slots = [getattr(value, name, None) for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *slots]


def _references(function: FunctionType) -> list[object]:
    """Objects that a function refers to by its closure, its defaults and its global names.

    Of the global names, functions count only if they are defined in the same file.
    """
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    names = function.__globals__
    named = [names[name] for name in function.__code__.co_names if name in names]
    near = [v for v in named if not isinstance(v, FunctionType) or v.__globals__ is names]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *near]


@contextmanager
def evaluation_mode(*scores: object) -> Iterator[None]:
    """Context manager that puts the networks of scores into evaluation mode and restores their modes afterwards.

    Args:
        scores: Scores, networks, or other objects that refer to networks.

    Yields:
        None.
    """
    roots = [root for root in modules_of(*scores) if any(part.training for part in root.modules())]
    modes = {part: part.training for root in roots for part in root.modules()}
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for root in roots:  # train() of a module can do more than set the flag
            root.train(modes[root])
        for part, mode in modes.items():
            part.training = mode


def in_evaluation_mode(*names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorator that runs a function in the ``evaluation_mode`` of its arguments with these names."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # the call below raises the error
                given = {}
            with evaluation_mode(*(given.get(name) for name in names)):
                return function(*args, **kwargs)

        return wrapper

    return decorate


class CheckedScore:
    """Wrapper of a score that checks the shape of its output.

    Args:
        score: The score.
        batch: Number of samples in the whole batch. If a call for fewer samples fails, the error message explains that
            only a part of the batch was evaluated.
        dtype: float16 or bfloat16 to cast x to this type for the score. The state, times and coefficients stay float32.
        every_call: Whether to enter ``evaluation_mode`` at every call. Needed if a graph is evaluated again in the
            backward pass.
    """

    def __init__(
        self, score: Score, batch: int | None = None, dtype: torch.dtype | None = None, *, every_call: bool = False
    ) -> None:
        check_signature(score)
        self.score, self.batch, self.every_call = score, batch, every_call
        self.dtype = dtype if dtype in HALF else None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.checked(self.score, x, t)

    def checked(self, function: Score, x: Tensor, t: Tensor) -> Tensor:
        """Value of ``function(x, t)``, the score or another prediction of the same model, which must have the shape of x."""
        try:
            value = self._value(function, x if self.dtype is None else x.to(self.dtype), t)
            check_output("score", value, x)
        except (RuntimeError, ValueError, IndexError) as problem:
            if self.batch is None or len(x) == self.batch or isinstance(problem, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"the score failed for {len(x)} of the {self.batch} samples ({problem}). This sampler or solver evaluates parts "
                "of the batch: give conditions by condition={...} or model.given(...), or define score.select_rows(index)"
            ) from problem
        return value if self.dtype is None else value.to(x.dtype)

    def select_rows(self, index: Tensor) -> CheckedScore:
        """The score for the samples ``index`` (n,)."""
        made = copy.copy(self)
        made.score = rows_of(self.score, index)
        return made

    def _value(self, function: Score, x: Tensor, t: Tensor) -> Tensor:
        if not self.every_call:
            return function(x, t)
        with evaluation_mode(self.score):
            return function(x, t)


def check_signature(score: Score, name: str = "score") -> None:
    """Raise TypeError if ``score``, the argument ``name``, cannot be called with x and t."""
    try:
        signature = inspect.signature(score.forward if isinstance(score, nn.Module) else score)
    except (TypeError, ValueError):  # compiled code may have no signature
        return
    try:
        signature.bind(None, None)
    except TypeError as problem:
        raise TypeError(f"{name}={shown(score)} cannot be called as {name}(x, t): {problem}") from None


def wide(x: Tensor) -> Tensor:
    """x, converted to float32 if it has half precision."""
    return x.float() if x.dtype in HALF else x
