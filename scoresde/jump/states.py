"""Integer states: checks of tokens, keyed draws from categorical distributions, and the logarithm of 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._validation import check_output
from scoresde.noise import NoiseSource

LOG_ZERO = -1e30
"""The logarithm of probability 0 within computations. The gradients of -infinity would be NaN."""

_AT_ONCE = 2**16
"""Numbers that a draw makes at once for a sample. The draws of one position have the same key for every batch."""


def whole_states(name: str, x: Tensor, states: int, tokens: int | None = None) -> Tensor:
    """Check a batch of states. The values are checked on the CPU only.

    Args:
        name: Its name, for the message.
        x: The states, (B, *event).
        states: Number of states.
        tokens: Number of the first states that are allowed. None for all.

    Returns:
        The states, int64.

    Raises:
        TypeError: If x is not a tensor of integers.
        ValueError: If a value is not a state. The message has its place.
    """
    if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        kind = f"dtype {x.dtype}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
        raise TypeError(f"{name} has {kind}: give a tensor of integers (B, *event), e.g. {name}.long()")
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: give at least one event (B, *event)")
    x = x.long()
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x
    allowed = states if tokens is None else tokens
    low, high = (int(v) for v in torch.aminmax(x))
    if low >= 0 and high < allowed:
        return x
    place = [int(k) for k in ((x < 0) | (x >= allowed)).nonzero()[0]]
    value = int(x[tuple(place)])
    mask = ", which is the mask token" if tokens is not None and tokens <= value < states else ""
    kind = "tokens" if tokens is not None else "states"
    raise ValueError(
        f"{name} has the value {value}{mask} in sample {place[0]} at {tuple(place[1:])}: allowed are the {kind} 0 to "
        f"{allowed - 1}"
    )


def check_logits(name: str, logits: Tensor, x: Tensor, size: int) -> None:
    """Raise unless ``logits``, the result of ``name`` for the states x (B, *event), has the shape (B, *event, size)."""
    if not isinstance(logits, Tensor) or logits.shape != (*x.shape, size):
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(f"{name} has {what}: give {(*x.shape, size)}, {size} numbers for each of the coordinates of x")
    check_output(name, logits, logits)


def check_log_probs(name: str, log_p: Tensor, t: Tensor) -> None:
    """Raise ValueError if ``log_p`` (B, *event, K), the result of ``name`` at t, has a NaN, or +infinity, or no finite entry."""
    best = log_p.amax(-1)
    bad = ~(best.isfinite() & ~log_p.isnan().any(-1)).reshape(len(log_p), -1).all(1)
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        raise ValueError(
            f"{name} returned non-finite values for {len(rows)} of {len(bad)} samples, with numbers {rows[:8]}, at times from "
            f"{float(t.min()):g} to {float(t.max()):g}: return logits with at least one finite value for each coordinate"
        )


def draw_states(log_p: Tensor, noise: NoiseSource, *, step: int, purpose: str) -> Tensor:
    r"""Draws from categorical distributions: argmax of ln p - ln E, with E = -ln U exponential (Gumbel).

    Args:
        log_p: Logarithms of probabilities, up to a constant, (B, *event, K).
        noise: Source of the random numbers.
        step: Number of the step, part of the key.
        purpose: Name of the use, part of the key.

    Returns:
        The states, (B, *event) int64.

    References:
        Jang, Gu, Poole 2016, arXiv:1611.01144.
    """
    size = log_p.shape[-1]
    flat = log_p.reshape(len(log_p), -1, size)
    per = max(1, _AT_ONCE // size)
    drawn = []
    for k, rows in enumerate(flat.split(per, dim=1)):
        name = purpose if k == 0 else f"{purpose} {k}"
        u = noise.uniform(rows.shape[1:], step=step, purpose=name, dtype=torch.float64)
        drawn.append((rows - u.log_().neg_().log_()).argmax(-1))
    return torch.cat(drawn, dim=1).reshape(log_p.shape[:-1])


def check_log_weights(name: str, value: Tensor, total: float = 1.0) -> None:
    """Raise ValueError unless ``value`` has finite numbers >= 0 that sum to ``total`` along the last dimension."""
    bad = ~(value.isfinite() & (value >= 0))
    if bool(bad.any()):
        place = tuple(int(k) for k in bad.nonzero()[0])
        raise ValueError(f"{name} has the value {float(value[place]):g} at {place}: give finite probabilities >= 0")
    sums = value.sum(-1)
    if bool(((sums - total).abs() > 1e-6).any()):
        place = tuple(int(k) for k in ((sums - total).abs() > 1e-6).nonzero()[0])
        where = f" at {place}" if place else ""
        raise ValueError(
            f"{name} has the sum {float(sums[place]):.9g}{where}: give probabilities that sum to {total:g}"
        )


def log_or_zero(p: Tensor) -> Tensor:
    """ln p, with -infinity for p = 0."""
    return torch.where(p > 0, p, 1.0).log().masked_fill(p <= 0, -math.inf)
