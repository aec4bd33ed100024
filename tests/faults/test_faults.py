"""Faults injected into real processes: finished work is kept, and resumed runs have the same results."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.bench import Bench
from benchmarks.work_faults import editing, killed
from scoresde._files import write_atomic
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, read_checkpoint
from scoresde.experiment.folder.tensor_file import CheckpointError
from scoresde.losses import DenoisingScoreMatching
from tests.experiment.conftest import Command, HereCommand

MANY = {"training__steps": 40, "training__checkpoint_every": 2, "training__keep": 30}


def start(command, verb="train", *extra, **overrides):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [*command.arguments(verb, "vp", **overrides), *extra]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_checkpoints(command, count, process):
    deadline = time.monotonic() + 60
    while len(list_checkpoints(command.workdir / "checkpoints")) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The last checkpoint of an undisturbed run."""
    command = HereCommand(tmp_path_factory.mktemp("unbroken") / "run")
    done = command("train", **MANY)
    assert done.returncode == 0, done.stderr
    return read_checkpoint(list_checkpoints(command.workdir / "checkpoints")[-1])


def same(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(t.equal(b.tensors[name]) for name, t in a.tensors.items())


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.long), 4])
def test_killed_and_started_again_it_ends_where_it_would_have(tmp_path, unbroken, after):
    command = HereCommand(tmp_path / "run")
    process = start(command, **MANY)
    wait_for_checkpoints(command, after, process)
    process.kill()
    process.communicate()
    for path in list_checkpoints(command.workdir / "checkpoints"):
        read_checkpoint(path)  # complete at any time of the kill
    done = command("train", **MANY)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert same(last_checkpoint(command.workdir / "checkpoints"), unbroken)
    steps = [line.split(",")[0] for line in (command.workdir / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(n) for n in range(2, 41, 2)], "no step logged twice, none lost"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupted_it_saves_the_step_in_hand(tmp_path, unbroken, number):
    command = HereCommand(tmp_path / "run")
    overrides = {**MANY, "training__checkpoint_every": 1000}
    process = start(command, **overrides)
    deadline = time.monotonic() + 60
    while not (command.workdir / "metrics.csv").exists() or (command.workdir / "metrics.csv").stat().st_size < 60:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    saved = last_checkpoint(command.workdir / "checkpoints")
    assert saved is not None and 0 < saved.step < 40
    assert command("train", **overrides).returncode == 0
    assert same(last_checkpoint(command.workdir / "checkpoints"), unbroken)


class TestTornCheckpoints:
    @pytest.fixture
    def run(self, tmp_path):
        command = HereCommand(tmp_path / "run")
        assert command("train").returncode == 0
        return command

    def test_a_truncated_last_one_is_passed_over(self, run):
        *_, before, last = list_checkpoints(run.workdir / "checkpoints")
        last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(last)
        assert last_checkpoint(run.workdir / "checkpoints").path == before
        drawn = run("sample")
        assert drawn.returncode == 0 and f"{last.name} is damaged; {before.name} is used instead" in drawn.stdout
        done = run("train")
        assert done.returncode == 0 and f"resumed from {before.name}" in done.stdout
        assert f"{last.name} is damaged and was skipped" in done.stdout

    def test_only_torn_ones_are_refused(self, run):
        for path in list_checkpoints(run.workdir / "checkpoints"):
            path.write_bytes(path.read_bytes()[:100])
        for verb in ("train", "sample"):
            done = run(verb)
            assert done.returncode == 2 and "is damaged or not a checkpoint" in done.stderr

    def test_a_pickle_with_the_name_of_a_checkpoint_is_not_executed(self, run, tmp_path):
        mark = tmp_path / "executed"

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(mark),)

        for path in list_checkpoints(run.workdir / "checkpoints"):
            path.write_bytes(pickle.dumps(Trap()))
        assert run("sample").returncode == 2
        torch.save({"model": Trap()}, list_checkpoints(run.workdir / "checkpoints")[-1])
        assert run("sample").returncode == 2
        assert not mark.exists()

    def test_weights_of_another_network_are_refused(self, run, tmp_path):
        other = HereCommand(tmp_path / "other")
        assert other("train", network__channels=16).returncode == 0
        theirs = list_checkpoints(other.workdir / "checkpoints")[-1]
        for path in list_checkpoints(run.workdir / "checkpoints"):
            path.write_bytes(theirs.read_bytes())
        for verb in ("sample", "likelihood", "train"):
            done = run(verb)
            assert done.returncode == 2 and "belongs to another config" in done.stderr
            assert "network.channels: 16 -> 8" in done.stderr


def test_writing_fails_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"], "no temporary file stays"


def test_data_with_nan_is_refused_before_anything_is_written(tmp_path):
    points = np.zeros((20, 2))
    points[7, 1] = np.nan
    np.save(tmp_path / "points.npy", points)
    command = HereCommand(tmp_path / "run")
    done = command("train", data=f"{{'name': 'Arrays', 'train': {str(tmp_path / 'points.npy')!r}}}")
    assert done.returncode == 2
    assert "non-finite values in 1 of" in done.stderr
    assert not command.workdir.exists()


