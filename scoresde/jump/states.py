"""Integer states: checks of tokens, keyed draws from categorical distributions, and the logarithm of 0."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_output
from scoresde.noise import NoiseSource

LOG_ZERO = -1e30
"""The logarithm of probability 0 within computations. The gradients of -infinity would be NaN."""

AT_ONCE = 2**18
"""Probabilities that a draw computes at once. Its memory does not depend on the number of coordinates."""
_IGNORED = -100
_BLOCK = 256
"""States of a block, whose probabilities are added first."""


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
    """Draws from categorical distributions, with one uniform number for each coordinate.

    Args:
        log_p: Logarithms of probabilities, up to a constant, (B, *event, K).
        noise: Source of the random numbers.
        step: Number of the step, part of the key.
        purpose: Name of the use, part of the key.

    Returns:
        The states, (B, *event) int64.
    """
    return quantiles(log_p, noise.uniform(log_p.shape[1:-1], step=step, purpose=purpose, dtype=torch.float64))


def quantiles(log_p: Tensor, u: Tensor, *, at: Tensor | None = None, without: Tensor | None = None) -> Tensor:
    r"""The inverses of the cumulative distribution functions of categorical distributions.

    The result is the first k with :math:`\sum_{j \le k} p_j > u`, so that a state of probability 0 is never drawn. Sums are
    float64. The probabilities of ``AT_ONCE`` states are computed at once, and no tensor has the size of ``log_p``. With the
    uniform numbers of a ``NoiseSource``, all probabilities are multiples of 2^-32.

    Args:
        log_p: Logarithms of probabilities, up to a constant, (B, *event, K).
        u: Numbers in (0, 1), (B, *event) float64.
        at: The coordinates to compute, (B, *event) bool. None for all.
        without: A state of each coordinate that gets the probability 0, (B, *event).

    Returns:
        The states, (B, *event) int64. They are 0 where ``at`` is False.
    """
    size = log_p.shape[-1]
    flat, v, out = log_p.reshape(-1, size), u.reshape(-1), None if without is None else without.reshape(-1, 1)
    per = max(1, AT_ONCE // size)
    if at is None:
        parts = [slice(k, k + per) for k in range(0, len(flat), per)]
        drawn = [_quantiles(flat[part], v[part], None if out is None else out[part]) for part in parts]
        return torch.cat(drawn).reshape(u.shape)
    found = torch.zeros_like(v, dtype=torch.int64)
    for rows in at.reshape(-1).nonzero()[:, 0].split(per):
        found[rows] = _quantiles(flat[rows], v[rows], None if out is None else out[rows])
    return found.reshape(u.shape)


def _quantiles(log_p: Tensor, u: Tensor, without: Tensor | None) -> Tensor:
    """``quantiles`` of rows (n, K) at u (n,), without the states ``without`` (n, 1)."""
    if without is not None:
        log_p = log_p.scatter(1, without, -math.inf)
    log_p = log_p.to(torch.promote_types(log_p.dtype, torch.float32))
    p = (log_p - log_p.amax(1, keepdim=True)).exp_()
    size = min(_BLOCK, p.shape[1])
    blocks = nnf.pad(p, (0, -p.shape[1] % size)).unflatten(1, (-1, size))
    ends = blocks.sum(2, dtype=torch.float64).cumsum(1)
    target = u[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inner = blocks.gather(1, block[..., None].expand(-1, -1, size))[:, 0].to(torch.float64).cumsum(1)
    last = torch.nextafter(inner[:, -1:], torch.zeros_like(target))  # the two sums of a block differ by rounding
    place = torch.searchsorted(inner, torch.minimum(target - before, last), right=True)
    return (block * size + place)[:, 0].clamp_(max=p.shape[1] - 1)


def log_odds_of_others(logits: Tensor, x: Tensor, *, at: Tensor) -> Tensor:
    """ln (1 - p(x)) / p(x), accurate also where p(x) is nearly 1. No tensor of the size of the logits is made.

    Args:
        logits: Logits of p, (B, *event, K).
        x: States, (B, *event).
        at: The coordinates to compute, (B, *event) bool.

    Returns:
        The logarithms, (B, *event) float64. They are 0 where ``at`` is False.
    """
    size = logits.shape[-1]
    flat, state = logits.reshape(-1, size), x.reshape(-1, 1)
    found = torch.zeros(len(flat), dtype=torch.float64, device=x.device)
    for rows in at.reshape(-1).nonzero()[:, 0].split(max(1, AT_ONCE // size)):
        part = flat[rows].to(torch.promote_types(logits.dtype, torch.float32))
        own = part.gather(1, state[rows])
        rest = torch.logsumexp(part.scatter(1, state[rows], -math.inf) - own, 1)
        found[rows] = rest.to(torch.float64)
    return found.reshape(x.shape)


def cross_entropy(logits: Tensor, x0: Tensor, at: Tensor | None = None) -> Tensor:
    """-ln p(x_0) of each coordinate.

    Args:
        logits: Logits of p, (B, *event, K).
        x0: Data, (B, *event).
        at: The coordinates to compute, (B, *event) bool. None for all.

    Returns:
        The cross-entropy in nats, (B, *event). It is 0 where ``at`` is False, whatever the logits are.
    """
    target = x0 if at is None else torch.where(at, x0, _IGNORED)
    flat = nnf.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), target.reshape(-1), reduction="none", ignore_index=_IGNORED
    )
    return flat.reshape(x0.shape)


def draw_equal(log_p: Tensor, u: Tensor) -> Tensor:
    """``quantiles`` of one distribution for all coordinates.

    Args:
        log_p: Logarithms of probabilities, up to a constant, (K,).
        u: Numbers in (0, 1), (B, *event) float64.

    Returns:
        The states, (B, *event) int64.
    """
    ends = (log_p.to(torch.float64) - log_p.max()).exp().cumsum(0)
    return torch.searchsorted(ends, u * ends[-1], right=True)


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
