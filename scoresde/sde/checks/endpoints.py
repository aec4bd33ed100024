r"""End points of simulated paths compared with the prior, for processes without a closed-form kernel.

Samplers start from the prior in place of p_T. Without a kernel, p_T is known only by samples x_T, simulated from data. Mean
and variance of each coordinate are compared by the divergence of the Gaussians that have them, here in nats per coordinate:

.. math::
    \tfrac{1}{2} \Big[ \frac{(m - m')^2}{v'} + \frac{v}{v'} - 1 - \ln \frac{v}{v'} \Big]

where m, v are those of x_T, and m', v' are those of the prior. With n samples of each, the estimate is about 1 / n too large.
The same estimate for two sets of samples of the prior is subtracted. Distributions that differ only in other properties than
these moments are not distinguished.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.sde.base import SDE

NUMBERS = 2**17
"""Numbers in the simulated end points. There are at least `FEWEST` and at most `MOST` end points."""
FEWEST, MOST = 256, 2**14


@dataclass(frozen=True)
class EndPoints:
    """Moments of simulated end points and of the prior, over samples and coordinates.

    Attributes:
        mismatch: The divergence in nats per coordinate; above -0.01 up to rounding, 0 if the moments agree.
        mean: Mean of the end points.
        std: Standard deviation of the end points, the root of the mean variance of a coordinate.
        prior_mean: Mean of the prior.
        prior_std: Standard deviation of the prior.
    """

    mismatch: float
    mean: float
    std: float
    prior_mean: float
    prior_std: float


@torch.no_grad()
def end_points(sde: SDE, x0: Tensor, *, seed: int = 0) -> EndPoints:
    """Simulate paths from data to T and compare their end points with samples of the prior.

    Args:
        sde: The process.
        x0: Data, ``(B, *event)``. Each event starts several paths if there are few.
        seed: Seed of the paths and of the samples of the prior.

    Returns:
        The comparison.
    """
    count = min(max(FEWEST, NUMBERS // max(1, x0[0].numel())), MOST)
    x0 = x0[torch.arange(count) % len(x0)]
    end = sde.marginal_sample(x0, torch.full((count,), sde.T, dtype=x0.dtype), NoiseSource.of(seed, count))
    start, other = (sde.prior_sample(x0.shape, seed=number, dtype=x0.dtype) for number in (seed + 1, seed + 2))
    (m, v), (prior_m, prior_v), (other_m, other_v) = map(_moments, (end, start, other))
    mismatch = _divergence(m, v, prior_m, prior_v) - _divergence(other_m, other_v, prior_m, prior_v)
    return EndPoints(
        mismatch, float(m.mean()), float(v.mean().sqrt()), float(prior_m.mean()), float(prior_v.mean().sqrt())
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.reshape(len(x), -1).double()
    return flat.mean(0), flat.var(0)


def _divergence(m: Tensor, v: Tensor, m1: Tensor, v1: Tensor) -> float:
    """KL(N(m, v) || N(m1, v1)), the mean over coordinates."""
    ratio = v / v1
    return float((0.5 * ((m - m1) ** 2 / v1 + ratio - 1.0 - ratio.log())).mean())
