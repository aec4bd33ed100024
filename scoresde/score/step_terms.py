r"""The terms of the variational bound for one reverse step, of x_0 - x_hat and the variance V of x_0 given x_t.

With Delta = SNR_s - SNR_t, the difference of (alpha / sigma)^2, a step from t to s < t costs

.. math::
    KL(q(x_s \mid x_t, x_0) \,\|\, p(x_s \mid x_t)) = \frac12 \sum_{j=1}^d \left[ \ln(1 + \Delta V_j) +
    \frac{\Delta (e_j^2 - V_j)}{1 + \Delta V_j} \right], \qquad e = x_0 - \hat x

nats for scalar coefficients. The step to the data, the decoder, has the distribution N(x_hat, V) of x_0 itself. For discrete data
it gives the probability of the interval of the level of x_0, where the first and the last interval have no end (Ho et al. 2020,
eq. 13).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.data import Quantized


def step_divergence(error: Tensor, variance: Tensor, delta: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of reverse steps.

    Args:
        error: x_0 - x_hat, (B, *event).
        variance: V with 1 + delta V > 0, () or (B,) for all coordinates, or (B, *event).
        delta: Difference of (alpha / sigma)^2 at s and at t, () or (B,), > 0 and finite.

    Returns:
        The divergences, (B,) nats.
    """
    v, delta = expand(variance, error), expand(delta, error)
    each = (delta * v).log1p() + delta * (error.square() - v) / (1.0 + delta * v)
    return 0.5 * each.reshape(len(error), -1).sum(1)


def prior_divergence(x0: Tensor, alpha: Tensor | float, sigma: Tensor | float, prior_std: float) -> Tensor:
    """KL(N(alpha x_0, sigma^2 I) || N(0, prior_std^2 I)), the divergence of x_T from the prior.

    Args:
        x0: The data, (B, *event).
        alpha: Coefficient of the data at T, a number or ().
        sigma: Standard deviation of the noise at T, a number or ().
        prior_std: Standard deviation of the prior.

    Returns:
        The divergences, (B,) nats.
    """
    ratio = torch.as_tensor(sigma / prior_std, dtype=torch.float64).square()
    square = (x0.to(torch.float64) * (alpha / prior_std)).square().reshape(len(x0), -1).sum(1)
    return 0.5 * (square + x0[0].numel() * (ratio - 1.0 - ratio.log()))


def middles_of(name: str, x: Tensor, transform: Quantized) -> Tensor:
    """The middles of the intervals of the levels of x.

    Args:
        name: Name of x, for the message.
        x: Discrete data, dequantized or not, (B, *event).
        transform: The transform, whose intervals these are.

    Returns:
        The middles, (B, *event) in the dtype of x.

    Raises:
        ValueError: If a value is outside of all intervals. It is checked on the CPU only.
    """
    if x.device.type == "cpu":  # elsewhere the check would synchronize the device
        place = (x.detach().double() - transform.low) / transform.width
        slack = 1e-3 if x.dtype == torch.float64 else 1e-2
        if not bool(((place >= -slack) & (place <= transform.levels + slack)).all()):
            low, high = (float(v) for v in torch.aminmax(x))
            raise ValueError(
                f"{name} has values from {low:g} to {high:g}, and {transform!r} has values in [{transform.low:g}, "
                f"{transform.high:g}]"
            )
    return transform.encode(transform.decode(x), None, dtype=x.dtype)


def decoder_log_prob(x0: Tensor, error: Tensor, variance: Tensor, transform: Quantized | None) -> Tensor:
    """log p(x_0 | x_t) of a step to the data.

    Args:
        x0: The data, (B, *event). For discrete data the middles of intervals.
        error: x_0 - x_hat, (B, *event).
        variance: V > 0, () or (B,) for all coordinates, or (B, *event).
        transform: The transform of discrete data, or None for a log-density.

    Returns:
        The logarithms, (B,) nats.
    """
    std = expand(variance, error).sqrt()
    if transform is None:
        each = -0.5 * (error / std) ** 2 - std.log() - 0.5 * math.log(2.0 * math.pi)
    else:
        each = log_interval(x0, error, std, transform)
    return each.reshape(len(each), -1).sum(1)


def log_interval(x0: Tensor, error: Tensor, std: Tensor, transform: Quantized) -> Tensor:
    """log of the probability that N(x_0 - error, std^2) gives to the interval of x_0.

    The first interval begins at minus infinity, and the last one ends at infinity.

    Args:
        x0: Middles of intervals, (B, *event) float64.
        error: x_0 minus the mean, (B, *event).
        std: Standard deviation, of a shape that broadcasts with ``error``.
        transform: The transform, whose intervals these are.

    Returns:
        The logarithms, (B, *event).
    """
    half = 0.5 * transform.width
    lower, upper = (error - half) / std, (error + half) / std
    lower = torch.where(x0 < transform.low + transform.width, -math.inf, lower)
    upper = torch.where(x0 > transform.high - transform.width, math.inf, upper)
    flip = lower + upper > 0  # in the upper tail the mirrored interval is accurate
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    top, bottom = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    found: Tensor = top + torch.log1p(-(bottom - top).exp())
    return found
