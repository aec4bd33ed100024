"""scoresde likelihood with a `ChainBound`: rows, files, restarts, processes, what it states, and what it refuses."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time

import pytest
import torch

from benchmarks.runs import load
from scoresde._files import read_sealed, write_sealed
from scoresde.data import permutation
from scoresde.likelihood import bits_per_dim
from scoresde.noise import NoiseSource
from scoresde.schedules import ChainBound
from scoresde.score import ScoreModel
from tests.experiment.conftest import Command, CopyCommand, HereCommand
from tests.faults.test_faults import start

METHOD = "{'name': 'ChainBound', 'steps': 30, 'draws': 4, 'replicates': 2, 'events': 16}"
SMALL = {
    "training__steps": 2, "model": "{'prediction': 'noise'}", "network": "{'name': 'MLP', 'width': 16, 'depth': 1}",
    "network__channels": None, "network__blocks": None, "likelihood__solver": None, "likelihood__method": METHOD,
    "likelihood__draws": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the bounds of 5 events, computed without a break in batches of 3."""
    command = HereCommand(tmp_path_factory.mktemp("trained") / "run")
    for verb in ("train", "likelihood"):
        done = command(verb, **SMALL)
        assert done.returncode == 0, done.stderr
    command.said = done.stdout
    return command


@pytest.fixture
def bounded(trained, tmp_path):
    """``scoresde likelihood`` in a copy."""
    return CopyCommand(trained.workdir, tmp_path, **SMALL)


def table(command):
    return (command.workdir / "likelihood" / "test-bound.csv").read_bytes()


def test_the_rows_are_those_of_the_library(trained):
    folder = trained.workdir / "likelihood"
    summary = read_sealed(folder / "test-bound.json")
    made, model, _ = load(str(trained.workdir))
    method = ChainBound(30, draws=4, replicates=2, events=16)
    assert made.likelihood.method == method
    train, test = made.data.train, made.data.test
    fitted = method.fit(model.sde, model, train.encode(permutation(len(train), 0, 0)[:16], seed=0))
    index, wanted = torch.arange(3), {}
    for draw in (0, 1):
        x = test.encode(index, seed=0, draw=draw)
        found = fitted(model.sde, model, x, noise=NoiseSource(0, index).again(draw))
        bits = bits_per_dim(found.log_prob, x.shape[1:], test.transform)
        wanted |= {
            (i, draw): (nats, b) for i, nats, b in zip(range(3), found.log_prob.tolist(), bits.tolist(), strict=True)
        }
    rows = [line.split(",") for line in table(trained).decode().splitlines()[1:]]
    assert len(rows) == 10
    for row in rows:
        key = int(row[0]), int(row[1])
        if key in wanted:
            assert (float(row[2]), float(row[3])) == pytest.approx(wanted[key], rel=1e-12)
        assert float(row[4]) > 0.0 and row[4] == row[5] and row[6] == "nan" and row[7:9] == ["10", "0"]
    assert summary["unit"] == "bits/dim" and summary["bound by"] == ["uniform dequantization", "a chain"]
    assert set(summary["parts of the error"]) == {"sampling of events", "dequantization", "noise and steps"}
    assert summary["mean nfe"] == 10 and "30 steps, 4 of them drawn for an event, 2 replicates" in summary["solver"]


def test_what_is_stated(trained, bounded, monkeypatch):
    monkeypatch.setattr(sys.modules["scoresde.experiment.reports.report"], "baselines", lambda experiment: ([], ""))
    assert (
        "a bound by a chain: 30 steps, 4 of them drawn" in trained.said
        and "measured variance (16 events)" in trained.said
    )
    bounded("likelihood", likelihood__method=None, likelihood__solver="{'name': 'Multistep', 'nodes': 4}")
    assert sorted(f.name for f in (bounded.workdir / "likelihood").glob("*.json")) == ["test-bound.json", "test.json"]
    bounded("report")
    page = (bounded.workdir / "report.html").read_text()
    assert "at most, by a chain of 30 steps" in page and "an upper bound of the bits/dim" in page
    assert "this run, probability flow" in page


def test_a_fit_is_made_once_and_again_for_a_bad_file(bounded):
    (file,) = (bounded.workdir / "checkpoints").glob("bound-*.json")
    good, before = file.read_text(), table(bounded)
    assert "fitting the chain" not in bounded("likelihood").stdout
    stale = read_sealed(file)
    stale["for"]["checkpoint digest"] = "0" * 16
    write_sealed(file, stale)
    for bad, why in ((file.read_text(), "has other settings and is fitted again"), (good[:90], "cannot be read")):
        file.write_text(bad)
        assert why in bounded("likelihood").stdout
        assert file.read_text() == good and table(bounded) == before


def test_a_folder_in_place_of_the_file_is_refused_before_the_fit(bounded):
    (file,) = (bounded.workdir / "checkpoints").glob("bound-*.json")
    file.unlink()
    file.mkdir()
    done = bounded("likelihood", code=2)
    assert "fitting the chain" not in done.stdout
    assert (
        f"{file} is a folder, and the chain of the bound is saved under this name: move the folder away" in done.stderr
    )


