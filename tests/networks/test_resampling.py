"""FIR resampling against its definition in numpy, side by side, and against its adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde.networks import FIR, Averaging

from .common import normal

KERNELS = [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 2, 3, 4), (1, 2, 4), (1, 5, 10, 10, 5, 1)]
SIDES = [(8,), (4, 6), (2, 4, 6)]


def by_definition(x, kernel, direction):
    """Each side on its own, by numpy's convolution; float64."""
    k, p = np.asarray(kernel, float) / sum(kernel), len(kernel) - 2

    def line(v):
        if direction == "up":
            spread = np.zeros(2 * len(v))
            spread[::2] = v
            return np.convolve(np.pad(spread, ((p + 1) // 2 + 1, p // 2)), 2 * k, "valid")
        return np.convolve(np.pad(v, ((p + 1) // 2, p // 2)), k, "valid")[::2]

    for axis in range(2, x.ndim):
        x = np.apply_along_axis(line, axis, x)
    return x


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_by_definition(kernel, sides, direction):
    x = normal((2, 3, *sides), dtype=torch.float64)
    ours = getattr(FIR(kernel).double(), direction)(x)
    assert np.allclose(ours.numpy(), by_definition(x.numpy(), kernel, direction), atol=1e-12)


@pytest.mark.parametrize("resampling", [FIR(), Averaging()])
@pytest.mark.parametrize("sides", SIDES)
def test_up_is_the_adjoint_of_down(sides, resampling):
    """<up y, x> = 2^d <y, down x> for a symmetric kernel."""
    x, y = normal((1, 1, *(2 * s for s in sides)), dtype=torch.float64), normal((1, 1, *sides), "y", torch.float64)
    resampling = resampling.double()
    left, right = (resampling.up(y) * x).sum(), 2 ** len(sides) * (y * resampling.down(x)).sum()
    assert torch.allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("resampling", [FIR(), Averaging()])
def test_a_constant_stays_what_it_is(resampling):
    """Away from the border, where zeros come in."""
    x = torch.full((1, 2, 8, 8), 3.0)
    assert torch.allclose(resampling.up(x)[..., 2:-2, 2:-2], torch.tensor(3.0))
    assert torch.allclose(resampling.down(x)[..., 1:-1, 1:-1], torch.tensor(3.0))
    assert resampling.before_stride(x).shape == (1, 2, 9, 9)
