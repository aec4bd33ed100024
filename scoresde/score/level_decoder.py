"""The decoder of variational diffusion models: the probability of the level of each coordinate given a noisy state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.data.middles import LevelMiddles

SLACK = 1e-2
"""Largest distance from the middle of an interval, in widths. bfloat16 and float16 are coarser than that for many levels."""


def level_log_prob(x0: Tensor, y: Tensor, std: Tensor, transform: LevelMiddles) -> Tensor:
    r"""Log-probability of the level of each coordinate under the decoder of variational diffusion models.

    .. math:: \ln p(k \mid y) = -\ln \sum_j \exp\Big( \frac{(y - m_k)^2 - (y - m_j)^2}{2 s^2} \Big)

    The decoder is the posterior of the level given y = m_k + s z, for equal probabilities of all levels. It has no network.
    Levels that are too far from y to change the result in float64 are left out of the sum.

    Args:
        x0: Middles m_k of intervals, (B, *event).
        y: The noisy data x_t / alpha, (B, *event), within 7 s of x0 or of any level.
        std: The standard deviation s = sigma / alpha of the noise, > 0, one number.
        transform: The transform of the data.

    Returns:
        The logarithms, (B, *event) in float64, with gradients with respect to y and ``std``.

    References:
        Kingma et al. 2021, Variational diffusion models, arXiv:2107.00630, appendix B.
    """
    std = std.to(torch.float64)
    width, level = transform.width, transform.decode(x0.detach())
    error = y.to(torch.float64) - transform.middles(torch.float64, x0.device)[level]
    reach = max(float(error.detach().abs().max()), 7.0 * float(std.detach()))
    far = min(transform.levels - 1, math.ceil((reach + 9.0 * float(std.detach())) / width))
    steps = torch.arange(-far, far + 1, device=x0.device)
    exponent = width * steps * (error[..., None] - 0.5 * width * steps) / std**2
    place = level[..., None] + steps
    inside = (place >= 0) & (place < transform.levels)
    found: Tensor = -exponent.masked_fill(~inside, -math.inf).logsumexp(-1)
    return found


def check_middles(name: str, x: Tensor, transform: LevelMiddles) -> None:
    """Check that values are at the middles of the levels.

    Args:
        name: The name of the values in messages.
        x: The values, (B, *event).
        transform: The transform of the data.

    Raises:
        ValueError: If they are not, as those of dequantized data.
    """
    middles = transform.middles(torch.float64, x.device)[transform.decode(x)]
    if not bool(((x - middles).abs() <= SLACK * transform.width).all()):
        raise ValueError(
            f"{name} is not at the middles of the levels of {transform!r}: give data without dequantization, such as "
            "WithoutDequantization(Digits())"
        )