def test_an_event_whose_score_is_not_finite_is_a_failed_row(bounded, monkeypatch):
    """As for the probability flow: it is marked, left out of the mean, and said. An event alone that fails is too."""
    forward = ScoreModel.forward

    def broken(self, x, t, **condition):
        score = forward(self, x, t, **condition)
        return torch.where(torch.arange(len(x))[:, None, None, None] == (1 if len(x) == 3 else 0), math.nan, score)

    shutil.rmtree(bounded.workdir / "likelihood")
    monkeypatch.setattr(ScoreModel, "forward", broken)
    with pytest.warns(RuntimeWarning, match=r"the score or its variance is not finite for batch positions \[1\]"):
        done = bounded("likelihood", likelihood__limit=4)
    assert done.returncode == 0 and "WARNING: 4 of 8 rows FAILED and are not in the mean" in done.stdout, done.stderr
    rows = [line.split(",") for line in table(bounded).decode().splitlines()[1:]]
    assert sorted(int(row[0]) for row in rows if row[-1] == "1") == [1, 1, 3, 3]
    assert read_sealed(bounded.workdir / "likelihood" / "test-bound.json")["failed"] == 4


def test_a_line_that_a_kill_cut_off_is_computed_again_with_the_same_bits(trained, bounded):
    (shard,) = (bounded.workdir / "likelihood").glob("rows-*/*.jsonl")
    whole, lines = table(bounded), shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:2]) + lines[2][:-40])
    assert "computing 5 of 10 rows" in bounded("likelihood").stdout and table(bounded) == whole


@pytest.mark.long
def test_two_processes_give_the_same_bits(trained, bounded):
    shutil.rmtree(bounded.workdir / "likelihood")
    done = bounded("likelihood", "--processes", "2")
    assert "computing 10 of 10 rows" in done.stdout and table(bounded) == table(trained)


@pytest.mark.long
def test_a_real_kill(trained, tmp_path):
    shutil.copytree(trained.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("likelihood", "bound-*"))
    command, settings = Command(tmp_path / "run"), {**SMALL, "likelihood__limit": 40, "likelihood__batch_size": 2}
    process = start(command, "likelihood", **settings)
    deadline = time.monotonic() + 120
    while sum(f.read_bytes().count(b"\n") for f in command.workdir.glob("likelihood/rows-*/*.jsonl")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, 9)
    process.communicate()
    assert not (command.workdir / "likelihood" / "test-bound.csv").exists()
    assert command("likelihood", "vp", "--processes", "2", **settings).returncode == 0
    whole = HereCommand(tmp_path / "whole")
    shutil.copytree(trained.workdir, whole.workdir, ignore=shutil.ignore_patterns("likelihood", "bound-*"))
    assert whole("likelihood", **settings).returncode == 0
    assert table(command) == table(whole)


CHAIN = {
    "model": "{'prediction': 'noise', 'steps': 50}",
    "objective": "{'name': 'DenoisingScoreMatching', 'weighting': 'variance'}",
}
MATRICES = {"sde": "{'name': 'CriticallyDampedLangevin'}", "model": "{'prediction': 'score'}"}


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("'steps': 0", {}, "config.likelihood.method.steps=0 is not allowed"),
        ("'steps': [1.0, 0.51, 0.0]", CHAIN, "t=0.51 is not one of the 50"),
        ("'steps': [1.4, 0.5]", {}, "has times from 0 to T=1, begin at T"),
        ("'steps': 60", CHAIN, "None for all 49 steps"),
        ("'steps': 5, 'draws': 9", {}, "draws=9 is not allowed with 5 steps"),
        ("'probabilities': [1.0, 2.0]", {}, "probabilities is not known: ChainBound takes steps, grid"),
        ("'steps': 5", {"likelihood__tolerance": "0.1"}, "tolerance=0.1 is for the probability flow"),
        ("'steps': 5", MATRICES, "does not have scalar coefficients"),
    ],
)
def test_refused_before_anything_is_written(here, method, changes, message):
    method = f"{{'name': 'ChainBound', {method}}}"
    done = here("likelihood", **{**SMALL, "likelihood__method": method, **changes})
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr) < 700 and not here.workdir.exists()


@pytest.mark.parametrize("method", ["{'name': 'GaussianVariance'}", "bound"])
def test_other_methods_are_refused(here, method):
    done = here("likelihood", **{**SMALL, "likelihood__method": method})
    assert done.returncode == 2 and "config.likelihood.method" in done.stderr and "ChainBound" in done.stderr


def test_data_of_middles_has_the_bound_of_the_levels(here):
    """Without dequantization the decoder is the probability of each level, and bits/dim follow from the log-probability."""
    data = "{'name': 'WithoutDequantization', 'data': {'name': 'Digits'}}"
    settings = {**SMALL, "data": data, "likelihood__draws": 1}
    for verb in ("train", "likelihood"):
        done = here(verb, **settings)
        assert done.returncode == 0, done.stderr
    summary = read_sealed(here.workdir / "likelihood" / "test-bound.json")
    assert summary["bound by"] == ["a chain"] and summary["unit"] == "bits/dim"
    assert summary["bits_per_dim"] == pytest.approx(-summary["nats"] / (64 * math.log(2.0)))
    assert summary["bits_per_dim"] > 0.0
