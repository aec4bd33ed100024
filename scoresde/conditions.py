"""Conditions c of a model: named arguments of the network in addition to x and the label of the noise level.

A condition is a tensor with one row for each sample. Its kind says which values are allowed:

    Classes(10)     a class 0 .. 9                                    (B,) whole numbers
    Vector(5)       five real numbers                                 (B, 5)
    Image(3)        an image of the size of the event                 (B, 3, *sides)
    Tokens(64)      a set of tokens with 64 features each             (B, L, 64); a token that is NaN is padding

A data set says of which kind its conditions are, and the network is made for these kinds. ``model.given(label=y)`` binds
conditions, and the result is a score (x, t) for samplers and likelihoods::

    s(x, t) = grad log p_t(x | c)

Samplers and solvers that evaluate some samples of a batch select the rows of the conditions by `rows_of`.

``dropped``, of shape (B,), is one more argument of every network with conditions. Where it is True, the network ignores all
conditions. So is a condition that is None or not given. The score is then that of p_t(x).
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_count, shown, suggestion

__all__ = ["DROPPED", "Classes", "ConditionKind", "Conditioned", "Image", "Tokens", "Vector", "given", "rows_of"]

DROPPED = "dropped"
"""Name of the argument that says for which samples all conditions are ignored."""


_ARGUMENTS = frozenset(("x", "t", "x0", "self", "model", "draw", "kernel", "step", "indices", "noise", "name", DROPPED))
"""Names of the other arguments of functions that pass conditions by name, and the key of a node in a config."""


def check_name(where: str, name: Any) -> None:
    """Check the name of a condition.

    Args:
        where: The start of the message.
        name: The name.

    Raises:
        ValueError: If it is no identifier, or the name of another argument or of an attribute of PyTorch's modules.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{where}: {shown(name)} is not allowed as a name: give a Python identifier, e.g. label")
    if name in _ARGUMENTS or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"{where}: {name!r} is not allowed as a name, because arguments or modules of PyTorch have it: give another, e.g. "
            f"{name}_condition"
        )


@dataclass(frozen=True)
class ConditionKind(ABC):
    """Base class of the kinds of conditions."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What is allowed, for messages."""

    @abstractmethod
    def fits(self, value: Tensor) -> bool:
        """Whether rows are of this kind.

        Args:
            value: Rows of a condition, (B, ...).

        Returns:
            Whether they are allowed. Values are compared on the CPU only; elsewhere this would synchronize the device.
        """

    def check(self, name: str, value: Any, batch: int) -> None:
        """Check a condition.

        Args:
            name: Its name, for the message.
            value: The rows of the condition.
            batch: Number of samples.

        Raises:
            TypeError: If it is not a tensor.
            ValueError: If it has another number of rows, or rows that are not of this kind.
        """
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}={shown(value)} is not a tensor: give {self.allowed}")
        if value.ndim > 0 and len(value) == batch and self.fits(value):
            return
        if (row := self.wrong_row(value)) is not None and len(value) == batch:
            place = f" in row {row}" if batch > 1 else ""
            text = (
                f"is {value[row].tolist()!r}{place}, which is"
                if value[row].numel() <= 4
                else f"has values{place} that are"
            )
            raise ValueError(f"{name} {text} not allowed: give {self.allowed}")
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} and {value.dtype} is not allowed: give {self.allowed}, one row for each "
            f"of {batch} samples"
        )

    def wrong_row(self, value: Tensor) -> int | None:
        """The first row whose values are not allowed, though its shape and dtype are.

        Args:
            value: Rows of a condition, (B, ...).

        Returns:
            The index of the row, or None if there is none.
        """
        if value.ndim == 0 or not self.fits(torch.zeros_like(value)):
            return None
        return next((k for k in range(len(value)) if not self.fits(value[k : k + 1])), None)

    def parse(self, name: str, value: Any) -> Tensor:
        """One row of the condition from plain numbers, as in a config or on the command line.

        Args:
            name: Its name, for the message.
            value: A number, or nested lists of numbers.

        Returns:
            The row, without the dimension of the batch.

        Raises:
            ValueError: If the value is not of this kind.
        """
        try:
            row = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name}={shown(value)} is not allowed: give {self.allowed}") from None
        if row.dtype == torch.float64 or (not isinstance(self, Classes) and not row.is_floating_point()):
            row = row.float()
        if isinstance(self, Vector) and row.ndim == 0:
            row = row[None]
        if not self.fits(row[None]):
            raise ValueError(f"{name}={shown(value)} is not allowed: give {self.allowed}")
        return row


