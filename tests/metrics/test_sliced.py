"""Sliced Wasserstein distances against closed forms, sets of different sizes, and the same directions for the same seed."""

from __future__ import annotations

import pytest
import torch

from scoresde.metrics import sliced, sliced_wasserstein
from tests.metrics.common import normals


def test_a_shift():
    """Moved by v: theta . v along theta, on average |v|^2 / d over the sphere; d = 1 exactly."""
    x = normals(50, 1, 0)
    assert sliced_wasserstein(x, x + 3.0) == pytest.approx(3.0, rel=1e-12)
    x, v = normals(50, 3, 0), torch.tensor([3.0, 0.0, -1.0])
    assert sliced_wasserstein(x, x + v, directions=20000) == pytest.approx((10 / 3) ** 0.5, rel=0.02)


def test_other_sizes():
    """{0, 1} against {0, 0, 1}: the quantile functions differ by 1 on (1/2, 2/3)."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    assert sliced_wasserstein(x, y) == pytest.approx((1 / 6) ** 0.5, rel=1e-12)
    x = normals(30, 4, 1)
    assert sliced_wasserstein(x, x.repeat(3, 1)) == pytest.approx(0.0, abs=1e-9)


def test_directions_depend_only_on_the_seed(monkeypatch):
    x, y = normals(40, 5, 2), normals(60, 5, 3) + 0.2
    torch.manual_seed(0)
    state, found = torch.get_rng_state(), sliced_wasserstein(x, y, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert sliced_wasserstein(x, y, seed=4) == found != sliced_wasserstein(x, y, seed=5)
    monkeypatch.setattr(sliced, "_AT_ONCE", 1)
    assert sliced_wasserstein(x, y, seed=4) == pytest.approx(found, rel=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="directions=0"):
        sliced_wasserstein(normals(3, 2, 0), normals(3, 2, 0), directions=0)
    with pytest.raises(ValueError, match="x has 2 features, y 3"):
        sliced_wasserstein(normals(3, 2, 0), normals(3, 3, 0))
