"""Mean and covariance of feature vectors, accumulated batch by batch.

For n vectors f_i:  mu = 1/n sum f_i,   S = sum (f_i - mu)(f_i - mu)^T,   covariance = S / (n - 1), which is unbiased. The
moments of two sets together (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm"), with d = mu_b -
mu_a, are

    n = n_a + n_b,   mu = mu_a + (n_b / n) d,   S = S_a + S_b + (n_a n_b / n) d d^T

All sums are in float64. The formula avoids the cancellation in a difference of sums of squares.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde._files import NO_ARRAY, check_zip, write_atomic
from scoresde._validation import check_count, check_finite


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of feature vectors.

    Args:
        mean: The mean, of shape (d,). It is converted to float64.
        covariance: The unbiased covariance, of shape (d, d), divided by count - 1; zero if count is 1. It is converted to
            float64.
        count: The number of vectors; None if a file does not contain it.

    Raises:
        ValueError: For shapes that do not match, values that are not finite, or a covariance that is not symmetric.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            check_count("count", self.count)
        d = tuple(self.mean.shape)
        if self.mean.ndim != 1 or tuple(self.covariance.shape) != d + d:
            raise ValueError(
                f"mean of shape {d} and covariance of shape {tuple(self.covariance.shape)}: give (d,) and (d, d)"
            )
        for name, value in (("mean", self.mean), ("covariance", self.covariance)):
            object.__setattr__(self, name, value.to(torch.float64))
            check_finite(name, value[None], where=" (the file or the features are broken)")
        apart = float((self.covariance - self.covariance.T).abs().max())
        if apart > 1e-5 * max(float(self.covariance.abs().max()), 1e-300):
            raise ValueError(
                f"covariance is not symmetric: entries and their mirror images differ by up to {apart:.3g}"
            )

    @property
    def dimension(self) -> int:
        """The number of features d."""
        return len(self.mean)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of feature vectors.

        Args:
            features: Features of shape (n, d) with n >= 1.

        Returns:
            Their moments.
        """
        return cls.gather([features])

    @classmethod
    def gather(cls, parts: Iterable[Tensor]) -> Moments:
        """The moments of features that come in batches.

        Args:
            parts: Features of shape (n_k, d) with n_k >= 1. They are accumulated in this order.

        Returns:
            The moments of all features together.

        Raises:
            ValueError: If there are no features.
        """
        sums = MomentAccumulator()
        for part in parts:
            sums.add(part)
        return sums.moments

    def merge(self, other: Moments) -> Moments:
        """The moments of two sets together.

        Args:
            other: The moments of the other set.

        Returns:
            The moments of the union.

        Raises:
            ValueError: If a count is unknown, or the numbers of features differ.
        """
        if self.count is None or other.count is None:
            raise ValueError("moments of an unknown count cannot be merged: compute them from the features")
        sums = MomentAccumulator(self.count, self.mean, self.covariance * (self.count - 1))
        sums.join(other.count, other.mean)
        sums.squares += other.covariance * (other.count - 1)
        return sums.moments

    def save(self, path: str | Path) -> None:
        """Write an .npz file with ``mu``, ``sigma`` and, if known, ``count``. Other tools use the same names.

        Args:
            path: The file to write.
        """
        content, arrays = io.BytesIO(), {"mu": self.mean.cpu().numpy(), "sigma": self.covariance.cpu().numpy()}
        if self.count is not None:
            arrays["count"] = np.array(self.count)
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_atomic(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read an .npz file with ``mu`` and ``sigma``.

        Files of other projects have no ``count``. Nothing in the file is executed.

        Args:
            path: The file to read.

        Returns:
            The moments.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is not such a file.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no file of moments {str(file)!r}: give an .npz file with mu and sigma")
        try:
            check_zip(file)
            with np.load(file, allow_pickle=False) as content:
                mean, covariance = (torch.from_numpy(_real(content[n])) for n in ("mu", "sigma"))
                count = int(content["count"]) if "count" in content.files else None
            return cls(mean, covariance, count)
        except (*NO_ARRAY, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"{str(file)!r} does not contain mu (d,) and sigma (d, d): {problem}") from problem


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it holds {array.dtype}: give real numbers")
    return np.asarray(array, np.float64)


@dataclass
class MomentAccumulator:
    """Accumulates moments in place, batch by batch.

    Args:
        count: The number of vectors so far.
        mean: Their mean, of shape (d,).
        squares: S = sum (f_i - mu)(f_i - mu)^T, of shape (d, d).
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    squares: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def add(self, features: Tensor) -> None:
        """Add feature vectors.

        Args:
            features: Features of shape (n, d).

        Raises:
            ValueError: For another shape.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features have shape {tuple(features.shape)}: give (n, d), n >= 1, d >= 1")
        values = features.to(torch.float64)
        mean = values.mean(0)
        if not self.count:
            self.mean, self.squares = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        self.join(len(values), mean)
        centered = values - mean
        self.squares.addmm_(centered.T, centered)

    def join(self, count: int, mean: Tensor) -> None:
        """Add count and mean of another set, and the term of S for the distance of the means. The caller adds the S of the set.

        Args:
            count: The number of vectors of the other set.
            mean: Their mean, of shape (d,).

        Raises:
            ValueError: If the numbers of features differ.
        """
        if len(mean) != len(self.mean):
            raise ValueError(f"moments of {len(self.mean)} and of {len(mean)} numbers cannot be merged")
        both, apart = self.count + count, mean - self.mean
        self.squares.addr_(apart, apart, alpha=self.count * count / both)
        self.mean, self.count = self.mean + apart * (count / both), both

    @property
    def moments(self) -> Moments:
        """The moments so far. Raises ValueError if there are no features."""
        if not self.count:
            raise ValueError("there are no features to compute moments of: give at least one part")
        return Moments(self.mean, self.squares / max(1, self.count - 1), self.count)
