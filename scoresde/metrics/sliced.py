"""The sliced Wasserstein-2 distance (Rabin et al. 2011; Bonneel et al. 2015) along random directions.

    SW_2^2(x, y) = E_theta W_2^2(theta . x, theta . y),     theta uniform on the unit sphere,

In one dimension, W_2^2 = int_0^1 (F_x^{-1}(u) - F_y^{-1}(u))^2 du, which is computed exactly from sorted numbers, also for
sets of different sizes. The directions depend only on the seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count
from scoresde.metrics.pairs import checked
from scoresde.noise import NoiseSource

_AT_ONCE = 2**22
"""Number of projected values that are sorted at a time."""


@checked_arguments
def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 256, seed: int = 0) -> float:
    """The sliced Wasserstein-2 distance, averaged over random directions.

    Args:
        x: Features of shape (n, d).
        y: Features of shape (m, d).
        directions: Number of random directions.
        seed: The seed of the directions.

    Returns:
        SW_2, in the units of x.

    Raises:
        ValueError: For other shapes, or values that are not finite.

    References:
        Rabin et al. 2011, Wasserstein barycenter and its application to texture mixing; Bonneel et al. 2015, Sliced and Radon
        Wasserstein barycenters of measures.
    """
    check_count("directions", directions)
    x, y = checked(x, y)
    noise = NoiseSource.of(seed, directions, device=x.device)
    theta = noise.normal((x.shape[1],), step=0, purpose="slice", dtype=torch.float64)
    theta = theta / theta.norm(dim=1, keepdim=True)
    together = max(1, _AT_ONCE // (len(x) + len(y)))
    squares = [_line_squares(x @ part.T, y @ part.T) for part in theta.split(together)]
    return math.sqrt(float(torch.cat(squares).mean()))


def _line_squares(x: Tensor, y: Tensor) -> Tensor:
    """W_2^2 of columns of x (n, k) and y (m, k): (k,)."""
    n, m = len(x), len(y)
    # the jumps of both quantile functions, in units of 1 / (n m)
    one, other = (torch.arange(1, count + 1, device=x.device) * step for count, step in ((n, m), (m, n)))
    ends = torch.cat([one, other]).unique()
    widths = torch.diff(ends, prepend=ends.new_zeros(1)).to(x.dtype) / (n * m)
    ordered = x.sort(0).values[(ends - 1) // m] - y.sort(0).values[(ends - 1) // n]
    return (ordered.square() * widths[:, None]).sum(0)
