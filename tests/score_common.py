"""Processes, a mixture and networks for the tests of score models."""

from __future__ import annotations

import torch
from torch import nn

from scoresde.noise import NoiseSource

F32, F64 = torch.float32, torch.float64


SHAPE = (5, 1, 3)


def normal(shape=SHAPE, purpose="x", dtype=F64):
    return NoiseSource.of(9, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


TIMES = torch.tensor([0.01, 0.1, 0.3, 0.7, 1.0], dtype=F64)


class Zero(nn.Module):
    """Says nothing; keeps what it was given."""

    def forward(self, x, label, **condition):
        self.x, self.label, self.condition = x, label, condition
        return torch.zeros_like(x)
