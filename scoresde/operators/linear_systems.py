"""Conjugate gradients for a batch of linear systems that are known by their products."""

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


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product a^T b for each sample.

    Args:
        a: Vectors, (B, *shape).
        b: Vectors, (B, *shape).

    Returns:
        The products, (B,).
    """
    return (a * b).reshape(len(a), -1).sum(1)
