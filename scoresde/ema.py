"""Exponential moving average of a network's weights, with warm-up.

    average <- d average + (1 - d) weight,      d = min(decay, (1 + n) / (10 + n)) at the n-th update, n = 1, 2, ...

so that the first thousand updates are not dragged down by the initial weights (the reference implementation's rule).
Buffers are copied, never averaged: a counter or a table has no mean.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scoresde._validation import check_number


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
        theirs, ours = dict(module.named_parameters()), dict(self.module.named_parameters())
        their_buffers, our_buffers = dict(module.named_buffers()), dict(self.module.named_buffers())
        _check_alike("parameters", theirs, ours)
        _check_alike("buffers", their_buffers, our_buffers)
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        names = list(ours)
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n].detach() for n in names], 1.0 - d)
        for name, buffer in our_buffers.items():
            buffer.copy_(their_buffers[name])


def _check_alike(kind: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in group.items()} for group in (theirs, ours)]
    if shapes[0] != shapes[1]:
        differ = sorted(n for n in {*shapes[0], *shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(f"the module's {kind} differ from the averaged ones in {differ[:8]}: nothing was changed")
