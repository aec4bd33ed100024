"""Matrices and functions as linear operators."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_counts, shown
from scoresde.noise import NoiseSource
from scoresde.operators.base import LinearOperator, check_measurement


@dataclass(frozen=True)
class MatrixOperator(LinearOperator):
    """y = A x for a matrix A and flattened events x. ``image`` is the pseudo-inverse.

    Args:
        matrix: The matrix, (m, d).
        event_shape: The shape of the events, of d numbers. None for (d,).

    Example:
        >>> import torch
        >>> from scoresde.operators import MatrixOperator
        >>> mean = MatrixOperator([[0.5, 0.5]])
        >>> mean(torch.tensor([[1.0, 2.0]])), mean.pseudo_inverse(torch.tensor([[1.5]]))
        (tensor([[1.5000]]), tensor([[1.5000, 1.5000]]))
    """

    matrix: Numbers
    event_shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        matrix = as_numbers("matrix", self.matrix)
        if matrix.ndim != 2 or matrix.numel() == 0:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}: give (m, d) for measurements of m numbers")
        shape = (matrix.shape[1],) if self.event_shape is None else self.event_shape
        check_counts("event_shape", shape)
        if math.prod(shape) != matrix.shape[1]:
            raise ValueError(
                f"matrix has shape {tuple(matrix.shape)}, and event_shape={tuple(shape)!r} has {math.prod(shape)} numbers: give "
                "one column for each"
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "event_shape", tuple(shape))

    def check(self, event_shape: Sequence[int]) -> None:
        _check_equal(self, event_shape, self._event)

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self._checked(x).flatten(1) @ self._matrix.mT.to(x)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        check_measurement(self, y, (len(self._matrix),))
        return (y @ self._matrix.to(y)).reshape(len(y), *self._event)

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        check_measurement(self, y, (len(self._matrix),))
        return (y @ self._inverse.mT.to(y)).reshape(len(y), *self._event)

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.pseudo_inverse(y)

    @property
    def _matrix(self) -> Tensor:
        assert isinstance(self.matrix, Tensor)  # converted at the start
        return self.matrix

    @property
    def _event(self) -> tuple[int, ...]:
        assert self.event_shape is not None
        return tuple(self.event_shape)

    @cached_property
    def _inverse(self) -> Tensor:
        found: Tensor = torch.linalg.pinv(self._matrix)
        return found


@dataclass(frozen=True)
class LinearFunction(LinearOperator):
    """y = f(x) for any linear function f that is differentiable by autograd. ``image`` is the pseudo-inverse.

    The adjoint is found by autograd, and the pseudo-inverse by conjugate gradients.

    Args:
        function: The function f, (B, *event) -> (B, *measurement), which acts on each event separately.
        event_shape: The shape of the events.

    Raises:
        ValueError: If the function fails for events of this shape, or is not linear.

    Example:
        >>> import torch
        >>> from scoresde.operators import LinearFunction
        >>> differences = LinearFunction(lambda x: x.diff(dim=1), (3,))
        >>> differences.adjoint(torch.tensor([[1.0, 0.0]])).tolist()
        [[-1.0, 1.0, 0.0]]
    """

    function: Callable[[Tensor], Tensor]
    event_shape: Sequence[int]

    def __post_init__(self) -> None:
        check_counts("event_shape", self.event_shape)
        object.__setattr__(self, "event_shape", tuple(self.event_shape))
        self._check_linear()

    def check(self, event_shape: Sequence[int]) -> None:
        _check_equal(self, event_shape, self.event_shape)

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        y = self.function(self._checked(x))
        if not isinstance(y, Tensor) or y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"function returned {shown(y)} for x of shape {tuple(x.shape)}: return {len(x)} rows")
        return y

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        graph = torch.is_grad_enabled() and y.requires_grad
        with torch.enable_grad():
            x = torch.zeros((len(y), *self.event_shape), dtype=y.dtype, device=y.device, requires_grad=True)
            image = self.apply(x)
            check_measurement(self, y, image.shape[1:])
            if not image.requires_grad:
                raise ValueError(
                    "function has no graph to x (torch.no_grad, detach, NumPy?), so its adjoint is not known"
                )
            (found,) = torch.autograd.grad(image, x, y, create_graph=graph)
        return found

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.pseudo_inverse(y)

    def digest(self) -> str:
        with torch.no_grad():
            content = self._probed()[2].cpu().contiguous().numpy().tobytes()
        return hashlib.sha256(repr(self).encode() + content).hexdigest()[:16]

    def _check_linear(self) -> None:
        """Raise ValueError unless f(0) = 0 and f(2 a - b) = 2 f(a) - f(b)."""
        with torch.no_grad():
            a, b, combined, zero = self._probed()
        slack = 1e-4 * float(max(a.abs().max(), b.abs().max()))
        if float(zero.abs().max()) > slack or float((combined - 2.0 * a + b).abs().max()) > 10.0 * slack:
            raise ValueError(
                f"function={shown(self.function)} is not linear: give a function with f(a x + b z) = a f(x) + b f(z)"
            )

    def _probed(self) -> Tensor:
        """f at a, b, 2 a - b and 0, in the dtype that it takes."""
        size = math.prod(self.event_shape)
        a, b = (torch.linspace(k, 2.0, size, dtype=torch.float64).cos() for k in (-1.0, 1.5))
        rows = torch.stack((a, b, 2.0 * a - b, 0.0 * a)).reshape(4, *self.event_shape)
        problem: Exception | None = None
        for dtype in (torch.float32, torch.float64):
            try:
                return self.apply(rows.to(dtype)).double()
            except RuntimeError as error:
                problem = error
        raise ValueError(
            f"function={shown(self.function)} fails for x of shape {tuple(rows.shape)}: {problem}"
        ) from problem


def _check_equal(operator: LinearOperator, event_shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise ValueError unless events have the shape of the operator."""
    if tuple(event_shape) != tuple(wanted):
        raise ValueError(
            f"{type(operator).__name__} is for events {tuple(wanted)} (event_shape), and not for {tuple(event_shape)}"
        )
