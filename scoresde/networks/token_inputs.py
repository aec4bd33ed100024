"""The check of inputs that networks of tokens share."""

from __future__ import annotations

import torch
from torch import Tensor


def check_tokens(owner: str, x: Tensor, event_shape: tuple[int, ...], states: int) -> None:
    """Check the input of a network of tokens. The values are checked on the CPU only; elsewhere it would synchronize the device.

    Args:
        owner: Name of the network's class, for the message.
        x: The input, (B, *event).
        event_shape: The event shape of the network.
        states: Number of states.

    Raises:
        TypeError: If x is not a tensor of integers.
        ValueError: If x has another event shape, or a value outside of 0 ... states - 1.
    """
    if tuple(x.shape[1:]) != event_shape:
        raise ValueError(f"x has event shape {tuple(x.shape[1:])}: this {owner} was made for {event_shape}")
    if x.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"x has dtype {x.dtype}: give tokens as int64, x.long()")
    if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in torch.aminmax(x))
        if low < 0 or high >= states:
            raise ValueError(f"x has the value {low if low < 0 else high}: this {owner} was made for 0 to {states - 1}")
