"""The weights of samples and likelihoods: every average of a run by its name, with separate results."""

from __future__ import annotations

import json
import shutil
import sys
import weakref

import numpy as np
import pytest
import torch

from scoresde.ema import PowerEMA, posthoc_coefficients, power_exponent, profile_error
from scoresde.experiment import Workdir, posthoc_average
from scoresde.experiment.config.weight_names import titled, weights_name, width
from scoresde.experiment.folder.averages import combine_snapshots, write_snapshot
from scoresde.experiment.folder.checkpoint import OneFile, last_checkpoint, list_checkpoints
from scoresde.experiment.folder.tensor_file import CheckpointError, read_tensors, write_tensors
from tests.experiment.conftest import CopyCommand, ended
from tests.experiment.test_sample_shards import FEW
from tests.experiment.training import experiment

AVERAGES = {
    **FEW, "training__steps": 6, "training__ema_decays": [0.1, 0.9], "training__posthoc_widths": [0.05, 0.1],
    "training__posthoc_every": 2, "sampling__count": 3,
}  # fmt: skip
MODULE = sys.modules["scoresde.experiment.folder.averages"]  # the package has a function of the same name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six steps with two averages and snapshots of two more; samples and rows of the default weights."""
    return ended(tmp_path_factory, "train", "sample", "likelihood", **AVERAGES)[0]


@pytest.fixture
def run(trained, tmp_path):
    """The command line in a copy of that folder. Returns its output, including errors."""
    command = CopyCommand(trained, tmp_path, **AVERAGES)

    def call(verb, *extra, **more):
        done = command(verb, *extra, **more)
        return done.stdout + done.stderr

    call.folder = command.workdir
    return call


def samples(folder, title):
    with np.load(folder / "samples" / f"{title}.npz") as file:
        return file["x"], json.loads((folder / "samples" / f"{title}.json").read_text())


def test_names():
    assert [weights_name(w) for w in ("ema", "ema12", "model", 0.07, "0.070", "7e-2")] == [
        "ema", "ema12", "model", "0.07", "0.07", "0.07",
    ]  # fmt: skip
    for wrong in ("ema0", "ema01", "raw", "", True, None, "nan"):
        with pytest.raises(ValueError, match="weights="):
            weights_name(wrong)
    with pytest.raises(ValueError, match=r"weights='0\.3' is not the width of an average: std=0\.3"):
        weights_name("0.3")
    assert width("ema1") is None and width("0.07") == 0.07
    assert [titled("heun", w) for w in ("ema", "ema1", "0.07")] == ["heun", "heun@ema1", "heun@0.07"]
    with pytest.raises(ValueError, match="'heun@ema1' is not allowed"):
        titled("heun@ema1", "ema")


def test_samples_of_each_are_apart_and_say_so(run, monkeypatch):
    """Raw weights, two averages and a post-hoc one: four files with different numbers; those of the default do not change."""
    monkeypatch.setattr(sys.modules["scoresde.experiment.reports.report"], "baselines", lambda experiment: ([], ""))
    before = {p.name: p.read_bytes() for p in (run.folder / "samples").glob("pc.*")}
    assert "drawing 3 of 3, weights model" in run("sample", "--weights", "model")
    run("sample", "--weights=ema1")
    assert "weights 0.07 of 3 snapshots (averaging profile off by" in run("sample", "--weights", "0.070")
    titles = {"pc": "ema", "pc@model": "model", "pc@ema1": "ema1", "pc@0.07": "0.07"}
    found = {title: samples(run.folder, title) for title in titles}
    assert {title: facts["weights"] for title, (_, facts) in found.items()} == titles
    assert {p.name: p.read_bytes() for p in (run.folder / "samples").glob("pc.*")} == before
    for title, (_, facts) in found.items():
        settings = json.loads((run.folder / "samples" / facts["shards in"] / "settings.json").read_text())
        assert settings["weights"] == titles[title]
    x = [numbers for numbers, _ in found.values()]
    assert min(np.abs(a - b).max() for k, a in enumerate(x) for b in x[:k]) > 1e-6
    assert "drawing 0 of 3, weights model" in run("sample", "--weights", "model")
    text = (run("report"), (run.folder / "report.html").read_text())[1]
    for title, weights in titles.items():
        assert f"{title}: 3 samples" in text and f"weights {weights}" in text


