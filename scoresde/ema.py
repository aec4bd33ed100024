"""Exponential moving average of a network's weights, with warm-up.

    average <- d average + (1 - d) weight,      d = min(decay, (1 + n) / (10 + n)) at the n-th update, n = 1, 2, ...

so that the first thousand updates are not dragged down by the initial weights (the reference implementation's rule).
Buffers are copied, never averaged: a counter or a table has no mean.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from scoresde._validation import check_number

Module = TypeVar("Module", bound=nn.Module)


class EMA:
    """The average of a module's weights.

    module: what is averaged; the average starts as a copy of it.
    decay: in [0, 1); 0.9999 is usual for long runs, 0.999 for minutes.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999) -> None:
        check_number("decay", decay, least=0.0)
        if decay >= 1.0:
            raise ValueError(f"decay={decay!r} is not allowed: give a number in [0, 1); at 1 the average never moves")
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards ``module``, which must have the same parameter and buffer names."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        theirs = dict(module.named_parameters())
        ours = dict(self.module.named_parameters())
        if theirs.keys() != ours.keys():
            raise ValueError(f"the module's parameters differ from the averaged: {sorted(theirs.keys() ^ ours.keys())}")
        names = list(ours)
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n].detach() for n in names], 1.0 - d)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(module.get_buffer(name))
