"""Feature vectors for the tests of metrics."""

from __future__ import annotations

import torch

from scoresde.noise import NoiseSource


def normals(n, d, seed, scale=1.0):
    """(n, d) float64 standard normals times ``scale``."""
    return scale * NoiseSource.of(seed, n).normal((d,), step=0, purpose="features", dtype=torch.float64)