def test_rows_of_each_are_apart(run, monkeypatch):
    monkeypatch.setattr(sys.modules["scoresde.experiment.reports.report"], "baselines", lambda experiment: ([], ""))
    before = (run.folder / "likelihood" / "test.json").read_bytes()
    assert "computing 5 of" in run("likelihood", "--weights", "model")
    assert "computing 0 of" in run("likelihood")
    one, other = (json.loads((run.folder / "likelihood" / f"{t}.json").read_text()) for t in ("test", "test@model"))
    assert (one["weights"], other["weights"]) == ("ema", "model") and one["bits_per_dim"] != other["bits_per_dim"]
    assert one["rows in"] != other["rows in"] and (run.folder / "likelihood" / "test@model.csv").exists()
    assert json.loads(before)["bits_per_dim"] == one["bits_per_dim"]
    text = (run("report"), (run.folder / "report.html").read_text())[1]
    assert "probability flow, weights ema<" in text and "probability flow, weights model<" in text


def test_what_is_not_there_is_refused_with_what_is(run):
    said = run("sample", "--weights", "ema4", code=2)
    there = "model, ema (decay 0.1), ema1 (decay 0.9), ema2 (width 0.05), ema3 (width 0.1)"
    assert (
        "weights='ema4' are not in" in said
        and f"available are {there}, and any width such as 0.07, from 3 snapshots" in said
    )
    shutil.rmtree(run.folder / "averages")
    assert "no snapshots for other widths (training.posthoc_widths)" in run("likelihood", "--weights", "ema4", code=2)
    assert "no snapshots in" in run("likelihood", "--weights", "0.1", code=2)
    assert "weights='raw' is not known: give 'model'" in run("sample", "--weights", "raw", code=2)
    assert "--weights is a flag of sample, likelihood, evaluate, edit and push, not of report" in run(
        "report", "--weights", "ema", code=2
    )
    said = run("sample", "--weights", "ema1", "--config.sampling.weights=ema1", code=2)
    assert "--weights and --config.sampling.weights set the same value" in said


def test_a_model_has_the_weights_of_its_name(trained):
    made = experiment(**{k: v for k, v in AVERAGES.items() if v is not None}, likelihood__limit=5)
    workdir = Workdir(trained)
    tensors = last_checkpoint(workdir.checkpoints).tensors
    for which in ("model", "ema", "ema1"):
        state = workdir.model(made, which)[0].network.state_dict()
        assert all(torch.equal(v, tensors[f"{which}.{k}"]) for k, v in state.items())
    model, source = workdir.model(made, 0.07)
    assert source.step == 6 and source.digest != last_checkpoint(workdir.checkpoints).digest
    assert all(torch.equal(v, posthoc_average(workdir, 0.07)[k]) for k, v in model.network.state_dict().items())


