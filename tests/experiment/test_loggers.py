"""Loggers of a run: what they get, what happens after a kill, and that none of them can end a run."""

from __future__ import annotations

import csv
import glob
import importlib.util
import json
import math
import sqlite3
import struct
import sys
import types

import numpy as np
import pytest

from benchmarks.children import together
from scoresde.experiment import ConfigError, Workdir, train
from scoresde.experiment.folder.checkpoint import list_checkpoints
from scoresde.loggers import LoggedRun, Logger, RunStart, TensorBoardLogger, TrackioLogger, WandbLogger
from scoresde.loggers.wandb_run import has_key
from tests.experiment import recording
from tests.experiment.conftest import TINY as TINY_COMMAND
from tests.experiment.recording import Recorder
from tests.experiment.training import experiment

NAME = "tests.experiment.recording:Recorder"
TINY = {
    "network": "{'name': 'MLP', 'width': 8, 'depth': 1}", "network__channels": None, "network__blocks": None,
    "model": "{'prediction': 'noise'}", "training__preview_every": 0, "training__schedule": "constant",
}  # fmt: skip


def small(**more):
    return experiment(**{**TINY, **more})


@pytest.fixture
def told():
    recording.CALLS.clear()
    return recording.CALLS


def steps(told, kind="row"):
    return [call[1] for call in told if call[0] == kind]


class TestWhatALoggerGets:
    def test_config_rows_and_pictures(self, tmp_path, told):
        made = small(training__preview_every=2, training__steps=4)
        train(made, Workdir(tmp_path / "run"), {"mine": Recorder()})
        kind, number, step, resumed, config = told[0]
        assert (kind, step, resumed) == ("open", 0, False) and len(number) == 16 and config["training"]["steps"] == 4
        with open(tmp_path / "run" / "metrics.csv") as file:
            table = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        logged = [{"step": step, **values} for kind, step, values in (call for call in told if call[0] == "row")]
        np.testing.assert_equal(logged, table)  # NaN equals NaN
        assert steps(told) == [2, 4] and steps(told, "pictures") == [2, 4] and told[-1] == ("close", True)
        pictures = next(call[2] for call in told if call[0] == "pictures")
        assert pictures == {"samples/raw": b"\x89PNG", "samples/ema": b"\x89PNG"}

    def test_a_config_names_it(self, here, told):
        """A key of the section can be set on the command line, and changed when the run is resumed."""
        done = here("train", **TINY_COMMAND, **{"loggers.mine": f"{{'name': '{NAME}'}}"})
        assert done.returncode == 0 and steps(told) == [2, 4, 6]
        saved = json.loads((here.workdir / "config.json").read_text())
        assert saved["loggers"] == {"mine": {"name": NAME}}
        assert here("train", **TINY_COMMAND, loggers="{}", **{"training.log_every": 3}).returncode == 0

    def test_names_and_kinds(self):
        with pytest.raises(ConfigError, match=r"config.loggers: 'a/b' is not allowed as a name"):
            small(loggers="{'a/b': {'name': 'WandbLogger'}}")
        with pytest.raises(ConfigError, match=r"config.loggers.a: VPSDE is not allowed here.*WandbLogger"):
            small(loggers="{'a': {'name': 'VPSDE'}}")
        with pytest.raises(ConfigError, match=r"config.loggers.a.mode='later' is not known"):
            small(loggers="{'a': {'name': 'WandbLogger', 'mode': 'later'}}")
        made = small(
            loggers="{'a': {'name': 'WandbLogger', 'project': 'digits', 'tags': ['x']}, 'b': {'name': 'TrackioLogger'}}"
        )
        assert made.loggers == {"a": WandbLogger("digits", tags=("x",)), "b": TrackioLogger()}
        found = importlib.util.find_spec("tensorboard") is not None
        assert (
            small().loggers == ({"tensorboard": TensorBoardLogger()} if found else {})
            and small(loggers="{}").loggers == {}
        )

    def test_no_object_of_another_kind(self, tmp_path):
        with pytest.raises(ConfigError, match=r"loggers\['mine'\]=3 is not a Logger"):
            train(small(), Workdir(tmp_path / "run"), {"mine": 3})
        assert not (tmp_path / "run").exists()

    def test_methods_without_a_definition_do_nothing(self, tmp_path):
        class Rows(LoggedRun):
            def metrics(self, values, step):
                pass

        class Mine(Logger):
            def open(self, start):
                return Rows()

        train(small(training__preview_every=2, training__steps=2), Workdir(tmp_path / "run"), {"mine": Mine()})
        assert "WARNING: logger" not in (tmp_path / "run" / "log.txt").read_text()


