"""Mean and covariance of feature vectors, gathered part by part.

For a part of n vectors f_i:  mu = 1/n sum f_i,   S = sum (f_i - mu)(f_i - mu)^T,   covariance = S / (n - 1), which is unbiased.
Two parts together (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm"), with d = mu_b - mu_a:

    n = n_a + n_b,   mu = mu_a + (n_b / n) d,   S = S_a + S_b + (n_a n_b / n) d d^T

all in float64, so that no sum of squares is taken whose leading digits cancel.
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
    """What is kept of a set of feature vectors.

    mean: (d,). covariance: (d, d), unbiased, divided by count - 1; zero where count is 1. Both float64.
    count: of vectors; None where a file does not say.

    Raises ValueError for shapes that do not fit, numbers that are not finite, or a covariance that is not symmetric.
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
        """d."""
        return len(self.mean)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of feature vectors (n, d), n >= 1."""
        return cls.gather([features])

    @classmethod
    def gather(cls, parts: Iterable[Tensor]) -> Moments:
        """The moments of all parts (n_k, d), n_k >= 1, taken in their order. Raises ValueError where there are none."""
        sums = MomentAccumulator()
        for part in parts:
            sums.add(part)
        return sums.moments

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together. Raises ValueError where a count or d does not allow it."""
        if self.count is None or other.count is None:
            raise ValueError("moments of an unknown count cannot be merged: compute them from the features")
        sums = MomentAccumulator(self.count, self.mean, self.covariance * (self.count - 1))
        sums.join(other.count, other.mean)
        sums.squares += other.covariance * (other.count - 1)
        return sums.moments

    def save(self, path: str | Path) -> None:
        """Write an .npz file with ``mu``, ``sigma`` and, where it is known, ``count``: names that other tools read too."""
        content, arrays = io.BytesIO(), {"mu": self.mean.cpu().numpy(), "sigma": self.covariance.cpu().numpy()}
        if self.count is not None:
            arrays["count"] = np.array(self.count)
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_atomic(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """The moments of an .npz file with ``mu`` and ``sigma``; other projects' have no ``count``.

        Raises FileNotFoundError, or ValueError for anything that is no such file. Nothing in it is executed.
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
            raise ValueError(f"{str(file)!r} holds no mu (d,) and sigma (d, d): {problem}") from problem


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it holds {array.dtype}: give real numbers")
    return np.asarray(array, np.float64)


@dataclass
class MomentAccumulator:
    """Sums that grow in place, part by part: count, mean (d,) and S (d, d), by the formula above."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    squares: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def add(self, features: Tensor) -> None:
        """Take feature vectors (n, d) in. Raises ValueError for another shape."""
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"features have shape {tuple(features.shape)}: give (n, d), n >= 1, d >= 1")
        values = features.to(torch.float64)
        mean = values.mean(0)
        if not self.count:
            self.mean, self.squares = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        self.join(len(values), mean)
        centred = values - mean
        self.squares.addmm_(centred.T, centred)

    def join(self, count: int, mean: Tensor) -> None:
        """Take another set's count and mean in, and what S has of their distance; its own S is to be added."""
        if len(mean) != len(self.mean):
            raise ValueError(f"moments of {len(self.mean)} and of {len(mean)} numbers cannot be merged")
        both, apart = self.count + count, mean - self.mean
        self.squares.addr_(apart, apart, alpha=self.count * count / both)
        self.mean, self.count = self.mean + apart * (count / both), both

    @property
    def moments(self) -> Moments:
        """Of what was taken in. Raises ValueError where that is nothing."""
        if not self.count:
            raise ValueError("there are no features to take moments of: give at least one part")
        return Moments(self.mean, self.squares / max(1, self.count - 1), self.count)
