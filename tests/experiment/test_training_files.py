"""The files of training: checkpoints, averages, pictures, rows; and a dry run, which writes nothing."""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import shlex
import shutil
import sys
import types
from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from scoresde.ema import PowerEMA, _products, posthoc_coefficients, power_exponent
from scoresde.experiment import Workdir, WorkdirError, dry_run, load_config, posthoc_average, steps_within
from scoresde.experiment import train as train_here
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, read_checkpoint
from scoresde.experiment.folder.tensor_file import CheckpointError, read_tensors, write_tensors
from scoresde.experiment.folder.workdir import config_digest, provenance
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.dry_run import Activations
from scoresde.experiment.training.metrics_log import COLUMNS, metrics_writer, whole_rows
from scoresde.experiment.training.previews import is_due, with_steps, write_preview
from scoresde.experiment.training.trainer import BUCKETS, Trainer
from scoresde.samplers import Fast, UniPC
from scoresde.sde import VPSDE
from scoresde.solvers import SolverError
from tests.experiment.training import experiment, same, trainer


def run(folder, **overrides):
    made = experiment(**overrides)
    workdir = Workdir(folder)
    train_here(made, workdir)
    return workdir


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain") / "run", network__dropout=0.1)


class TestALongerRun:
    CONSTANT: ClassVar = {"training__schedule": "constant", "network__dropout": 0.1}

    def test_it_goes_on_to_where_a_long_one_ends(self, tmp_path):
        """Also if an older checkpoint has a digest with another definition."""
        short, whole = tmp_path / "short", tmp_path / "whole"
        run(short, training__steps=4, **self.CONSTANT)
        path = list_checkpoints(short / "checkpoints")[-1]
        tensors, header = read_tensors(path)
        write_tensors(path, tensors, {**header, "config": "of another definition"})
        with pytest.raises(WorkdirError, match="belongs to another config"):
            run(short, training__steps=4, training__beta2=0.9, **self.CONSTANT)
        run(short, training__steps=7, training__checkpoint_every=3, training__log_every=1, **self.CONSTANT)
        run(whole, training__steps=7, **self.CONSTANT)
        ours, theirs = (read_checkpoint(list_checkpoints(f / "checkpoints")[-1]) for f in (short, whole))
        assert ours.step == theirs.step == 7 and same(ours.tensors, theirs.tensors)
        assert json.loads((short / "config.json").read_text())["training"]["steps"] == 7
        assert "config.json was updated by this command: " in (short / "log.txt").read_text()
        assert "training.steps: 4 -> 7" in (short / "log.txt").read_text()

    def test_it_is_not_made_shorter(self, tmp_path):
        """Otherwise a config of 2 steps would belong to weights of 4 steps."""
        run(tmp_path, training__steps=4, **self.CONSTANT)
        before = (tmp_path / "config.json").read_bytes()
        with pytest.raises(WorkdirError, match=r"trained to step 4, but training\.steps=2 is less: give at least 4"):
            run(tmp_path, training__steps=2, **self.CONSTANT)
        assert (tmp_path / "config.json").read_bytes() == before

    def test_a_checkpoint_of_another_config_is_not_gone_on_from(self, tmp_path):
        """A checkpoint that was put into a folder with a correct config.json."""
        run(tmp_path / "other", training__steps=1, training__beta2=0.9, training__ema_decay=0.5)
        made, workdir = experiment(training__steps=1), Workdir(tmp_path / "run")
        workdir.claim(made)
        shutil.copytree(tmp_path / "other" / "checkpoints", workdir.checkpoints)
        with pytest.raises(WorkdirError, match=r"step-000000001\.safetensors belongs to another config \(digest "):
            train_here(made, workdir)

    def test_the_digest_does_not_see_what_may_change(self):
        """Rows and samples stay valid when options change that do not change the weights; other weights have another digest."""
        plain = config_digest(experiment(**self.CONSTANT))
        free = {"training__steps": 9, "training__keep": 9, "training__micro_batch": 2, "sampling__seed": 1}
        assert config_digest(experiment(**self.CONSTANT, **free)) == plain
        assert config_digest(experiment(**self.CONSTANT, training__beta2=0.9)) != plain

    def test_a_cosine_does_not(self, tmp_path):
        run(tmp_path / "run", training__steps=2, training__schedule="cosine")
        with pytest.raises(WorkdirError, match=r"training\.steps: 2 -> 3\n\(a cosine schedule depends on"):
            run(tmp_path / "run", training__steps=3, training__schedule="cosine")


