"""Precision and recall: cases computed by hand, and a loop that follows the definition."""

from __future__ import annotations

import pytest
import torch

from scoresde.metrics import pairs, precision_recall
from tests.metrics.common import normals


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_by_hand():
    """k = 1. Data 0, 1, 10: balls [-1, 1], [0, 2], [1, 19]. Samples 0, 3, -5: balls [-3, 3], [0, 6], [-10, 0]."""
    found = precision_recall(column(0.0, 3.0, -5.0), column(0.0, 1.0, 10.0), neighbors=1)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_balls_are_closed():
    found = precision_recall(column(4.0, 40.0), column(0.0, 2.0), neighbors=1)
    assert found.precision == 0.5
    assert precision_recall(column(4.0 + 1e-9, 40.0), column(0.0, 2.0), neighbors=1).precision == 0.0


def by_definition(x, y, k):
    def within(points, centers):
        inside = 0
        for p in points:
            for i, c in enumerate(centers):
                others = sorted(float((c - o).norm()) for j, o in enumerate(centers) if j != i)
                if float((p - c).norm()) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    return within(x, y), within(y, x)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("k", [1, 3])
def test_a_plain_loop_agrees(monkeypatch, block, k):
    monkeypatch.setattr(pairs, "BLOCK", block)
    x, y = normals(25, 3, 0, 0.7), normals(30, 3, 1) + 0.3
    found = precision_recall(x, y, k)
    assert (found.precision, found.recall) == pytest.approx(by_definition(x, y, k))
    assert 0.0 < found.recall < 1.0
    # planted: other neighbors
    assert (found.precision, found.recall) != pytest.approx(by_definition(x, y, k + 3))


def test_copies_are_inside_all_balls():
    """Far from 0, where rounding in float64 gives squared distances of 1e-8 instead of 0."""
    one = 1e4 + normals(1, 8, 3).expand(5, 8)
    assert precision_recall(one, one, 3) == precision_recall(one.clone(), one, 3)
    assert precision_recall(one, one, 3).precision == 1.0


def test_refusals():
    with pytest.raises(ValueError, match="n >= 4"):
        precision_recall(normals(3, 2, 0), normals(9, 2, 0), 3)
    with pytest.raises(ValueError, match="neighbors=0"):
        precision_recall(normals(9, 2, 0), normals(9, 2, 0), 0)
