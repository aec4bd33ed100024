"""Bits per dimension: the code length of discrete data, per coordinate.

A density p of the dequantised data k + u bounds the probability of the levels k (Theis et al. 2016, arXiv:1511.01844):

    -log2 P(k) <= E_u[-log2 p(k + u)],        log p(k + u) = log p_x(x) + ln |dx / d(k + u)|

where x is what the model saw. The last term is the transform's, and the transform is the object that made x: there is no
offset to look up. For 8-bit images on [-1, 1] it comes to 7 bits, on [0, 1] to 8.
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
    """Bits per dimension of log p(x) in nats, the shape of log_prob.

    log_prob: (B,) nats, or () for a mean.
    event_shape: of one example.
    transform: the object by which the data was transformed. Data that is not discrete has no bits per dimension: for it
        this raises ValueError, with the figure in nats per dimension that can be given.
    """
    _check("log_prob", log_prob, event_shape)
    d = math.prod(event_shape)
    raw = log_prob + transform.log_volume(d)
    if not transform.discrete:
        raise ValueError(
            f"bits per dimension are defined for discrete data only, and transform={transform!r} is of real numbers: "
            f"report nats, here {float(0.0 - raw.mean()):.6g} per example or {float(0.0 - raw.mean()) / d:.6g} per dimension "
            "(negative log-density in the units of the raw data; it may have either sign)"
        )
    return -raw / (d * math.log(2.0))


@checked_arguments
def bits_per_dim_error(standard_error: Tensor, event_shape: Sequence[int]) -> Tensor:
    """A standard error in nats, (B,) or (), in bits per dimension."""
    _check("standard_error", standard_error, event_shape)
    return standard_error / (math.prod(event_shape) * math.log(2.0))


def _check(name: str, value: Tensor, event_shape: Sequence[int]) -> None:
    """Raise unless ``value`` is one floating-point number for each example."""
    check_counts("event_shape", event_shape)
    if value.ndim > 1 or value.numel() == 0 or not value.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}: give (B,) nats, one number for each example"
        )