class TestAResumedRun:
    def test_continues_the_same_logged_run(self, tmp_path, told):
        """Resumed from a checkpoint older than the last row: the same id, and no step twice or backwards."""
        workdir = Workdir(tmp_path / "run")
        train(small(training__preview_every=4, training__checkpoint_every=2), workdir, {"mine": Recorder()})
        for file in list_checkpoints(workdir.checkpoints)[1:]:
            file.unlink()
        again = small(
            training__preview_every=4, training__log_every=1, training__steps=8, training__schedule="constant"
        )
        train(again, workdir, {"mine": Recorder()})
        first, second = (call for call in told if call[0] == "open")
        assert first[1] == second[1] and second[2:4] == (2, True)
        assert steps(told) == [2, 4, 6, 7, 8] and steps(told, "pictures") == [4, 8]

    def test_a_kill_between_the_record_and_the_row_does_not_repeat_it(self, tmp_path, told, monkeypatch):
        """The step is recorded first."""
        workdir, seen = Workdir(tmp_path / "run"), []
        monkeypatch.setattr(
            recording.Recording, "metrics",
            lambda self, values, step: seen.append(json.loads((workdir.path / "loggers/mine.json").read_text())["row"] == step),
        )  # fmt: skip
        train(small(), workdir, {"mine": Recorder()})
        assert seen == [True, True, True]

    def test_a_damaged_record_starts_a_new_logged_run(self, tmp_path, told):
        workdir = Workdir(tmp_path / "run")
        train(small(training__steps=2), workdir, {"mine": Recorder()})
        (workdir.path / "loggers" / "mine.json").write_text('{"id": "../../x"}')
        train(small(training__steps=4), workdir, {"mine": Recorder()})
        first, second = (call for call in told if call[0] == "open")
        assert first[1] != second[1] and second[1].isalnum() and not second[3]
        assert "logger mine starts a new logged run" in workdir.log_file.read_text()

    def test_a_run_that_fails_says_so(self, tmp_path, told):
        made = small(
            training__max_bad_steps=1, training__learning_rate=1e6, training__steps=50, training__grad_clip=1e30
        )
        with pytest.raises(FloatingPointError):
            train(made, Workdir(tmp_path / "run"), {"mine": Recorder()})
        assert told[-1] == ("close", False)


class TestALoggerThatFails:
    @pytest.mark.parametrize("where", ["open", "metrics", "close"])
    def test_training_continues(self, tmp_path, told, where):
        workdir = Workdir(tmp_path / "run")
        train(small(), workdir, {"bad": Recorder(fails=where), "good": Recorder()})
        lines = [line for line in workdir.log_file.read_text().splitlines() if "WARNING: logger" in line]
        assert len(lines) == 1 and "logger bad failed and is left out" in lines[0] and "second line" not in lines[0]
        calls = {"open": 0, "metrics": 1, "close": 3}[where]
        assert len(steps(told)) == 3 + calls and "trained to step 6" in workdir.log_file.read_text()

    def test_an_interrupt_is_no_failure_of_a_logger(self, tmp_path, told, monkeypatch):
        def interrupted(self, values, step):
            raise KeyboardInterrupt

        monkeypatch.setattr(recording.Recording, "metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(small(), Workdir(tmp_path / "run"), {"mine": Recorder()})
        assert told[-1] == ("close", False)


class TestBeforeTraining:
    @pytest.mark.parametrize("name", ["WandbLogger", "TrackioLogger", "TensorBoardLogger"])
    def test_a_missing_package_is_an_error_with_the_command_that_installs_it(self, here, monkeypatch, name):
        package = name.removesuffix("Logger").lower()
        known = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda asked, *more: None if asked == package else known(asked, *more)
        )
        done = here("train", **TINY_COMMAND, **{"loggers.mine": f"{{'name': '{name}'}}"})
        assert done.returncode == 2 and not here.workdir.exists()
        assert (
            f"config.loggers.mine: the package {package} is not installed: pip install 'scoresde[{package}]'"
            in done.stderr
        )

    def test_the_mode_of_wandb(self, monkeypatch, tmp_path):
        """Offline without a key; a key in the environment or the netrc file of the host makes it online."""
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert not has_key() and WandbLogger().chosen_mode == "offline"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        WandbLogger().check()
        with pytest.raises(ValueError, match="mode='online' needs an API key"):
            WandbLogger(mode="online").check()
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password not-a-key\n")
        assert WandbLogger().chosen_mode == "online" and WandbLogger(mode="offline").chosen_mode == "offline"
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
        assert WandbLogger().chosen_mode == "offline"
        monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
        assert WandbLogger().chosen_mode == "online"
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert WandbLogger().chosen_mode == "disabled"
        WandbLogger(mode="online").check()


def test_only_the_main_process_logs(tmp_path):
    given = {
        "training.steps": 2, "training.batch_size": 4, "training.log_every": 1, "training.checkpoint_every": 2,
        "training.preview_every": 0, "network": {"name": "MLP", "width": 8, "depth": 1}, "model": {"prediction": "noise"},
        "loggers": {"mine": {"name": NAME, "file": str(tmp_path / "opened")}},
    }  # fmt: skip
    ranks = together(tmp_path / "run", 2, given)
    assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
    assert [json.loads(line) for line in (tmp_path / "opened").read_text().splitlines()] == [["0", 0]]


