"""What the tests of networks share: inputs keyed by purpose, weights away from their zeros."""

from __future__ import annotations

import torch

from scoresde.noise import NoiseSource


def normal(shape, purpose="x", dtype=torch.float32):
    return NoiseSource.of(0, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


def disturbed(network, by=0.1):
    """The network with weights away from their zeros, the same in every run."""
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += by * NoiseSource.of(1, 1).normal(p.shape, step=i, purpose="weights", dtype=p.dtype)[0]
    return network


def weights_of(out, purpose="weights"):
    """A scalar that every coordinate of the output moves."""
    return (out * normal(out.shape, purpose, out.dtype)).sum()
