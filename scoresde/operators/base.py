r"""The base classes of measurements y = A(x) of events x.

A linear operator has an adjoint and a pseudo-inverse:

.. math::
    \langle A x, y \rangle = \langle x, A^T y \rangle, \qquad A^+ y = \text{the shortest } x \text{ that minimizes } |A x - y|
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._validation import KindError, Numbers, as_numbers, check_batch, shown
from scoresde.noise import NoiseSource
from scoresde.operators.linear_systems import conjugate_gradients


@dataclass(frozen=True)
class Operator(ABC):
    """Base class of measurements y = A(x). Subclasses implement ``check`` and ``apply``, and for `Degraded` ``channels``.

    ``operator(x)`` is ``operator.apply(x)``. So an operator that is not random can be given where a function is expected.
    """

    random: ClassVar[bool] = False
    """Whether A is random and needs a source of draws."""

    def __call__(self, x: Tensor) -> Tensor:
        """The measurement y = A(x) of an operator that is not random.

        Args:
            x: Events, (B, *event).

        Returns:
            y, (B, *measurement).

        Raises:
            ValueError: If the operator does not fit x, or is random.
        """
        return self.apply(x)

    @abstractmethod
    def check(self, event_shape: Sequence[int]) -> None:
        """Check the shape of the events.

        Args:
            event_shape: (*event); images are (C, *sides).

        Raises:
            ValueError: If the operator does not fit events of this shape.
        """

    @abstractmethod
    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The measurement y = A(x).

        Args:
            x: Events, (B, *event).
            noise: The source of what is random in A, keyed by event. Other operators do not use it.

        Returns:
            y, (B, *measurement).

        Raises:
            ValueError: If the operator does not fit x, or is random and ``noise`` is None.
        """

    def channels(self, event_shape: Sequence[int]) -> int:
        """The number of channels of ``image``.

        Args:
            event_shape: (C, *sides).

        Returns:
            The number of channels.
        """
        return event_shape[0]

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The measurement as images of the size of x, the condition of a network.

        Args:
            y: Measurements, as ``apply`` returns them.
            noise: As for ``apply``.

        Returns:
            Images of shape (B, channels, *sides).
        """
        return y

    def digest(self) -> str:
        """A text that differs for operators that differ.

        Returns:
            The digest of the class and of all fields, in hexadecimal digits.
        """
        found = hashlib.sha256(repr(self).encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def _checked(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        self.check(tuple(x.shape[1:]))
        return x


@dataclass(frozen=True)
class LinearOperator(Operator):
    """Base class of linear measurements, y = A x. Subclasses implement ``adjoint`` too."""

    @abstractmethod
    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The adjoint, A^T y.

        Args:
            y: Measurements, as ``apply`` returns them.
            noise: As for ``apply``.

        Returns:
            Events, (B, *event).

        Raises:
            ValueError: If the shape of y is not that of a measurement.
        """

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """The Moore-Penrose pseudo-inverse, A^+ y.

        Here by conjugate gradients on the normal equations A^T A x = A^T y, started at 0. Most subclasses have a closed form.

        Args:
            y: Measurements, as ``apply`` returns them.
            noise: As for ``apply``.

        Returns:
            Events, (B, *event): the shortest of those that minimize |A x - y|.

        Raises:
            ValueError: If the shape of y is not that of a measurement.
        """
        b = self.adjoint(y, noise)
        tolerance = 10.0 * torch.finfo(b.dtype).eps
        return conjugate_gradients(
            lambda v: self.adjoint(self.apply(v, noise), noise), b, min(1000, 3 * b[0].numel()), tolerance
        )


def check_image(operator: Operator, event_shape: Sequence[int]) -> None:
    """Check that events have channels and sides.

    Args:
        operator: The operator, for the message.
        event_shape: (*event).

    Raises:
        ValueError: If there are no sides.
    """
    if len(event_shape) < 2:
        raise ValueError(
            f"{type(operator).__name__} does not take events {tuple(event_shape)}: give images (C, *sides)"
        )


def check_measurement(operator: Operator, y: Tensor, shape: Sequence[int]) -> None:
    """Check the shape of measurements.

    Args:
        operator: The operator, for the message.
        y: Measurements.
        shape: The shape that a row must have, (*measurement).

    Raises:
        ValueError: If y has rows of another shape.
    """
    check_batch("y", y)
    if tuple(y.shape[1:]) != tuple(shape):
        wanted = ", ".join(["B", *map(str, shape)])
        raise ValueError(f"y has shape {tuple(y.shape)}: measurements of {type(operator).__name__} are ({wanted})")


def as_mask(known: Numbers) -> Tensor:
    """Known entries as a tensor of bool.

    Args:
        known: True or 1 for known entries, False or 0 for others.

    Returns:
        The tensor.

    Raises:
        KindError: If there are no such values.
        ValueError: If there are other values, or no known entry.
    """
    try:
        made = torch.as_tensor(known)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise KindError(f"known={shown(known)} is not allowed: give 0 and 1 in rows of equal length") from problem
    made = made if made.dtype == torch.bool else as_numbers("known", made)
    if made.ndim == 0 or not bool(((made == 0) | (made == 1)).all()):
        raise ValueError(f"known={shown(known)} is not allowed: give a tensor of 1 (known) and 0 (missing)")
    if not bool(made.any()):
        raise ValueError(f"known={shown(known)} is not allowed: at least one entry must be known")
    return made.bool()
