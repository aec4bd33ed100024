"""Bits per dimension: the code length of discrete data per coordinate.

A density p of the dequantized data k + u bounds the probability of the levels k (Theis et al. 2016, arXiv:1511.01844)::

    -log2 P(k) <= E_u[-log2 p(k + u)],        log p(k + u) = log p_x(x) + ln |dx / d(k + u)|

Here x is the input of the model. The last term depends on the data transform only. ``bits_per_dim`` takes it from the transform
object that made x, so that no offset has to be chosen by hand. The term is 7 bits for 8-bit images on [-1, 1] and 8 bits for
8-bit images on [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts
from scoresde.data.transforms import Transform


@checked_arguments
def bits_per_dim(log_prob: Tensor, event_shape: Sequence[int], transform: Transform) -> Tensor:
    """Converts log-likelihoods in nats to bits per dimension.

    Args:
        log_prob: log p(x) in nats, (B,), or () for a mean.
        event_shape: Shape of one example.
        transform: The transform that made x from the raw data. It must be discrete, e.g. ``Quantized(256)``.

    Returns:
        Bits per dimension of the raw data, with the shape of ``log_prob``.

    Raises:
        ValueError: The data is not discrete, so that bits per dimension are not defined. The message contains the mean
            negative log-density in nats per example and per dimension, which can be reported instead.

    References:
        Theis, van den Oord, Bethge 2016, "A note on the evaluation of generative models", arXiv:1511.01844.
    """
    _check("log_prob", log_prob, event_shape)
    d = math.prod(event_shape)
    raw = log_prob + transform.log_volume(d)
    if not transform.discrete:
        raise ValueError(
            f"bits per dimension are defined for discrete data only, but transform={transform!r} is for real numbers: "
            f"report nats, here {float(0.0 - raw.mean()):.6g} per example or {float(0.0 - raw.mean()) / d:.6g} per dimension "
            "(negative log-density in the units of the raw data; it may have either sign)"
        )
    return -raw / (d * math.log(2.0))


@checked_arguments
def bits_per_dim_error(standard_error: Tensor, event_shape: Sequence[int]) -> Tensor:
    """Converts standard errors from nats to bits per dimension.

    Args:
        standard_error: Standard errors in nats, (B,) or ().
        event_shape: Shape of one example.

    Returns:
        Standard errors in bits per dimension, with the shape of ``standard_error``.
    """
    _check("standard_error", standard_error, event_shape)
    return standard_error / (math.prod(event_shape) * math.log(2.0))


def _check(name: str, value: Tensor, event_shape: Sequence[int]) -> None:
    """Raise ValueError unless ``value`` has one floating-point number for each example."""
    check_counts("event_shape", event_shape)
    if value.ndim > 1 or value.numel() == 0 or not value.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}: give (B,) nats, one number for each example"
        )