@dataclass(frozen=True)
class Classes(ConditionKind):
    """A class, a whole number from 0 to ``count`` - 1.

    Args:
        count: Number of classes.
        names: Names of the classes in this order, all different. Configs and the command line accept a name in place of the
            number. Empty if they have no names.
    """

    count: int
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_count("count", self.count)
        object.__setattr__(self, "names", tuple(self.names))
        if self.names and (len(set(self.names)) != self.count or len(self.names) != self.count):
            raise ValueError(
                f"names={shown(self.names)} is not allowed: give {self.count} different texts, one for each class"
            )

    def __repr__(self) -> str:
        return f"Classes(count={self.count!r}{f', names={self.names!r}' if self.names else ''})"

    @property
    def allowed(self) -> str:
        return f"a class, a whole number in 0 .. {self.count - 1}"

    def parse(self, name: str, value: Any) -> Tensor:
        """One class from its number or its name.

        Args:
            name: Name of the condition, for the message.
            value: A whole number, or the name of a class. If a number is the name of a class, as the "1" of ("1", "2"), it is
                this class.

        Returns:
            The class, a tensor without dimensions.

        Raises:
            ValueError: If there is no such class.
        """
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value) in self.names:
            return torch.tensor(self.names.index(str(value)))
        if isinstance(value, str) and not self.names:
            raise ValueError(
                f"{name}={shown(value)} is not allowed: give {self.allowed}, since these classes have no names"
            )
        if isinstance(value, str):
            known = ", ".join(map(repr, self.names[:8])) + (", ..." if len(self.names) > 8 else "")
            near = suggestion(value, self.names)
            raise ValueError(f"{name}={shown(value)} is not allowed: give {self.allowed}, or one of {known}{near}")
        return super().parse(name, value)

    def fits(self, value: Tensor) -> bool:
        whole = (
            value.ndim == 1 and not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
        )
        if not whole or not _readable(value):
            return whole
        value = value.long()  # some dtypes cannot be compared
        return bool(((value >= 0) & (value < self.count)).all())


@dataclass(frozen=True)
class Vector(ConditionKind):
    """A vector of real numbers.

    Args:
        size: Number of its coordinates.
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def allowed(self) -> str:
        return "a real number" if self.size == 1 else f"{self.size} real numbers"

    def fits(self, value: Tensor) -> bool:
        return value.shape[1:] == (self.size,) and _finite(value)


@dataclass(frozen=True)
class Image(ConditionKind):
    """An image of the size of the event: for events (C, *sides) it has the shape (channels, *sides).

    Args:
        channels: Number of its channels.
    """

    channels: int

    def __post_init__(self) -> None:
        check_count("channels", self.channels)

    @property
    def allowed(self) -> str:
        return f"an image with {self.channels} channels and the size of the event"

    def fits(self, value: Tensor) -> bool:
        return value.ndim > 2 and value.shape[1] == self.channels and _finite(value)


@dataclass(frozen=True)
class Tokens(ConditionKind):
    """A set of tokens, of any number up to that of the longest set in the batch. A token of NaN is padding.

    Args:
        size: Number of features of a token.
    """

    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)

    @property
    def allowed(self) -> str:
        return f"tokens with {self.size} finite features each, and NaN for padding"

    def fits(self, value: Tensor) -> bool:
        fits = value.ndim == 3 and value.shape[2] == self.size and value.is_floating_point()
        return fits and not (_readable(value) and bool(torch.isinf(value).any()))


def _readable(value: Tensor) -> bool:
    """Whether values can be compared without waiting for a device."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def _finite(value: Tensor) -> bool:
    return value.is_floating_point() and (not _readable(value) or bool(torch.isfinite(value).all()))


