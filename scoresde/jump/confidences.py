"""Confidences of the tokens of a model: functions ``(log_p, drawn)`` that say which tokens to unmask first.

``log_p`` has ln p(x_0^i | x_t) of n masked coordinates, ``(n, tokens)``, and ``drawn`` tokens drawn from it, ``(n,)``. The
result is ``(n,)``. The greatest are unmasked first.

- :func:`drawn_probability`: that of the drawn token, as in MaskGIT.
- :func:`negative_entropy`: minus the entropy of p(x_0^i | x_t).
- :func:`margin`: the difference of its two largest probabilities.

The last two do not depend on the drawn tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments


@checked_arguments
def drawn_probability(log_p: Tensor, drawn: Tensor) -> Tensor:
    """ln p of the drawn token.

    Args:
        log_p: ln p(x_0 | x_t), ``(n, tokens)``.
        drawn: Tokens, ``(n,)``.

    Returns:
        The confidence, ``(n,)``.

    References:
        Chang et al. 2022, arXiv:2202.04200.
    """
    _check(log_p, drawn)
    return log_p.gather(-1, drawn[..., None])[..., 0]


@checked_arguments
def negative_entropy(log_p: Tensor, drawn: Tensor) -> Tensor:
    """sum p ln p, minus the entropy in nats.

    Args:
        log_p: ln p(x_0 | x_t), ``(n, tokens)``.
        drawn: Tokens, ``(n,)``. They have no effect.

    Returns:
        The confidence, ``(n,)``.
    """
    _check(log_p, drawn)
    entropy: Tensor = torch.special.entr(log_p.exp()).sum(-1)
    return -entropy


@checked_arguments
def margin(log_p: Tensor, drawn: Tensor) -> Tensor:
    """The largest probability minus the second largest.

    Args:
        log_p: ln p(x_0 | x_t), ``(n, tokens)``.
        drawn: Tokens, ``(n,)``. They have no effect.

    Returns:
        The confidence, ``(n,)``.

    References:
        Kim et al. 2025, arXiv:2502.06768, section 4.2.
    """
    _check(log_p, drawn)
    first, second = log_p.topk(2, -1).values.exp().unbind(-1)
    return first - second


def _check(log_p: Tensor, drawn: Tensor) -> None:
    """Raise unless drawn has whole numbers, and log_p two or more logarithms for each of them."""
    if drawn.dtype != torch.int64:
        raise TypeError(f"drawn has dtype {drawn.dtype}: give tokens, a tensor of int64")
    if log_p.ndim == 0 or log_p.shape[:-1] != drawn.shape or log_p.shape[-1] < 2:
        raise ValueError(
            f"log_p has shape {tuple(log_p.shape)} and drawn has shape {tuple(drawn.shape)}: give (n, tokens) and (n,)"
        )