class TestSnapshots:
    def test_one_is_in_memory_at_a_time(self, trained, monkeypatch):
        """When a snapshot is read, no tensor of the previous one is in memory."""
        alive, most = [], []

        def read(path):
            most.append(sum(ref() is not None for ref in alive))
            tensors, header = read_tensors(path)
            alive.extend(weakref.ref(t) for t in tensors.values())
            return tensors, header

        monkeypatch.setattr(MODULE, "read_tensors", read)
        posthoc_average(Workdir(trained), 0.07)
        assert most == [0, 0, 0] and len(alive) > 6

    def test_a_torn_one_is_refused_and_the_others_do_without(self, run):
        workdir = Workdir(run.folder)
        whole, middle = posthoc_average(workdir, 0.07), list_checkpoints(workdir.averages)[1]
        digest = combine_snapshots(workdir, 0.07).digest
        content = bytearray(middle.read_bytes())
        content[-1] ^= 1
        middle.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step-000000004.*damaged.*remove this one"):
            posthoc_average(workdir, 0.07)
        middle.unlink()
        without = posthoc_average(workdir, 0.07)
        assert combine_snapshots(workdir, 0.07).digest != digest, "samples of the one are not those of the other"
        assert any(not torch.equal(whole[k], v) for k, v in without.items())
        content[:100] = b"\0" * 100
        middle.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step-000000004\.safetensors is damaged.*remove this one"):
            posthoc_average(workdir, 0.07)

    def test_those_of_before_the_first_update_do_not_count(self, tmp_path):
        """If all steps are skipped, nothing is averaged, and there is no averaging profile."""
        average, workdir = PowerEMA(torch.nn.Linear(2, 1), 0.1), Workdir(tmp_path)
        write_snapshot(workdir, [average], 1, OneFile())
        assert not workdir.averages.exists()
        average.update(torch.nn.Linear(2, 1))
        write_snapshot(workdir, [average], 2, OneFile())
        tensors, header = read_tensors(list_checkpoints(workdir.averages)[0])
        write_tensors(workdir.averages / "step-000000001.safetensors", tensors, {**header, "step": 1, "updates": 0})
        assert torch.equal(posthoc_average(workdir, 0.1)["weight"], tensors["power0.weight"])

    def test_buffers_are_those_of_the_last_one(self, tmp_path):
        """Coefficients sum only approximately to 1, so averaging a table of frequencies would change it."""
        network, workdir = torch.nn.BatchNorm1d(3), Workdir(tmp_path)
        averages = [PowerEMA(network, std) for std in (0.05, 0.1)]
        for step in (1, 2, 3):
            network.running_mean.fill_(step)
            for average in averages:
                average.update(network)
            write_snapshot(workdir, averages, step, OneFile())
        stored = [(float(step), std) for step in (1, 2, 3) for std in (0.05, 0.1)]
        total = posthoc_coefficients(stored, 3.0, 0.2).sum()
        made = posthoc_average(workdir, 0.2)
        assert abs(float(total) - 1.0) > 0.01 and torch.allclose(made["weight"], total.float().expand(3))
        assert made["running_mean"].tolist() == [3.0, 3.0, 3.0] and int(made["num_batches_tracked"]) == 0

    @pytest.mark.parametrize("more", [0, 1])
    def test_one_that_was_replaced_meanwhile_is_noticed(self, run, monkeypatch, more):
        """Also with other weights after the same number of updates, as a second run in the folder writes them."""

        def read(path):
            tensors, header = read_tensors(path)
            write_tensors(path, {k: 2 * v for k, v in tensors.items()}, {**header, "updates": header["updates"] + more})
            return read_tensors(path)

        monkeypatch.setattr(MODULE, "read_tensors", read)
        with pytest.raises(CheckpointError, match="was replaced while it was read"):
            posthoc_average(Workdir(run.folder), 0.07)

    def test_how_far_the_profile_is_off(self):
        """Compared with integrals: three profiles on a fine grid, relative L2; 0 for a stored width."""
        stored = [(500.0, 0.05), (1000.0, 0.05), (1000.0, 0.1)]
        tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200.0

        def profile(t, std):
            gamma = power_exponent(std)
            return torch.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)

        wanted = profile(1000.0, 0.07)
        weights = posthoc_coefficients(stored, 1000.0, 0.07)
        made = sum(w * profile(*one) for w, one in zip(weights, stored, strict=True))
        off = float((made - wanted).norm() / wanted.norm())
        assert profile_error(stored, 1000.0, 0.07) == pytest.approx(off, rel=1e-2) and off > 1e-3
        assert profile_error(stored, 1000.0, 0.1) < 1e-6