def check_conditions(kinds: Mapping[str, ConditionKind], condition: Mapping[str, Any], batch: int) -> None:
    """Check the conditions that a network with conditions of these kinds gets.

    Args:
        kinds: The kinds by name.
        condition: The conditions by name. None stands for a condition that is not given.
        batch: Number of samples.

    Raises:
        TypeError: If there is a condition that the network does not have.
        ValueError: If a condition is not of its kind.
    """
    for name, value in condition.items():
        if name == DROPPED:
            if not (isinstance(value, Tensor) and value.shape == (batch,) and value.dtype == torch.bool):
                raise ValueError(f"{DROPPED}={shown(value)} is not allowed: give a tensor of bool and shape ({batch},)")
        elif name not in kinds:
            raise TypeError(
                f"the condition {name} is not known: the network takes {', '.join(kinds) or 'none'}{suggestion(name, kinds)}"
            )
        elif value is not None:
            kinds[name].check(name, value, batch)


@dataclass(frozen=True)
class Conditioned:
    """A score (x, t) from a callable (x, t, **condition) and conditions.

    Args:
        score: The callable.
        condition: The conditions by name. A tensor has one row for each sample, or no dimension.
    """

    score: Callable[..., Tensor]
    condition: Mapping[str, Any]

    @property
    def sde(self) -> Any:
        """The process of the score, or None."""
        return getattr(self.score, "sde", None)

    @property
    def energy(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The energy (x, t) of the score under the conditions. Raises AttributeError if the score has none."""
        return functools.partial(self.score.energy, **self.condition)  # type: ignore[attr-defined]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        check_condition(len(x), self.condition, ())
        return self.score(x, t, **self.condition)

    def takes(self, name: str) -> bool:
        """Whether a condition of this name would reach the score. One that is bound already does not count.

        Args:
            name: Name of the condition.

        Returns:
            Whether the score takes it.
        """
        return name not in self.condition and takes(self.score, name)

    def given(self, **condition: Any) -> Conditioned:
        """Bind more conditions, or others of the same names.

        Args:
            **condition: The conditions by name.

        Returns:
            The score under these conditions.
        """
        return Conditioned(self.score, {**self.condition, **condition})

    def select_rows(self, index: Tensor) -> Conditioned:
        """The score with the conditions of some of the samples.

        Args:
            index: Indices of the samples, (n,).

        Returns:
            The score for these samples.
        """
        return Conditioned(rows_of(self.score, index), select(self.condition, index))


@checked_arguments
def given(
    score: Callable[..., Tensor], condition: Mapping[str, Any] | None, *, name: str = "score"
) -> Callable[..., Tensor]:
    """Bind conditions to a score.

    Args:
        score: A ``ScoreModel``, or any callable (x, t, **condition).
        condition: The conditions by name. A tensor has one row for each sample, or no dimension.
        name: The name of the argument that ``score`` is, for messages.

    Returns:
        The score (x, t) under these conditions. ``score`` itself if there are none.

    Raises:
        TypeError: If ``condition`` is not a mapping from names to values.
    """
    if condition is None or condition == {}:
        return score
    if not (isinstance(condition, Mapping) and all(isinstance(name, str) for name in condition)):
        raise TypeError(f"condition={shown(condition)} is not allowed: give a dictionary, e.g. {{'label': y}}")
    bind = getattr(score, "given", None)
    compiled = hasattr(score, "_orig_mod")  # its method is that of the model that is not compiled
    if callable(bind) and not compiled:
        bound: Callable[..., Tensor] = bind(**condition)
        return bound
    _check_takes(score, condition, name)
    return Conditioned(score, dict(condition))


def _check_takes(score: Callable[..., Tensor], condition: Mapping[str, Any], name: str) -> None:
    """Raise TypeError for a condition that a function, the argument ``name``, cannot get."""
    for one in condition:
        if not accepts(score, one):
            raise TypeError(
                f"condition has a value for {one!r}, which {name}={shown(score)} does not take: give a {name} that does, or no "
                "condition"
            )


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with an argument of this name.

    Args:
        function: The function.
        name: Name of the argument.

    Returns:
        True if it has an argument of this name or takes any names, or if its arguments are not known.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code may have no signature
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def takes(score: Callable[..., Tensor], name: str) -> bool:
    """Whether a score takes a condition of this name that is not bound to it.

    Args:
        score: A score, with a method ``takes(name)`` or without.
        name: Name of the condition.

    Returns:
        What the method returns, or whether the score accepts an argument of this name.
    """
    own = getattr(score, "takes", None)
    return bool(own(name)) if callable(own) else accepts(score, name)


@checked_arguments
def rows_of(score: Callable[..., Tensor], index: Tensor) -> Callable[..., Tensor]:
    """A score for some of the samples of a batch.

    Args:
        score: A score. If it has conditions with one row for each sample, it has a method ``select_rows(index)``, as
            ``model.given(...)`` does.
        index: Indices of the samples, (n,).

    Returns:
        The score with the conditions of these samples, or ``score`` itself if it has no method ``select_rows``.
    """
    own = getattr(score, "select_rows", None)
    found = own(index) if callable(own) else score
    return score if found is getattr(score, "_orig_mod", None) else found


def select(condition: Mapping[str, Any], index: Tensor) -> dict[str, Any]:
    """Select rows of conditions. Values without rows are kept.

    Args:
        condition: The conditions by name.
        index: Indices of the samples, (n,).

    Returns:
        The conditions of these samples.
    """
    return {k: v[index.to(v.device)] if isinstance(v, Tensor) and v.ndim else v for k, v in condition.items()}


def required_conditions(network: nn.Module) -> frozenset[str]:
    """Finds the conditions without which a network cannot be called.

    Args:
        network: A module that is called as ``network(input, label, **condition)``.

    Returns:
        The names of its conditions that have no default.

    Raises:
        TypeError: The network does not accept an input and a label.
    """
    if getattr(type(network), "forward", None) is nn.Module.forward and "forward" not in vars(network):
        raise TypeError(f"network: {type(network).__name__} has no forward(input, label): give a module that has one")
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):  # compiled code may have no signature
        return frozenset()
    others = list(signature.parameters.values())[2:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = frozenset(p.name for p in others if p.kind in by_name and p.default is inspect.Parameter.empty)
    try:
        signature.bind(None, None, **dict.fromkeys(required))
    except TypeError as problem:
        name = type(network).__name__
        raise TypeError(
            f"network: {name}.forward{signature} cannot be called as network(input, label, **condition): {problem}"
        ) from None
    return required


def check_condition(batch: int, condition: Mapping[str, Any], required: Collection[str]) -> None:
    """Checks the conditions of a call.

    Args:
        batch: Number of samples. A tensor must have this number of rows, or no dimension.
        condition: The conditions by name.
        required: Names of the required conditions.

    Raises:
        TypeError: A required condition is missing.
        ValueError: A tensor has another number of rows and would broadcast silently.
    """
    missing = sorted(set(required).difference(condition))
    if missing:
        raise TypeError(
            f"the network requires {', '.join(missing)}: call model(x, t, {missing[0]}=...), and give samplers and likelihoods "
            f"condition={{'{missing[0]}': ...}}"
        )
    for name, value in condition.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != batch:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for a batch of {batch}: give one row for each sample"
            )


check_constructors(globals(), own_repr=(Classes,))
