"""What a kill, a full disk or another person leaves in a work folder: temporary files, links, missing pictures."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest

from scoresde._files import WriteError, write_atomic
from scoresde.experiment.folder.checkpoint import list_checkpoints
from tests.experiment.conftest import called

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        device="cpu", data=dict(name="Arrays", train={points!r}, scale=2.0, shift=0.0), sde=dict(name="VPSDE"),
        network=dict(name="MLP", width=8, depth=1), objective=dict(name="DenoisingScoreMatching"),
        training=dict(steps=2, batch_size=4, preview_every=2, checkpoint_every=1),
        sampling=dict(count=3, batch_size=3), samplers=dict(pc=dict(name="PredictorCorrector", steps=2)),
        likelihood=dict(limit=2, batch_size=2, grid_events=2, solver=dict(name="Multistep", nodes=4)),
    ))
"""
VERBS = ("train", "sample", "likelihood", "evaluate", "report")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every command was run."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "points.npy", 2.0 * np.random.default_rng(0).standard_normal((40, 2)))
    (folder / "config.py").write_text(CONFIG.format(points=str(folder / "points.npy")))
    for verb in VERBS:
        done = called(verb, "--config", folder / "config.py", "--workdir", folder / "run")
        assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished folder."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def refused(done):
    """The error message in one line, after progress bars."""
    assert done.returncode == 2, done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith("scoresde ") and "Traceback" not in done.stderr
    assert sum(one.startswith("scoresde ") for one in done.stderr.splitlines()) == 1
    return line


def test_temporary_files_of_every_command_are_removed_by_its_next_start(run):
    places = {
        "train": ("checkpoints/.step-000000003.safetensors.7.tmp", "previews/.step-2.png.7.tmp", ".metrics.csv.7.tmp"),
        "sample": ("samples/.pc.png.7.tmp", "samples/pc/.x.7.tmp", "samples/pc/shards-0000/.0000000000-0000000003.npz.7.tmp"),
        "likelihood": (
            "likelihood/.test.json.7.tmp", "likelihood/rows-0/.settings.json.7.tmp", "checkpoints/.grid-x.json.7.tmp",
            "checkpoints/.bound-x.json.7.tmp",
        ),
        "evaluate": ("evaluation/.pc.json.7.tmp", "evaluation/data/test/.x.npz.7.tmp", "evaluation/.reference.npz.7.tmp"),
        "report": (".report.html.7.tmp",),
    }  # fmt: skip
    for left in (left for many in places.values() for left in many):
        (run / left).parent.mkdir(parents=True, exist_ok=True)
        (run / left).write_bytes(b"half")
    for verb, mine in places.items():
        assert called(verb, "--workdir", run).returncode == 0
        assert not [left for left in mine if (run / left).exists()]
    assert not list(run.rglob("*.tmp"))


def test_pictures_that_a_kill_prevented_are_drawn_by_the_next_start(run):
    wanted = {p.name: p.read_bytes() for p in (run / "previews").iterdir()}
    assert len(wanted) == 4
    for lost in ("step-000000002-raw.png", "step-000000002-ema.npz"):
        (run / "previews" / lost).unlink()
    assert called("train", "--workdir", run).returncode == 0
    assert {p.name for p in (run / "previews").iterdir()} == set(wanted)
    assert all((run / "previews" / name).read_bytes() == wanted[name] for name in wanted if name.endswith(".png"))


FILES = ("config.json", "log.txt", "metrics.csv", "environment.json", "report.html")
FOLDERS = ("samples", "checkpoints", "likelihood", "evaluation", "previews")
INNER = ("samples/pc.png", "samples/pc.json", "likelihood/test.csv", "evaluation/pc.json", "previews/step-000000002-raw.png",
         "samples/pc")  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, *INNER])
def test_links_are_not_followed(run, tmp_path, name):
    """No command reads or writes outside the folder."""
    outside = tmp_path / "outside"
    shutil.move(run / name, outside)
    os.symlink(outside, run / name)
    before = sorted((p, p.stat().st_mtime_ns) for p in [outside, *outside.rglob("*")])
    for verb in VERBS if name == "log.txt" else VERBS[::4]:
        line = refused(called(verb, "--workdir", run))
        assert f"{run / name} is a symbolic link" in line
    assert sorted((p, p.stat().st_mtime_ns) for p in [outside, *outside.rglob("*")]) == before


def test_the_folder_itself_may_be_a_link(run, tmp_path):
    os.symlink(run, tmp_path / "there")
    assert called("report", "--workdir", tmp_path / "there").returncode == 0


@pytest.mark.parametrize("name", [*FILES[1:], *FOLDERS])
def test_a_folder_where_a_file_belongs_and_the_reverse(run, name):
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        (run / name).write_text("no folder")
    else:
        (run / name).unlink()
        (run / name).mkdir()
    for verb in VERBS[::4]:
        assert str(run / name) in refused(called(verb, "--workdir", run))


def test_a_pipe_does_not_block(run):
    (run / "log.txt").unlink()
    os.mkfifo(run / "log.txt")
    assert "log.txt is a pipe" in refused(called("sample", "--workdir", run))


@pytest.mark.parametrize("kind", [pytest.param("file", marks=pytest.mark.long), "folder"])
def test_a_checkpoint_that_is_a_link_is_passed_over_and_goes(run, tmp_path, kind):
    """Every command uses the checkpoint before. The link is removed like an old checkpoint; its target stays."""
    there, last = tmp_path / "there", list_checkpoints(run / "checkpoints")[-1]
    link = run / "checkpoints" / "step-000000001.safetensors"
    link.unlink()
    if kind == "file":
        shutil.copy(last, there)
    else:
        (there / "mine").mkdir(parents=True)
    os.symlink(there, link)
    os.symlink(last, run / "checkpoints" / "step-000000009.safetensors")
    for verb in ("sample", "likelihood", "evaluate", "report"):
        assert called(verb, "--workdir", run).returncode == 0
    done = called("train", "--workdir", run, "--config.training.steps=4", "--config.training.keep=2")
    assert done.returncode == 0, done.stderr
    assert "resumed from step-000000002" in done.stdout
    assert not link.exists() and not link.is_symlink()
    assert there.is_file() if kind == "file" else (there / "mine").is_dir()


