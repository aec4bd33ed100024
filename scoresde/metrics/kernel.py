"""The kernel distance (KID), the squared maximum mean discrepancy of features (Bińkowski et al. 2018, arXiv:1801.01401).

With k(x, y) = (x . y / d + 1)^3, n vectors x and m vectors y, the unbiased estimate is

    MMD^2 = 1/(n(n-1)) sum_{i != j} k(x_i, x_j) + 1/(m(m-1)) sum_{i != j} k(y_i, y_j) - 2/(nm) sum_{ij} k(x_i, y_j).

Its variance is v_1 + v_2, where v_1 comes from terms that depend on one vector and v_2 from terms that depend on a pair. The
jackknife J, which leaves out each vector in turn, counts every pair twice. On average

    v_2 = 2 q_xx / (n(n-1)) + 2 q_yy / (m(m-1)) + 4 q_xy / (nm),
    J   = v_1 + 4 q_xx / (n(n-2)) + 4 q_yy / (m(m-2)) + 8 q_xy / (nm),

where q is the mean square of the kernel centered in rows and columns; for a set with itself by U-centering (Székely and
Rizzo 2014, arXiv:1310.2926). This gives an unbiased estimate of v_1 + v_2, whose square root is the standard error. It is also
correct if the two distributions are equal; v_1 is then 0, and the square root of J is too large by a factor 2^(1/2). Noise can
make the estimate too small, so it is bounded below by v_2 / 2.

The computation needs only sums over rows. Memory holds one block of pairs, and the time is that of (n + m)^2 d products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde.metrics.pairs import blocks, checked


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance and its standard error.

    Attributes:
        value: The estimate of MMD^2. It can be negative, because its mean is 0 if the distributions are equal.
        standard_error: The standard error; NaN for fewer than 4 vectors.
        biased: The estimate over all pairs, with i = j. It is the squared distance of the two sets themselves, at least 0,
            and too large on average by (E k(x, x) - E k(x, x')) / n + (E k(y, y) - E k(y, y')) / m.
    """

    value: float
    standard_error: float
    biased: float


@checked_arguments
def kernel_distance(x: Tensor, y: Tensor) -> KernelDistance:
    r"""The kernel distance (KID) between two sets of features.

    .. math::
        \mathrm{MMD}^2 = \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
            - \frac{2}{nm} \sum_{ij} k(x_i, y_j), \qquad k(x, y) = (x \cdot y / d + 1)^3

    Args:
        x: Features of shape (n, d) with n >= 2.
        y: Features of shape (m, d) with m >= 2.

    Returns:
        The unbiased estimate of MMD^2, its standard error, and the estimate over all pairs.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    References:
        Bińkowski et al. 2018, arXiv:1801.01401.
    """
    x, y = checked(x, y, least=2)
    within = [_Sums.of(s, s, same=True) for s in (x, y)]
    between = _Sums.of(x, y, same=False)
    value = sum(s.total / (s.count * (s.count - 1)) for s in within) - 2.0 * between.total / (len(x) * len(y))
    n, m = len(x), len(y)
    every = sum((s.total + _diagonal(v)) / s.count**2 for s, v in zip(within, (x, y), strict=True))
    biased = max(0.0, every - 2.0 * between.total / (n * m))
    if min(n, m) < 4:
        return KernelDistance(value, math.nan, biased)
    xx, yy, xy = (sums.centered_square() for sums in (*within, between))
    pairs = 2.0 * xx / (n * (n - 1)) + 2.0 * yy / (m * (m - 1)) + 4.0 * xy / (n * m)
    twice = 4.0 * xx / (n * (n - 2)) + 4.0 * yy / (m * (m - 2)) + 8.0 * xy / (n * m)
    jackknife = _jackknife(within[0].rows, between.rows, m) + _jackknife(within[1].rows, between.columns, n)
    return KernelDistance(value, math.sqrt(max(jackknife - twice + pairs, pairs / 2.0, 0.0)), biased)


def _diagonal(x: Tensor) -> float:
    """sum_i k(x_i, x_i)."""
    return float(((x.square().sum(1) / x.shape[1] + 1.0) ** 3).sum())


def _jackknife(within: Tensor, across: Tensor, other: int) -> float:
    """The jackknife variance for one set. within, across: (n,) sums of the kernel with the same and with the other set."""
    n = len(within)
    without = (within.sum() - 2.0 * within) / ((n - 1) * (n - 2)) - 2.0 * (across.sum() - across) / ((n - 1) * other)
    return (n - 1) / n * float((without - without.mean()).square().sum())


@dataclass(frozen=True)
class _Sums:
    """Sums of a kernel matrix. same: the matrix of a set with itself, without its diagonal."""

    rows: Tensor
    columns: Tensor
    squares: float
    same: bool

    @classmethod
    def of(cls, x: Tensor, y: Tensor, same: bool) -> _Sums:
        rows, columns, squares = x.new_zeros(len(x)), x.new_zeros(len(y)), 0.0
        for i, here in blocks(x):
            for j, there in blocks(y):
                kernel = (here @ there.T / x.shape[1] + 1.0) ** 3
                if same and i == j:
                    kernel.fill_diagonal_(0.0)
                rows[i : i + len(here)] += kernel.sum(1)
                columns[j : j + len(there)] += kernel.sum(0)
                squares += float(kernel.square().sum())
        return cls(rows, columns, squares, same)

    @property
    def count(self) -> int:
        """Number of vectors of the first set."""
        return len(self.rows)

    @property
    def total(self) -> float:
        return float(self.rows.sum())

    def centered_square(self) -> float:
        """q: an unbiased estimate of the mean square of the centered kernel."""
        n, m = len(self.rows), len(self.columns)
        if self.same:
            square = self.squares - 2.0 * float(self.rows.square().sum()) / (n - 2)
            return (square + self.total**2 / ((n - 1) * (n - 2))) / (n * (n - 3))
        square = self.squares - float(self.rows.square().sum()) / m - float(self.columns.square().sum()) / n
        return (square + self.total**2 / (n * m)) / ((n - 1) * (m - 1))
