"""Numbers that identify a process, so that a fitted sampler is not used with another one.

The ``repr`` of a process is not enough: two processes with large tensors can print the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from scoresde.sde import LinearSDE


@torch.no_grad()
def fingerprint(sde: LinearSDE, event_shape: Sequence[int]) -> list[float]:
    """Numbers that identify a process on events of one shape.

    They are T, the shape of the state, and weighted means of drift, diffusion and kernel of a fixed state at three
    times.
    """
    shape = (1, *sde.state_shape(tuple(event_shape)))
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    x, weights = (place + 1.0).cos().reshape(shape), (1.0 + place.sqrt()).sin().reshape(shape)
    found = [float(sde.T), *map(float, shape)]
    for share in (0.1, 0.5, 0.9):
        t = torch.tensor([share * sde.T], dtype=torch.float64)
        kernel = sde.kernel(t)
        values = sde.drift(x, t), sde.apply_diffusion(x, t), kernel.mean(x), kernel.scale(x)
        found += [float((weights * value).mean()) for value in values]
    return found


def check_fingerprint(sde: LinearSDE, event_shape: Sequence[int], expected: Sequence[float], wanted: str) -> None:
    """Raise ValueError if the fingerprint of the process is not ``expected``.

    Args:
        sde: The process.
        event_shape: Shape of the events.
        expected: A ``fingerprint``.
        wanted: End of the message "... is not what".
    """
    found = fingerprint(sde, event_shape)
    if len(found) != len(expected) or not np.allclose(found, expected, rtol=1e-6, atol=1e-9):
        raise ValueError(f"sde={sde!r} with events of shape {tuple(event_shape)} is not what {wanted}")
