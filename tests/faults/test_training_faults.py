"""The faults of benchmarks/faults.py, a few times each, and once with errors planted in what guards against them."""

from __future__ import annotations

import pytest

from benchmarks.faults import FAULTS, attempt

SHORT = ("flipped", "rank_killed")
"""Tried in the default suite too; tests/faults/test_faults.py has short ones of the others."""


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.__name__ in SHORT], ids=lambda f: f.__name__)
def test_once(fault, tmp_path):
    assert attempt(fault, 1, tmp_path, seed=1) == []


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_many_times(fault, tmp_path):
    assert attempt(fault, 20 if fault.__name__.startswith("killed") else 3, tmp_path) == []


@pytest.mark.long
def test_a_bench_sees_a_checkpoint_without_a_checksum(tmp_path, monkeypatch):
    """Were the checksum not looked at, some flipped bits would pass."""
    monkeypatch.setattr("scoresde.experiment.checkpoint._checksum", lambda tensors, header: header.get("sha256"))
    flipped = next(f for f in FAULTS if f.__name__ == "flipped")
    assert any("was taken for intact" in line for line in attempt(flipped, 4, tmp_path))
