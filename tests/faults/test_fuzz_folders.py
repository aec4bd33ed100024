"""A small part of benchmarks/fuzz_folders.py, and tests that it detects planted faults."""

from __future__ import annotations

import pytest

from benchmarks.fuzz_folders import VERBS, fuzz


def test_changed_indexes_of_samples(tmp_path):
    counts, faults = fuzz(tmp_path, 1, only="samples/pc.json", verbs=("evaluate",))
    assert faults == []
    assert sum(counts.values()) > 10 and counts["a value", "refused"] == 2


@pytest.mark.long
@pytest.mark.parametrize("only", ["json", "csv", "safetensors", "npz", "png"])
def test_every_file(tmp_path, only):
    assert fuzz(tmp_path, 1, seed=1, only=only)[1] == []


@pytest.mark.long
def test_it_sees_a_seal_that_nobody_looks_at(tmp_path, monkeypatch):
    monkeypatch.setattr("scoresde._files._digest", lambda content: content.get("sha256", ""))
    monkeypatch.setattr("scoresde._files.SEAL", "another key")
    _, faults = fuzz(tmp_path, 3, only="samples/pc.json", verbs=VERBS[:2])
    assert any("silent" in fault or "traceback" in fault for fault in faults)
