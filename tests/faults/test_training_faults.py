"""The faults of benchmarks/faults.py, a few times each, and once with planted errors in the protection against them."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from unittest import mock

import pytest

from benchmarks.children import together, train
from benchmarks.faults import FAULTS, Bench, attempt, random
from benchmarks.work_faults import SAMPLING
from scoresde.experiment.folder.checkpoint import last_checkpoint


@pytest.mark.long
def test_a_process_that_loses_the_other_says_so(tmp_path):
    """Short tests of the other faults are in test_faults.py."""
    ranks = together(tmp_path / "run", 2, {"training.steps": 4000})
    ranks[0].until(lambda: ranks[0].checkpoints, "a checkpoint")
    ranks[1].signal(signal.SIGKILL)
    assert ranks[0].end() == 3, ranks[0].output()
    assert "rank 0 of 2: another process ended" in ranks[0].output() and "Traceback" not in ranks[0].output()
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is not None


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_many_times(fault, tmp_path):
    assert attempt(fault, 20 if fault.__name__.startswith("killed") else 3, tmp_path) == []


@pytest.mark.long
def test_a_bench_sees_a_checkpoint_without_a_checksum(tmp_path, monkeypatch):
    """Without a check of the checksum, some flipped bits would pass."""
    monkeypatch.setattr("scoresde.experiment.folder.tensor_file.tensors_digest", lambda tensors, header: mock.ANY)
    flipped = next(f for f in FAULTS if f.__name__ == "flipped")
    assert any("was taken for intact" in line for line in attempt(flipped, 4, tmp_path))


@pytest.mark.long
def test_a_bench_sees_other_weights(tmp_path):
    bench = Bench(tmp_path, random.Random(0))
    train(tmp_path / "other", {"seed": 1})
    with pytest.raises(AssertionError, match="tensors differ"):
        bench.same(tmp_path / "other")


@pytest.mark.long
def test_a_bench_sees_work_done_again_and_other_samples(tmp_path):
    bench = Bench(tmp_path, random.Random(0))
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(SAMPLING.whole(bench), again)
    shard = min(again.glob(SAMPLING.kept))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="1 finished parts were done again"):
        SAMPLING.resume(bench, again)
    shutil.copytree(bench.whole(1), other)
    with pytest.raises(AssertionError, match="differs"):
        replace(SAMPLING, options={**SAMPLING.options, "sampling.seed": 1}).resume(bench, other)