class TestTensorBoard:
    def test_the_board_drops_what_is_run_again(self, tmp_path, monkeypatch):
        """purge_step is the first step that TensorBoard must drop; each row is flushed."""
        seen = []

        class Writer:
            def __init__(self, folder, purge_step):
                seen.append(purge_step)

            def add_scalar(self, key, value, step):
                seen.append((key, step))

            def add_image(self, name, pixels, step, dataformats):
                seen.append((name, pixels.shape[2], step, dataformats))

            def add_text(self, name, text):
                seen.append((name, '"seed"' in text))

            def flush(self):
                seen.append("flushed")

            def close(self):
                seen.append("closed")

        module = types.ModuleType("torch.utils.tensorboard")
        module.SummaryWriter = Writer
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        monkeypatch.setattr(TensorBoardLogger, "check", lambda self: None)
        assert TensorBoardLogger.replaces
        workdir = Workdir(tmp_path / "run")
        train(small(training__preview_every=4, training__steps=4), workdir, {"tensorboard": TensorBoardLogger()})
        assert seen[:3] == [1, ("config", True), ("loss", 2)] and seen[-1] == "closed" and seen[-2] == "flushed"
        assert ("samples/ema", 3, 4, "HWC") in seen and seen.count("flushed") == 3
        list_checkpoints(workdir.checkpoints)[1].unlink()
        seen.clear()
        train(small(training__preview_every=4, training__steps=4), workdir, {"tensorboard": TensorBoardLogger()})
        assert seen[:2] == [3, ("loss", 4)]

    def test_event_files(self, tmp_path):
        pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        train(small(training__preview_every=6), Workdir(tmp_path / "run"), {"tensorboard": TensorBoardLogger()})
        found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        found.Reload()
        assert [event.step for event in found.Scalars("loss")] == [2, 4, 6] and "samples/ema" in found.Tags()["images"]


def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        _, size, kind = struct.unpack("<IHB", data[at : at + 7]) if room >= 7 else (0, 0, 0)
        if not kind:
            at += room
            continue
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the last part of a record
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


class TestThePackagesThemselves:
    """Offline, in two commands, the second from a checkpoint that is older than the last row."""

    def run(self, folder, logger):
        train(small(training__preview_every=4), Workdir(folder), {"mine": logger})
        for file in list_checkpoints(folder / "checkpoints")[1:]:
            file.unlink()
        again = small(training__preview_every=4, training__steps=8)
        train(again, Workdir(folder), {"mine": logger})
        assert "WARNING: logger" not in (folder / "log.txt").read_text()

    def test_wandb(self, tmp_path, monkeypatch):
        pytest.importorskip("wandb", reason="the package wandb is not installed")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        self.run(tmp_path / "run", WandbLogger("digits", mode="offline"))
        folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
        rows, ids, pictures = [], set(), 0
        for folder in folders:
            for record in wandb_records(next(folder.glob("*.wandb"))):
                if record.WhichOneof("record_type") == "run":
                    ids.add(record.run.run_id)
                    assert record.run.project == "digits" and "training" in {
                        item.key for item in record.run.config.update
                    }
                if record.WhichOneof("record_type") == "history":
                    values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                    rows.append((int(values["_step"]), math.isfinite(float(values["loss"]))))
                    pictures += "samples/ema.path" in values
            assert glob.glob(f"{folder}/files/media/images/samples/ema_*.png")
        assert len(folders) == 2 and len(ids) == 1 and pictures == 2
        assert rows == [(2, True), (4, True), (6, True), (8, True)]

    def test_trackio(self, tmp_path, monkeypatch):
        pytest.importorskip("trackio", reason="the package trackio is not installed")
        from trackio.utils import TRACKIO_DIR

        name = f"test-{tmp_path.name}-{id(self)}"
        try:
            self.run(tmp_path / "run", TrackioLogger(name))
            with sqlite3.connect(TRACKIO_DIR / f"{name}.db") as database:
                found = list(database.execute("select run_id, step, metrics from metrics order by id"))
                configs = list(database.execute("select config from configs"))
        finally:
            for file in TRACKIO_DIR.glob(f"{name}*"):
                file.unlink()
        assert len({number for number, _, _ in found}) == 1 and "training" in json.loads(configs[0][0])
        assert [step for _, step, values in found if "loss" in json.loads(values)] == [2, 4, 6, 8]
        assert [step for _, step, values in found if "samples/ema" in json.loads(values)] == [4, 8]


def test_a_start_has_defaults(tmp_path):
    assert RunStart(tmp_path) == RunStart(tmp_path, {}, "", 0, False)
