"""An objective with losses that are not finite, for benchmarks/faults.py and the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.losses import DenoisingScoreMatching, Draw
from scoresde.sde import LinearSDE


class Bad(DenoisingScoreMatching):
    """An objective whose loss is NaN for the examples at positions 2 and 5 of every eight, in the given steps.

    The examples are identified by their position, so the fault does not depend on processes and micro-batches.

    Args:
        steps: Numbers of the steps.
    """

    def __init__(self, sde: LinearSDE, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, seed=seed)
        self.steps, self._factor = frozenset(steps), torch.ones(1)

    def draw(self, x0: Tensor, *, step: int | None = None, indices: Tensor | None = None, **given: Any) -> Draw:
        assert indices is not None
        bad = torch.isin(indices % 8, torch.tensor([2, 5])) & (step in self.steps)
        self._factor = torch.where(bad, math.nan, 1.0)
        return super().draw(x0, step=step, indices=indices, **given)

    def evaluate(self, model: Any, draw: Draw, **condition: Any) -> Tensor:
        return super().evaluate(model, draw, **condition) * self._factor