def test_a_folder_that_another_process_makes_meanwhile(tmp_path, monkeypatch):
    """Processes of a launcher claim a new folder at once. One that finds another's config compares its own with it."""
    made, other, workdir = experiment(), experiment(training__batch_size=9), Workdir(tmp_path)
    iterate, claimed = type(tmp_path).iterdir, []

    def first(path):
        if not claimed:
            claimed.append(path)
            Workdir(path).claim(made)
        return iterate(path)

    for ours, refused in ((made, False), (other, True)):
        claimed.clear()
        for file in iterate(tmp_path):
            file.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(type(tmp_path), "iterdir", first)
            with pytest.raises(WorkdirError, match="belongs to another config") if refused else nullcontext():
                workdir.claim(ours)
        assert claimed


def test_killed_before_a_checkpoint_no_snapshot_is_missing(tmp_path, monkeypatch):
    """Otherwise the run would resume after that checkpoint and never write the snapshot of its step."""
    settings = {"training__steps": 4, "training__posthoc_widths": [0.05], "training__posthoc_every": 2}
    run(tmp_path / "whole", **settings)

    def killed(*given, **options):
        raise KeyboardInterrupt

    for name in ("save_checkpoint", "write_snapshot"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(sys.modules["scoresde.experiment.training.loop"], name, killed)
            run(tmp_path / name, **settings)
        run(tmp_path / name, **settings)
        names = [[p.name for p in list_checkpoints(f / "averages")] for f in (tmp_path / name, tmp_path / "whole")]
        assert names[0] == names[1] and len(names[0]) == 2


class TestCheckpoints:
    def test_every_bit_is_watched(self, tmp_path):
        tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.ones(2, dtype=torch.bfloat16)}
        path, rng = tmp_path / "file", random.Random(0)
        write_tensors(path, tensors, {"format": 2, "step": 12})
        content = path.read_bytes()
        found, header = read_tensors(path)
        assert same(tensors, found) and header == {"format": 2, "step": 12}
        for _ in range(200):
            broken = bytearray(content)
            broken[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(broken)
            try:  # a changed byte in the JSON's padding has no effect
                found, header = read_tensors(path)
            except CheckpointError:
                continue
            assert same(tensors, found) and header == {"format": 2, "step": 12}

    def test_the_header_says_what_was_trained_how(self, plain):
        facts = last_checkpoint(plain.checkpoints).facts
        assert json.loads(facts["config"])["training"]["steps"] == 6
        assert facts["environment"]["torch"] and facts["data"] == experiment().data.train.digest()

    def test_format_1_is_read(self, plain, tmp_path):
        checkpoint = last_checkpoint(plain.checkpoints)
        header = {"format": 1, "step": 6, "ema_updates": 6, "ema_decay": 0.998, "config": checkpoint.config_digest}
        path = tmp_path / "step-000000006.safetensors"
        path.write_bytes(save(dict(checkpoint.tensors), {"scoresde": json.dumps(header)}))
        old = read_checkpoint(path)
        assert old.step == 6 and old.facts == {} and same(old.tensors, checkpoint.tensors)
        path.write_bytes(save(dict(checkpoint.tensors), {"scoresde": json.dumps(header | {"format": 3})}))
        with pytest.raises(CheckpointError, match="format 3: this version reads formats 1 and 2"):
            read_checkpoint(path)

    def test_the_last_ones_and_every_nth_stay(self, tmp_path):
        workdir = run(tmp_path / "run", training__checkpoint_every=1, training__keep=2, training__keep_every=3)
        assert [int(p.stem[5:]) for p in list_checkpoints(workdir.checkpoints)] == [3, 5, 6]

    def test_a_start_that_was_killed_is_no_obstacle(self, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        names = (".environment.json.7.tmp", ".config.json.7.tmp", "environment.json")
        for name in names:
            (folder / name).write_text("torn")
        workdir = run(folder, training__steps=1)
        left = workdir.checkpoints / ".step-000000001.safetensors.7.tmp"
        left.write_text("torn")
        run(folder, training__steps=1)
        assert not left.exists() and last_checkpoint(workdir.checkpoints).step == 1
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "environment.json.bak").write_text("mine")
        with pytest.raises(RuntimeError, match="contains other files"):
            run(tmp_path / "other")

    def test_other_data_is_refused(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((20, 1, 8, 8), dtype="float32"))
        options = {"data": {"name": "Arrays", "train": str(tmp_path / "x.npy")}, "model__prediction": "noise"}
        run(tmp_path / "run", **options)
        np.save(tmp_path / "x.npy", np.ones((20, 1, 8, 8), dtype="float32"))
        with pytest.raises(RuntimeError, match=r"the training data '.*x\.npy/train' has changed"):
            run(tmp_path / "run", **options)


@pytest.mark.parametrize(
    "options", [{"training__prefetch": True}, {"training__preview_every": 3, "training__prefetch": True}]
)
def test_reading_ahead_and_pictures_change_no_bit(plain, tmp_path, options):
    workdir = run(tmp_path / "run", network__dropout=0.1, **options)
    ours, theirs = last_checkpoint(workdir.checkpoints), last_checkpoint(plain.checkpoints)
    assert same(ours.tensors, theirs.tensors)
    assert not plain.previews.exists()
    if "training__preview_every" in options:
        names = {p.name for p in workdir.previews.iterdir()}
        assert names == {f"step-00000000{n}-{w}.{k}" for n in (3, 6) for w in ("raw", "ema") for k in ("png", "npz")}
        arrays = [np.load(workdir.previews / f"step-000000006-{w}.npz")["x"] for w in ("raw", "ema")]
        assert arrays[0].shape == (16, 1, 8, 8) and not np.array_equal(*arrays)


def test_when_pictures_come():
    assert [n for n in range(1, 60_00) if is_due(n, 2500)] == [100, 500, 2500, 5000]
    assert not any(is_due(n, 0) for n in range(100))


def test_rows(plain):
    with open(plain.metrics_file, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [2, 4, 6] and tuple(rows[0]) == COLUMNS
    for row in rows:
        assert float(row["images_per_second"]) > 0 and float(row["memory_mib"]) > 50 and row["skipped"] == "0"
        assert 0 < float(row["ema_distance"]) < 1
        parts = [float(row[f"loss_t{k}"]) for k in range(1, BUCKETS + 1)]
        assert min(p for p in parts if p == p) <= float(row["loss"]) <= max(p for p in parts if p == p)


class TestRowsThatAreNotWhole:
    HEAD = b"step,loss,memory_mb\r\n"

    def test_what_is_kept(self, tmp_path):
        """A last line without its end may have a truncated number.

        A line with fewer or more cells, no step or NULs is invalid.
        """
        file = tmp_path / "metrics.csv"
        assert whole_rows(file) == ([], [])
        file.write_bytes(self.HEAD + b"2,0.5,1\r\n3,0.5\r\n4,1,2,3\r\nx,1,1\r\n\0\0\0\r\n5,0.25,1\r\n6,0.125,1")
        head, rows = whole_rows(file)
        assert head == ["step", "loss", "memory_mb"] and [row["step"] for row in rows] == ["2", "5"]

    def test_a_run_goes_on(self, tmp_path):
        """With a damaged table, also with other columns: rows after the step are dropped, the others do not change."""
        workdir = Workdir(tmp_path)
        workdir.metrics_file.write_bytes(self.HEAD + b"2,0.5,1\r\n\0\0\r\n4,0.5,1\r\n6,0.5,1\r\n")
        with metrics_writer(workdir, 4) as write:
            write({**dict.fromkeys(COLUMNS, 0.25), "step": 6})
        head, rows = whole_rows(workdir.metrics_file)
        assert tuple(head) == COLUMNS and [(r["step"], r["loss"], r["skipped"]) for r in rows] == [
            ("2", "0.5", "nan"), ("4", "0.5", "nan"), ("6", "0.25", "0.25"),
        ]  # fmt: skip

    def test_a_row_is_on_the_disk_when_it_is_written(self, tmp_path, monkeypatch):
        """The content of the file at the last sync includes the row."""
        synced = []
        monkeypatch.setattr("os.fsync", lambda number: synced.append(os.fstat(number).st_size))
        with metrics_writer(Workdir(tmp_path), 0) as write:
            write({**dict.fromkeys(COLUMNS, 0.25), "step": 2})
            assert synced[-1] == (tmp_path / "metrics.csv").stat().st_size > 20


class TestPreviews:
    """A picture that cannot be drawn, and an interrupted one."""

    def run(self, tmp_path, act):
        made = experiment(training__steps=2)
        made.samplers.clear()
        made.samplers["first"] = lambda *given, **options: act()
        run, workdir = Trainer(made, Group(0, 1, made.device)), Workdir(tmp_path)
        write_preview(made, workdir, run)
        return workdir

    @pytest.mark.parametrize("problem", [ValueError("no grid"), torch.OutOfMemoryError("no room"), SolverError("lost")])
    def test_training_goes_on_without(self, tmp_path, problem):
        def act():
            raise problem

        workdir = self.run(tmp_path, act)
        assert f"no raw preview at step 0: {problem}" in workdir.log_file.read_text() and not workdir.previews.exists()

    def test_a_second_signal_ends_the_run(self, tmp_path):
        """An interrupted sampler returns its state. Its picture would show noise, and the signal would be lost."""
        result = types.SimpleNamespace(interrupted=True, samples=torch.zeros(16, 1, 8, 8))
        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path, lambda: result)
        assert not Workdir(tmp_path).previews.exists()


class TestDryRun:
    def test_figures(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made = experiment()
        before = copy.deepcopy(made.model.state_dict())
        needs = dry_run(made)
        parameters = sum(p.numel() for p in made.model.parameters())
        assert needs.parameters == parameters and needs.gradients == 4 * parameters
        assert 8 * parameters <= needs.optimizer < 8.1 * parameters
        assert 4 * parameters <= needs.averages == needs.weights < 4.1 * parameters
        assert needs.steps == 6 and 0 < needs.seconds < 10
        assert "hours" in str(needs) and f"{parameters:,}" in str(needs)
        half = dry_run(experiment(training__micro_batch=4))
        assert half.activations == pytest.approx(needs.activations / 2, rel=0.1)
        assert same(before, made.model.state_dict()) and not list(tmp_path.iterdir())

    def test_a_step_that_goes_wrong_is_said(self):
        with pytest.raises(FloatingPointError, match="dry run: the loss is not finite for 2 of 8 examples at step 3"):
            dry_run(experiment(objective__name="benchmarks.bad_losses:Bad", objective__steps=(3,)))

    def test_steps_that_float16_skips_first_do_not_count(self):
        """Sums over coordinates overflow at the first scale; without an update there are no moments to count."""
        needs = dry_run(experiment(training__precision="float16", objective__reduction="half_sum"))
        assert needs.optimizer >= 8 * needs.parameters

    def test_by_the_command_line(self, here):
        done = here("train", "vp", "--dry-run")
        assert done.returncode == 0 and "for 6 steps" in done.stdout, done.stderr
        assert not here.workdir.exists()
        done = here("sample", "vp", "--dry-run")
        assert done.returncode == 2 and "--dry-run is a flag of train, not of sample" in done.stderr

    def test_fit_time_stores_the_number_of_steps_that_fits(self, here):
        done = here("train", "vp", "--fit-time", "1e-9")
        stored = load_config(here.workdir / "config.json")
        assert done.returncode == 0 and stored.training.steps == 1, done.stderr
        assert "1 training steps take about 1e-09 s here" in done.stdout
        done = here("train", "vp", "--fit-time", "100")
        assert done.returncode == 0 and "this run already has training.steps=1" in done.stdout
        assert "already trained to step 1 of 1" in done.stdout

    def test_fit_time_reads_the_steps_of_a_run_whose_config_names_a_user_class(self, here):
        """The folder's config.json is read as data: the class in it needs no --trust."""
        own = {"sde": "{'name': 'tests.experiment.canary:Process'}", "training__steps": 1}
        assert here("train", "vp", **own).returncode == 0
        done = here("train", "vp", "--fit-time", "100", **own)
        assert done.returncode == 0 and "this run already has training.steps=1" in done.stdout, done.stderr

    def test_fit_time_takes_no_more_steps_than_the_config(self, monkeypatch):
        made = experiment()
        assert steps_within(made, 1e6) == made.training.steps == 6
        with pytest.raises(ValueError, match="seconds=0 is not allowed"):
            steps_within(made, 0)
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="--fit-time is for a single process"):
            steps_within(made, 1.0)

    def test_activations_are_what_the_graph_keeps(self):
        x = torch.randn(1000, requires_grad=True)
        kept = Activations([x])
        with kept:
            y = (x.sin().exp() * 2.0).sum()  # sin saves x, a parameter; exp saves its result of 4000 bytes
        assert kept.bytes == 4000
        y.backward()
        assert torch.allclose(x.grad, 2 * x.cos() * x.sin().exp())


class TestAverages:
    def test_several_at_once(self, tmp_path):
        workdir = run(tmp_path / "run", training__ema_decays=[0.5, 0.9])
        checkpoint = last_checkpoint(workdir.checkpoints)
        names = {name.split(".")[0] for name in checkpoint.tensors}
        assert names == {"model", "ema", "ema1", "optimizer"}
        far = [
            float((checkpoint.tensors[f"{n}.position"] - checkpoint.tensors["model.position"]).norm())
            for n in ("ema", "ema1")
        ]
        assert 0 < far[0] <= far[1]
        model, _ = workdir.model(experiment(training__ema_decays=[0.5, 0.9]))
        assert torch.equal(model.network.position, checkpoint.tensors["ema.position"])

    @pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.25])
    def test_exponent_gives_the_width(self, std):
        gamma = power_exponent(std)
        tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = (gamma + 1) * tau**gamma
        mean = (tau * density).mean()
        assert float(((tau - mean) ** 2 * density).mean().sqrt()) == pytest.approx(std, rel=1e-4)

    def test_inner_products_are_integrals(self):
        t, gamma = torch.tensor([3.0, 5.0, 4.0]).double(), torch.tensor([2.0, 6.9, 17.0]).double()
        tau = (torch.arange(500_000, dtype=torch.float64) + 0.5) / 100_000
        p = torch.where(
            tau <= t[:, None], (gamma[:, None] + 1) * tau ** gamma[:, None] / t[:, None] ** (gamma[:, None] + 1), 0.0
        )
        assert torch.allclose(_products(t, gamma, t, gamma), p @ p.T / 100_000, rtol=1e-3)

    def test_any_width_is_made_of_two(self):
        """A smooth path with noise, 4000 updates, 16 snapshots of widths 0.05 and 0.1.

        Widths between them have an error of a few thousandths of the distance between the averages; the nearest stored
        average has ten times this error.
        """
        module, generator = nn.Linear(64, 1, bias=False), torch.Generator().manual_seed(0)
        kept = [PowerEMA(module, std) for std in (0.05, 0.1)]
        wanted = PowerEMA(module, 0.07)
        direction, stored, parts = torch.randn(64, generator=generator), [], []
        for n in range(1, 4001):
            with torch.no_grad():
                module.weight.copy_(direction * (n / 4000) ** 0.5 + 0.3 * torch.randn(1, 64, generator=generator))
            for average in (*kept, wanted):
                average.update(module)
            if n % 250 == 0:
                stored += [(n, average.std) for average in kept]
                parts += [average.module.weight.clone() for average in kept]
        made = (posthoc_coefficients(stored, 4000, 0.07)[:, None, None] * torch.stack(parts).double()).sum(0)
        truth = wanted.module.weight.double()
        nearest = min(float((part.double() - truth).norm()) for part in parts)
        assert float((made - truth).norm()) < 0.1 * nearest

    def test_snapshots_in_a_folder(self, tmp_path):
        options = {"training__posthoc_widths": [0.05, 0.1], "training__posthoc_every": 2}
        workdir = run(tmp_path / "run", **options)
        assert [int(p.stem[5:]) for p in list_checkpoints(workdir.averages)] == [2, 4, 6]
        tensors, _ = read_tensors(list_checkpoints(workdir.averages)[-1])
        back = posthoc_average(workdir, 0.1)
        for name, tensor in back.items():
            assert torch.allclose(tensor, tensors[f"power1.{name}"], atol=1e-6), name
        trainer(**options).trained.load_state_dict(back)
        with pytest.raises(CheckpointError, match="no snapshots in"):
            posthoc_average(workdir, 0.1, updates=1)
        with pytest.raises(ValueError, match=r"std=0\.3"):
            posthoc_average(workdir, 0.3)


def test_a_preview_does_not_wait_for_a_fit():
    sampler = with_steps(Fast(5, t_min=1e-2), 20)
    assert isinstance(sampler, UniPC) and sampler.steps == 20
    assert float(sampler.discretization.times(VPSDE())[-1]) == pytest.approx(1e-2)


def test_the_stored_command_can_be_run_in_a_shell(monkeypatch):
    """JSON in an argument is quoted. Planted: joined by spaces, the shell removes its quotes."""
    words = ["sample", "--workdir", "my run", '--config.samplers={"ddim": {"name": "DDIM", "steps": 10}}']
    monkeypatch.setattr(sys, "argv", ["/bin/scoresde", *words])
    assert shlex.split(provenance()["command"]) == ["scoresde", *words]
    assert shlex.split(" ".join(["scoresde", *words])) != ["scoresde", *words]
