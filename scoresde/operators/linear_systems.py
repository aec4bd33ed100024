"""Krylov methods for a batch of linear systems that are known by their products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde._validation import expand


def conjugate_gradients(
    system: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-5
) -> Tensor:
    """Solve S v = b for each sample, for a symmetric positive definite S.

    Args:
        system: The function v -> S v, which acts on each sample.
        b: Right-hand sides, (B, *measurement).
        iterations: Largest number of steps. The method ends when all residuals are below ``tolerance`` |b|.
        tolerance: Relative size of the residual.

    Returns:
        The solutions, with the shape of b. A sample for which S is not positive definite keeps its last solution.
    """
    v, r, p = torch.zeros_like(b), b, b
    square = dot(r, r)
    limit = tolerance**2 * square
    for _ in range(iterations):
        if not bool((square > limit).any()):
            break
        product = system(p)
        curvature = dot(p, product)
        step = torch.where((curvature > 0) & (square > limit), square / curvature, 0.0)
        v, r = v + expand(step, b) * p, r - expand(step, b) * product
        new = torch.where(step > 0, dot(r, r), square)
        ratio = torch.where(step > 0, new / square, 0.0)
        square = torch.where(step > 0, new, 0.0)  # a sample that has ended takes no more steps
        p = r + expand(ratio, b) * p
    return v


def gmres(system: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Minimize |S v - b| for each sample over the Krylov space of S and b, for any S.

    Unlike conjugate gradients it does not need a symmetric S: the residual never grows with the number of steps.

    Args:
        system: The function v -> S v, which acts on each sample.
        b: Right-hand sides, (B, *measurement).
        iterations: Largest number of steps, each with one product.

    Returns:
        The solutions, with the shape of b.

    References:
        Saad, Schultz 1986, "GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems".
    """
    size = dot(b, b).sqrt()
    basis = [_unit(b, size, 0.0)]
    projected = b.new_zeros(len(b), iterations + 1, iterations, dtype=torch.float64)
    for k in range(iterations):
        w = system(basis[k])
        before = dot(w, w).sqrt()
        for _ in range(2):  # the second pass removes the rounding errors of the first
            for j, q in enumerate(basis):
                part = dot(q, w)
                projected[:, j, k] += part
                w = w - expand(part, b) * q
        length = dot(w, w).sqrt()
        projected[:, k + 1, k] = torch.where(length > 1e-6 * before, length, 0.0)
        if not bool((length > 1e-6 * before).any()):
            break  # the space has the solutions
        basis.append(_unit(w, length, 1e-6 * before))
    weights = torch.linalg.pinv(projected)[:, :, 0] * size[:, None]
    solution = torch.zeros_like(b)
    for q, weight in zip(basis, weights.to(b).unbind(1), strict=False):
        solution = solution + expand(weight, b) * q
    return solution


def _unit(v: Tensor, length: Tensor, least: Tensor | float) -> Tensor:
    """v / length for each sample, and 0 where the length is not above ``least``."""
    return torch.where(expand(length > least, v), v / expand(length, v), 0.0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product a^T b for each sample.

    Args:
        a: Vectors, (B, *shape).
        b: Vectors, (B, *shape).

    Returns:
        The products, (B,).
    """
    return (a * b).reshape(len(a), -1).sum(1)
