r"""A yardstick for distances: the same distance between two halves of the real data.

A distance such as the Fréchet distance has the units of the features, and its estimate depends on the number of vectors: with
n and m vectors it is too large by about c (1/n + 1/m). The random halves A and B of the data give a scale. With k vectors of A
and of the samples S,

    ratio = D(S_k, B) / D(A_k, B),        k = min(|S|, |A|),

both distances have the same bias. Both are means over several random halvings, because one of them is uncertain. The ratio
has no units. It is near 1 if the samples are as close to the data as other data is, and grows with the difference of the
distributions. If k is small, the bias is large, and the ratio detects only large differences.

An unbiased estimate, such as that of the kernel distance, is near 0 between two halves, so it gives no scale. Use its estimate
over all pairs instead (``KernelDistance.biased``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count
from scoresde.metrics.pairs import checked
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class RelativeDistance:
    """A distance and its yardstick, both of ``count`` and ``reference_count`` vectors, and means over ``halvings``.

    Attributes:
        value: The distance between samples and a half of the data.
        yardstick: The distance between the other half of the data and the same half.
        count: The number k of samples, and of vectors of the other half.
        reference_count: The number of vectors of the half that both are compared with.
        halvings: The number of random halvings of the data.
    """

    value: float
    yardstick: float
    count: int
    reference_count: int
    halvings: int

    @property
    def ratio(self) -> float | None:
        """``value / yardstick``; None if the yardstick is not positive."""
        return self.value / self.yardstick if self.yardstick > 0.0 else None


@checked_arguments
def random_order(count: int, seed: int = 0) -> Tensor:
    """A random order of 0 .. count - 1.

    Args:
        count: The number of elements, at least 1.
        seed: The seed.

    Returns:
        A permutation, an integer tensor of shape (count,).
    """
    check_count("count", count)
    check_count("seed", seed, least=0)
    u = NoiseSource.of(seed, count).uniform((), step=0, purpose="halves", dtype=torch.float64)
    return u.argsort(stable=True)


@checked_arguments
def halves(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Divide indices into two random halves.

    Args:
        count: The number of elements, at least 2.
        seed: The seed.

    Returns:
        The indices of the halves A and B in random order, integer tensors of shapes (count // 2,) and (count - count // 2,).
    """
    check_count("count", count, least=2)
    order = random_order(count, seed)
    return order[: count // 2], order[count // 2 :]


@checked_arguments
def relative_distance(
    samples: Tensor, data: Tensor, distance: Callable[[Tensor, Tensor], float], halvings: int = 8
) -> RelativeDistance:
    r"""A distance between samples and data, with the same distance between two halves of the data as its yardstick.

    .. math:: \mathrm{ratio} = D(S_k, B) / D(A_k, B), \qquad k = \min(|S|, |A|)

    Args:
        samples: Features of samples, of shape (n, d).
        data: Features of data, of shape (m, d) with m >= 4.
        distance: A function D of two sets of features, of shapes (k, d) and (l, d).
        halvings: The number of random halvings of the data. Their seeds are 0, 1, ..., halvings - 1.

    Returns:
        Both distances, the numbers of vectors, and the ratio.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    Example:
        >>> import torch
        >>> from scoresde.metrics import Moments, frechet_distance, relative_distance
        >>> data, samples = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)), torch.ones(1000, 2)
        >>> found = relative_distance(samples, data, lambda x, y: frechet_distance(Moments.of(x), Moments.of(y)))
        >>> found.count, found.reference_count, found.ratio > 100.0
        (1000, 2000, True)
    """
    samples, data = checked(samples, data, names=("samples", "data"))
    if len(data) < 4:
        raise ValueError(f"data has {len(data)} events: two halves need 4 at least")
    check_count("halvings", halvings)
    k, value, yardstick = min(len(samples), len(data) // 2), 0.0, 0.0
    for seed in range(halvings):
        other, reference = halves(len(data), seed)
        half = data[reference]
        value += distance(samples[random_order(len(samples), seed)[:k]], half) / halvings
        yardstick += distance(data[other[:k]], half) / halvings
    return RelativeDistance(value, yardstick, k, len(data) - len(data) // 2, halvings)
