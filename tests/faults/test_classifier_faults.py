"""A classifier in real processes: killed and started again, training and evaluation give what they would have given."""

from __future__ import annotations

import signal

import pytest

from benchmarks.children import Child, train
from scoresde._files import read_sealed
from scoresde.experiment.folder.checkpoint import last_checkpoint, read_checkpoint
from tests.experiment.training import same

CLASSIFIER = {
    "data.labels": True, "model": {"name": "Classifier", "data_std": 0.75}, "objective": {"name": "TargetLikelihood"},
    "samplers": {}, "training.steps": 12, "evaluation.batch_size": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"training.precision": "bfloat16", "training.micro_batch": 3}, marks=pytest.mark.long)],
    ids=["float32", "bfloat16 in micro-batches"],
)
def test_killed_and_started_again_it_ends_where_it_would_have(tmp_path, options):
    options = {**CLASSIFIER, **options}
    train(tmp_path / "whole", options)
    child = Child(tmp_path / "killed", options)
    child.until(lambda: len(child.checkpoints) >= 2, "checkpoints")
    child.signal(signal.SIGKILL)
    child.end()
    train(tmp_path / "killed", options)
    whole, killed = (
        read_checkpoint(last_checkpoint(tmp_path / name / "checkpoints").path) for name in ("whole", "killed")
    )
    assert whole.step == killed.step == 12 and same(dict(whole.tensors), dict(killed.tensors))


@pytest.mark.long
def test_an_evaluation_that_was_killed_continues(tmp_path):
    train(tmp_path, CLASSIFIER)
    folder = tmp_path / "evaluation" / "predictions"
    child = Child(tmp_path, CLASSIFIER, command="evaluate")
    child.until(lambda: list(folder.glob("predictions-*/*.npz")), "a part")
    child.signal(signal.SIGKILL)
    child.end()
    (first, *_) = sorted(folder.glob("predictions-*/*.npz"))
    before = first.stat().st_mtime_ns
    assert Child(tmp_path, CLASSIFIER, command="evaluate").end() == 0
    assert first.stat().st_mtime_ns == before and not list(folder.rglob("*.tmp"))
    assert read_sealed(folder / "test.json")["events"] == 359
