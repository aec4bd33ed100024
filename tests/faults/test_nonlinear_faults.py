"""Kills of a run whose process has no closed-form kernel: simulated paths and projections are the same after a restart."""

from __future__ import annotations

import signal

import pytest

from benchmarks.children import Child, train
from scoresde.experiment.folder.checkpoint import last_checkpoint, read_checkpoint
from tests.experiment.test_nonlinear import QUARTIC

SMALL_NETWORK = {
    "network": "{'name': 'MLP', 'width': 16, 'depth': 1}", "network.channels": None, "network.blocks": None,
    "network.dropout": None,
}  # fmt: skip


def options(steps=12, **more):
    return {**QUARTIC, **SMALL_NETWORK, "training.steps": steps, "training.micro_batch": 3, **more}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The last checkpoint of an undisturbed run."""
    run = train(tmp_path_factory.mktemp("unbroken") / "run", options())
    return read_checkpoint(run.checkpoints[-1])


def same(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(t.equal(b.tensors[name]) for name, t in a.tensors.items())


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_it_ends_where_it_would_have(tmp_path, unbroken, number):
    child = Child(tmp_path / "run", options())
    child.until(lambda: len(child.checkpoints) >= 2, "two checkpoints")
    child.signal(number)
    assert child.end() in (-signal.SIGKILL, 130, 0)
    assert last_checkpoint(tmp_path / "run" / "checkpoints").step < 12
    again = train(tmp_path / "run", options())
    assert "resumed from" in again.output()
    assert same(read_checkpoint(again.checkpoints[-1]), unbroken)
