r"""The probability of discrete data under a model that was trained without dequantization, by the density of its noisy states.

Let m_k be the middles of the intervals of the levels k, and let z = x_t at a small time t. The model consists of a density p(z),
such as that of the probability flow, and the decoder p(k | z) of `level_log_prob`. With q(z | k) = N(alpha m_k, sigma^2 I)

.. math:: \ln P(k) = \ln \int p(z)\, p(k \mid z)\, dz \ge E_{z \sim q(z \mid k)}[\ln p(z) + \ln p(k \mid z) - \ln q(z \mid k)]

The noise of time t takes the place of uniform dequantization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_finite, check_number, shown
from scoresde.data.middles import LevelMiddles
from scoresde.noise import NoiseSource
from scoresde.score.level_decoder import check_middles, level_log_prob
from scoresde.sde import LinearSDE
from scoresde.sde.linalg.kernel import ScalarKernel


@dataclass(frozen=True)
class NoisyLevels:
    """Noisy states of discrete data.

    Attributes:
        x: States z at time t, (B, *event).
        log_weight: ln p(k | z) - ln q(z | k), (B,) nats in float64. Added to ln p(z) it gives a value whose mean is at most
            ln P(k).
    """

    x: Tensor
    log_weight: Tensor


@checked_arguments
def noisy_levels(
    sde: LinearSDE,
    x: Tensor,
    transform: LevelMiddles,
    *,
    t: float = 1e-5,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
) -> NoisyLevels:
    """Draws noisy states at which a density of time t gives a lower bound of the log-probability of the levels.

    Args:
        sde: A process with scalar coefficients.
        x: Middles of intervals, (B, *event).
        transform: The transform of the data.
        t: The time, in [0, T], with noise.
        seed: Seed of the noise.
        first: Index of the first sample, part of the key of its noise.
        noise: Replaces ``seed`` and ``first``.

    Returns:
        The states, and the term that is added to their log-density.

    Raises:
        TypeError: The process does not have scalar coefficients.
        ValueError: There is no noise at time t, or x is not at the middles of intervals.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE, log_likelihood
        >>> from scoresde.data import LevelMiddles
        >>> from scoresde.likelihood import noisy_levels
        >>> sde, transform = VPSDE(), LevelMiddles(2)
        >>> score = GaussianMixture(torch.tensor([[-0.5], [0.5]]), 0.001).score(sde)
        >>> x = transform.encode(torch.tensor([[0], [1]]), None, dtype=torch.float64)
        >>> start = noisy_levels(sde, x, transform, t=0.01)
        >>> found = log_likelihood(sde, score, start.x, t_min=0.01)
        >>> bool(((found.log_prob + start.log_weight).exp() - 0.5).abs().max() < 0.01)  # two levels, equally probable
        True
    """
    check_batch("x", x)
    check_finite("x", x)
    check_middles("x", x, transform)
    check_number("t", t, least=0.0, most=sde.T)
    kernel = sde.kernel(torch.tensor(t, dtype=torch.float64, device=x.device))
    if not isinstance(kernel, ScalarKernel):
        raise TypeError(f"sde={shown(sde)} does not have scalar coefficients, which the decoder of the levels needs")
    alpha, sigma = float(kernel.a), float(kernel.std)
    if not sigma > 0.0:
        raise ValueError(f"t={t!r} is not allowed: {sde!r} has no noise there; give a larger time")
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    z = noise.normal(x.shape[1:], step=0, purpose="level noise", dtype=torch.float64)
    x0 = x.to(torch.float64)
    decoded = level_log_prob(x0, x0 + sigma / alpha * z, kernel.std / kernel.a, transform)
    log_q = -0.5 * z**2 - math.log(sigma) - 0.5 * math.log(2.0 * math.pi)
    return NoisyLevels((alpha * x0 + sigma * z).to(x.dtype), (decoded - log_q).reshape(len(x), -1).sum(1))
