"""Small networks of tokens for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from scoresde.conditions import ConditionKind


class TokenMLP(nn.Module):
    """Logits of all coordinates from the states of all of them, and the class if there is one."""

    def __init__(
        self,
        event_shape: Sequence[int],
        tokens: int,
        states: int,
        conditions: Mapping[str, ConditionKind] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape, self.tokens, self.states = tuple(event_shape), tokens, states
        self.classes = {name: kind.count for name, kind in (conditions or {}).items()}
        size = prod(event_shape)
        self.inner = nn.Linear(size * states + 1 + sum(self.classes.values()), 64)
        self.outer = nn.Linear(64, size * tokens)

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        hidden = [nnf.one_hot(x, self.states).float().flatten(1), t[:, None]]
        for name, count in self.classes.items():
            rows = nnf.one_hot(condition[name], count).float()
            dropped = condition.get("dropped")
            hidden.append(rows if dropped is None else rows * ~dropped[:, None])
        out = self.outer(nnf.silu(self.inner(torch.cat(hidden, 1))))
        return out.reshape(len(x), *self.event_shape, self.tokens)
