"""Pictures, numbers and draws for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import torch

from scoresde.noise import NoiseSource

F32, F64 = torch.float32, torch.float64


def levels(shape, below=17):
    return NoiseSource.of(1, shape[0]).integers(below, shape[1:], step=0, purpose="raw")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)