def test_a_loss_that_is_not_finite_names_step_and_times_and_keeps_the_last_checkpoint(tmp_path):
    """If no such step is allowed. test_training_faults.py tests runs that allow some."""
    command = HereCommand(tmp_path / "run")
    done = command(
        "train", **MANY, training__max_bad_steps=1, objective__name="tests.faults.test_faults:BreaksAtStepFive"
    )
    assert done.returncode == 2
    assert "the loss is not finite for 2 of 8 examples at step 5, t in [" in done.stderr
    assert "positions [42, 45]" in done.stderr
    assert [path.name for path in list_checkpoints(command.workdir / "checkpoints")] == [
        "step-000000002.safetensors",
        "step-000000004.safetensors",
    ]
    for path in list_checkpoints(command.workdir / "checkpoints"):
        tensors = read_checkpoint(path).tensors.values()
        assert all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


class BreaksAtStepFive(DenoisingScoreMatching):
    """NaN for the third and sixth example of step 5 (of 8 examples each: positions 42 and 45)."""

    def __init__(self, sde, seed=0):
        super().__init__(sde, seed=seed)
        self.evaluations = 0

    def evaluate(self, model, draw, **condition):
        loss = super().evaluate(model, draw, **condition)
        if self.evaluations == 5:
            loss = loss * torch.tensor([1, 1, math.nan, 1, 1, math.nan, 1, 1])
        self.evaluations += 1
        return loss


class TestLikelihood:
    """40 rows in batches of 2, killed with SIGKILL."""

    LIKELIHOOD: ClassVar = {
        "network": "{'name': 'MLP', 'width': 16, 'depth': 1}", "network__channels": None, "network__blocks": None,
        "training__steps": 2, "likelihood__draws": 2, "likelihood__limit": 20, "likelihood__batch_size": 2,
        "likelihood__solver": "{'name': 'Multistep', 'nodes': 40}", "likelihood__grid_events": 2,
    }  # fmt: skip

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory):
        """A folder with the table of an undisturbed run."""
        command = HereCommand(tmp_path_factory.mktemp("whole") / "run")
        for verb in ("train", "likelihood"):
            done = command(verb, **self.LIKELIHOOD)
            assert done.returncode == 0, done.stderr
        return command.workdir

    @pytest.fixture
    def command(self, whole, tmp_path):
        """The same folder without the likelihood and its grid."""
        ignore = shutil.ignore_patterns("likelihood", "grid-*")
        shutil.copytree(whole, tmp_path / "run", ignore=ignore)
        return HereCommand(tmp_path / "run")

    @staticmethod
    def lines(command):
        return sum(file.read_bytes().count(b"\n") for file in command.workdir.glob("likelihood/rows-*/*.jsonl"))

    def until(self, command, process, lines):
        deadline = time.monotonic() + 60
        while self.lines(command) < lines:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    @staticmethod
    def table(folder):
        return (folder / "likelihood" / "test.csv").read_bytes()

    @pytest.mark.long
    @pytest.mark.parametrize("kills", [(3,), (2, 4)])
    def test_killed_it_gives_the_table_of_an_unbroken_run(self, command, whole, kills):
        for more in kills:
            before = self.lines(command)
            process = start(command, "likelihood", **self.LIKELIHOOD)
            self.until(command, process, before + more)
            time.sleep(random.uniform(0.0, 0.05))
            process.kill()
            process.communicate()
            assert not (command.workdir / "likelihood" / "test.csv").exists()
        done = command("likelihood", **self.LIKELIHOOD)
        assert done.returncode == 0, done.stderr
        assert self.table(command.workdir) == self.table(whole)
        assert self.lines(command) == 20, "no batch is computed twice"

    @pytest.mark.long
    def test_a_process_that_dies_is_named_and_the_rest_is_kept(self, command, whole):
        with ThreadPoolExecutor() as pool:
            running = pool.submit(command, "likelihood", "vp", "--processes", "2", **self.LIKELIHOOD)
            while self.lines(command) < 1:
                assert not running.done(), running.result()
                time.sleep(0.002)
            first, _ = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid)
            os.kill(first.pid, signal.SIGKILL)
            done = running.result(timeout=120)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "process 0 of 2 ended with code -9" in done.stderr
        assert "run the same command to resume" in done.stderr
        assert 10 <= self.lines(command) < 20
        done = command("likelihood", **self.LIKELIHOOD)
        assert done.returncode == 0, done.stderr
        assert self.table(command.workdir) == self.table(whole)
        assert self.lines(command) == 20


@pytest.mark.long
def test_two_folders_do_not_know_each_other(tmp_path):
    """The same command in two folders at once gives the same weights."""
    commands = [Command(tmp_path / name) for name in "ab"]
    processes = [start(command) for command in commands]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    a, b = (last_checkpoint(command.workdir / "checkpoints") for command in commands)
    assert same(a, b)


@pytest.mark.long
def test_killed_edits(tmp_path):
    """A kill of `scoresde edit` after at least two more of 15 batches; benchmarks/faults.py tries three kills, ten times."""
    bench = Bench(tmp_path, random.Random(0))
    work = editing(bench)
    killed(work, bench, tmp_path / "run", 1)
    found, wanted = ([name for name, _ in work.parts(place)] for place in (tmp_path / "run", work.whole(bench)))
    assert len(found) == 15 and found == wanted