def test_a_lock_that_is_a_link_is_refused(run, tmp_path):
    (run / ".sample.lock").unlink()
    os.symlink(tmp_path / "elsewhere", run / ".sample.lock")
    assert ".sample.lock is not a file" in refused(called("sample", "--workdir", run))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000] + [pytest.param(text, marks=pytest.mark.long) for text in (b"", b"[]", b"\xff", b'{"count": 1e999}')],
    ids=["brackets", "empty", "list", "latin", "numbers"],
)  # fmt: skip
def test_one_garbled_index_does_not_take_the_report(run, text):
    (run / "samples" / "pc.json").write_bytes(text)
    assert called("report", "--workdir", run).returncode == 0
    page = (run / "report.html").read_text()
    assert "pc cannot be shown: " in page and "id='likelihood-test'" in page
    assert "samples/pc.json" in refused(called("evaluate", "--workdir", run))
    assert called("sample", "--workdir", run).returncode == 0
    assert called("evaluate", "--workdir", run).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "likelihood/test.json",
        pytest.param("evaluation/pc.json", marks=pytest.mark.long),
        pytest.param("likelihood/test.csv", marks=pytest.mark.long),
    ],
)
def test_a_figure_that_was_changed_is_not_shown(run, name):
    text = (run / name).read_text()
    place = [m for m in re.finditer(r"\d\.\d{3,}", text) if "seconds" not in text[m.start() - 12 : m.start()]][-1]
    (run / name).write_text(text[: place.start()] + "7" + text[place.start() + 1 :])
    assert called("report", "--workdir", run).returncode == 0
    page = (run / "report.html").read_text()
    assert "cannot be shown" in page and "Run scoresde" in page


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_what_to_do(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="Free some space") as problem:
        write_atomic(tmp_path / "file", b"new")
    assert str(problem.value).startswith(f"{tmp_path / 'file'} cannot be written: {os.strerror(number)}")
    assert problem.value.errno == number and not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb, name", [("train", "config.json"), ("likelihood", "grid-"), ("sample", "samples/")])
def test_a_full_disk_on_the_command_line(run, monkeypatch, verb, name):
    for old in ("samples", "likelihood"):
        shutil.rmtree(run / old)
    for grid in run.glob("checkpoints/grid-*"):
        grid.unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = refused(called(verb, "--workdir", run, *(["--config.training.steps=3"] if verb == "train" else [])))
    assert name in line and "No space left on device. Free some space" in line


class TestRunsWithoutAnUpdate:
    """If every step is bad, there is an error and no checkpoint of untrained weights."""

    @staticmethod
    def train(folder, values, *extra):
        np.save(folder / "points.npy", values)
        (folder / "config.py").write_text(CONFIG.format(points=str(folder / "points.npy")))
        return called("train", "--config", folder / "config.py", "--workdir", folder / "run", *extra)

    @pytest.mark.parametrize("steps", [6, 20])
    def test_data_beyond_float32(self, tmp_path, steps):
        done = self.train(tmp_path, np.full((40, 2), 1e25), f"--config.training.steps={steps}")
        line = refused(done)
        assert "the training data" in line and "of mean 5e+24" in line and "data.shift, data.scale" in line
        assert not list_checkpoints(tmp_path / "run" / "checkpoints")
        assert "contains no config.json" in refused(
            called("sample", "--workdir", tmp_path / "run")
        )  # refused before a claim

    def test_an_interrupted_one_says_that_nothing_was_saved(self, tmp_path):
        assert self.train(tmp_path, np.full((40, 2), 1e25), "--config.training.steps=6").returncode == 2
        again = self.train(tmp_path, np.full((40, 2), 1e25), "--config.training.steps=6")
        assert again.returncode == 2 and "resumed from" not in again.stdout

    def test_a_trained_run_whose_further_steps_are_all_bad(self, run):
        points = json.loads((run / "config.json").read_text())["data"]["train"]
        extra = ("--config.training.steps=5", "--config.training.max_bad_steps=9")
        import scoresde.losses as room

        real = room.DenoisingScoreMatching.evaluate
        room.DenoisingScoreMatching.evaluate = lambda *a, **k: real(*a, **k) * float("nan")
        try:
            line = refused(called("train", "--workdir", run, *extra))
        finally:
            room.DenoisingScoreMatching.evaluate = real
        assert "none of the 3 steps up to step 5 updated the weights" in line and points not in line
        assert list_checkpoints(run / "checkpoints")[-1].name == "step-000000002.safetensors"
        assert called("train", "--workdir", run, *extra).returncode == 0

    @pytest.mark.parametrize("rate", ["1e38", "1e308", "1e400", "0"])
    def test_a_learning_rate_out_of_range(self, tmp_path, rate):
        line = refused(self.train(tmp_path, np.ones((40, 2)), f"--config.training.learning_rate={rate}"))
        assert "learning_rate" in line and not (tmp_path / "run").exists()

    def test_a_large_rate_ends_without_a_traceback(self, tmp_path):
        extra = ("--config.training.learning_rate=1e6", "--config.training.steps=9")
        done = self.train(tmp_path, np.eye(2)[[0, 1] * 20], *extra)
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr
