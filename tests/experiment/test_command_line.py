"""scoresde train | sample | likelihood | report: their results and their errors.

`command` is a process of its own, `here` the same command line in this one, without the seconds of a new process.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from scoresde.experiment import ConfigError, Experiment, Workdir, apply_overrides, load_config
from scoresde.experiment.folder.checkpoint import list_checkpoints, read_checkpoint

from .conftest import ROOT, TINY, TINY_LEVELS, called

LONG = pytest.mark.long
NO_STEPS = {"samplers__predictor-corrector__steps": None}


@pytest.mark.parametrize("process", ["vp", pytest.param("subvp", marks=LONG), pytest.param("ve", marks=LONG)])
@pytest.mark.parametrize("network", ["MLP", pytest.param("UNet", marks=LONG)])
def test_the_whole_path(command, here, process, network):
    for verb, call in (("train", command), ("sample", here), ("likelihood", here), ("report", here)):
        done = call(verb, process, **(TINY_LEVELS if network == "MLP" else {}))
        assert done.returncode == 0, done.stderr
    run = command.workdir
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [2, 4, 6]
    assert all(math.isfinite(float(r["loss"])) for r in rows)
    assert [p.name for p in list_checkpoints(run / "checkpoints")] == [f"step-{n:09d}.safetensors" for n in (2, 4, 6)]
    for name in ("predictor-corrector", "probability-flow"):
        with np.load(run / "samples" / f"{name}.npz") as file:
            assert file["x"].shape == file["raw"].shape == (5, 1, 8, 8)
            assert set(np.unique(file["raw"])) <= set(range(17))
        assert (run / "samples" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with open(run / "likelihood" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["index"]) for r in rows] == list(range(5))
    summary = json.loads((run / "likelihood" / "test.json").read_text())
    bits = [float(r["bits_per_dim"]) for r in rows]
    assert summary["bits_per_dim"] == pytest.approx(np.mean(bits))
    assert summary["standard_error"] == pytest.approx(np.std(bits, ddof=1) / math.sqrt(5))
    page = (run / "report.html").read_text()
    for wanted in (
        "bits/dim",
        "independent pixel histogram",
        "GaussianMixture",
        "id='timings'",
        "id='settings'",
        "torch",
    ):
        assert wanted in page
    assert page.count("data:image/png;base64,") >= 5
    assert not re.search(r"(src|href)='(?!data:)", page), "the page must not need any other file"


def test_training_goes_on_from_the_last_checkpoint_and_ends_where_it_would_have(here, tmp_path):
    """After a kill at step 4 of 6, the checkpoint of step 6 equals that of an undisturbed run bit for bit."""
    assert here("train").returncode == 0
    whole = read_checkpoint(list_checkpoints(here.workdir / "checkpoints")[-1])
    broken = type(here)(tmp_path / "broken")
    assert broken("train").returncode == 0
    list_checkpoints(broken.workdir / "checkpoints")[-1].unlink()
    again = broken("train")
    assert again.returncode == 0
    assert "resumed from step-000000004" in again.stdout
    resumed = read_checkpoint(list_checkpoints(broken.workdir / "checkpoints")[-1])
    assert whole.tensors.keys() == resumed.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert tensor.equal(resumed.tensors[name]), name
    assert (here.workdir / "metrics.csv").read_text().count("\n") == (broken.workdir / "metrics.csv").read_text().count(
        "\n"
    )
    done = broken("train")
    assert "already trained to step 6 of 6" in done.stdout


@LONG
def test_batch_size_of_evaluation_does_not_matter(command):
    assert command("train").returncode == 0
    found = []
    for size in (5, 2):
        assert command("sample", sampling__batch_size=size).returncode == 0
        assert command("likelihood", likelihood__batch_size=size, likelihood__solver=None).returncode == 0
        with np.load(command.workdir / "samples" / "predictor-corrector.npz") as file:
            x = file["x"]
        found.append((x, json.loads((command.workdir / "likelihood" / "test.json").read_text())["bits_per_dim"]))
    assert np.abs(found[0][0] - found[1][0]).max() < 1e-4
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-3)


class TestRefusals:
    """Exit code 2, one message, no traceback, and no files."""

    def assert_refused(self, done, *wanted):
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        for text in wanted:
            assert text in done.stderr, done.stderr

    def test_unknown_key(self, here):
        self.assert_refused(here("train", training__stepz=3), "config.training.stepz", "did you mean 'steps'")
        self.assert_refused(here("train", trainin__steps=3), "config.trainin ", "did you mean 'training'")
        # also a section that the config does not have
        self.assert_refused(here("train", guidence__name="x"), "config.guidence ", "did you mean 'guidance'")
        self.assert_refused(
            here("train", sde__beta_mx=3), "config.sde.beta_mx is not known: VPSDE", "did you mean 'beta_max'"
        )
        assert not here.workdir.exists()

    def test_unknown_class(self, here):
        self.assert_refused(
            here("train", sde__name="VPSED"), "config.sde.name='VPSED'", "SubVPSDE", "did you mean 'VPSDE'"
        )
        self.assert_refused(here("train", sde__name="MLP"), "config.sde: MLP")

    def test_bad_value(self, here):
        self.assert_refused(here("train", sde__beta_min=-1), "beta_min=-1.0 is not allowed: give a finite number > 0.0")
        self.assert_refused(here("train", training__batch_size="many"), "batch_size='many'", "whole number >= 1")
        self.assert_refused(here("train", objective__weighting="likelyhood"), "did you mean 'likelihood'")
        self.assert_refused(here("train", likelihood__split="tset"), "did you mean 'test'")
        self.assert_refused(here("train", device="gpu"), "config.device='gpu' cannot be used")
        self.assert_refused(here("train", network__channels=12), "channels=12", "multiple of 8")
        assert not here.workdir.exists()

    def test_unknown_flag(self, here):
        self.assert_refused(here("train", "vp", "--worker=3"), "--worker=3 is not known", "did you mean '--workdir'")
        self.assert_refused(called("train", "--confg=x"), "--confg=x is not known", "did you mean '--config'")

    def test_missing_config(self, here):
        self.assert_refused(here("train", "/nonexistent.py"), "no such file")
        folder = here.workdir.parent
        done = called("train", "--config", folder, "--workdir", here.workdir)
        self.assert_refused(done, "is a folder: give a Python file")

    def test_config_that_raises(self, here, tmp_path):
        bad = tmp_path / "bad.py"
        bad.write_text("def get_config():\n    return 1 / 0\n")
        self.assert_refused(here("train", bad), f"'{bad}', line 2: ZeroDivisionError")
        bad.write_text("import sys\n\nsys.exit(0)\n")
        self.assert_refused(here("train", bad), "line 3: SystemExit")
        bad.write_text("def config():\n    return {}\n")
        self.assert_refused(here("train", bad), "has no function get_config()")

    @pytest.mark.parametrize("section", ["training", "sampling", "samplers", "likelihood", "model", "objective"])
    def test_a_section_that_is_none(self, here, section):
        self.assert_refused(here("train", **{section: 7}), f"config.{section}=7: give a ")

    def test_a_value_out_of_range(self, here):
        self.assert_refused(here("train", training__ema_decay=1.0), "config.training.ema_decay=1.0 is not allowed")
        self.assert_refused(here("train", seed=2**63), f"config.seed={2**63} is not allowed")
        self.assert_refused(here("train", likelihood__t_min=1.0), "config.likelihood.t_min=1.0 is not allowed")
        for name in ("", "a/b", "/a"):
            node = {name: {"name": "ProbabilityFlowODE"}}
            self.assert_refused(here("train", samplers=node, **NO_STEPS), f"config.samplers: {name!r} is")
        assert not here.workdir.exists()

    def test_no_sampler_draws_nothing(self, here):
        self.assert_refused(here("sample", samplers={}, **NO_STEPS), "config.samplers is empty")

    def test_a_nested_name_is_answered_with_its_kind(self, here):
        done = here("train", **{"samplers__predictor-corrector__corrector__name": "Langevn"})
        self.assert_refused(
            done,
            "allowed are AnnealedLangevin, BatchLangevin, Langevin, MALA, Preconditioned, Resampling, UnderdampedLangevin, or",
            "did you mean 'Langevin'",
        )

    def test_flags_that_would_be_ignored(self):
        self.assert_refused(called("inspect", "x.npy", "--workdir", "x"), "--workdir is a flag of", "not of inspect")
        self.assert_refused(
            called("inspect", "x.npy", "--config.seed=1"), "--config.seed is for commands with a config"
        )

    def test_missing_checkpoint(self, here):
        for verb in ("sample", "likelihood"):
            self.assert_refused(here(verb), "contains no run", "train first")
        assert here("train", training__checkpoint_every=100).returncode == 0
        for path in list_checkpoints(here.workdir / "checkpoints"):
            path.unlink()
        self.assert_refused(here("train", training__batch_size=4), "it has no checkpoint and may be deleted")
        self.assert_refused(
            here("sample", training__checkpoint_every=100), "no checkpoint", "untrained weights are never used"
        )

    def test_folder_of_another_config(self, here):
        assert here("train").returncode == 0
        before = sorted(p.name for p in here.workdir.rglob("*"))
        done = here("train", network__channels=16)
        self.assert_refused(done, "belongs to another config", "network.channels: 8 -> 16")
        done = here("train", "ve")
        self.assert_refused(done, "sde.name: 'VPSDE' -> 'VESDE'")
        assert "may be deleted" not in done.stderr
        assert sorted(p.name for p in here.workdir.rglob("*")) == before

    def test_folder_with_other_files(self, here):
        here.workdir.mkdir()
        (here.workdir / "thesis.tex").write_text("mine")
        self.assert_refused(here("train"), "contains other files and no config.json")
        assert (here.workdir / "thesis.tex").read_text() == "mine"

    def test_evaluation_settings_may_change(self, here):
        assert here("train", **TINY).returncode == 0
        assert here("sample", sampling__seed=7, **TINY).returncode == 0

    def test_too_few_arguments(self):
        self.assert_refused(called("train"), "--config", "--workdir")
        self.assert_refused(called("tarin"), "train")


def test_the_folder_has_its_config(here):
    """Without --config a command uses the folder's config.json, and overrides are compared with it."""
    workdir = str(here.workdir)
    refused = called("train", "--workdir", workdir)
    assert refused.returncode == 2 and "contains no config.json" in refused.stderr
    assert here("train").returncode == 0
    before = (here.workdir / "config.json").read_text()
    assert "already trained to step 6 of 6" in called("train", "--workdir", workdir).stdout
    done = called("sample", "--workdir", workdir, "--config.sampling.count=2")
    assert done.returncode == 0 and "2 samples by predictor-corrector" in done.stdout
    experiment = Experiment.from_config(load_config(here.workdir / "config.json"))
    model, checkpoint = Workdir(workdir).model(experiment)
    assert checkpoint.step == 6 and model(torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5)).shape == (2, 1, 8, 8)
    other = called("sample", "--workdir", workdir, "--config.network.channels=16")
    assert other.returncode == 2 and "network.channels: 8 -> 16" in other.stderr
    assert (here.workdir / "config.json").read_text() == before
    (here.workdir / "config.json").write_text(before[:40])
    torn = called("sample", "--workdir", workdir)
    assert torn.returncode == 2 and "is not the config.json of a work folder" in torn.stderr


class TestCheck:
    """scoresde check: no folder, no training, an exit code."""

    def test_a_process_that_holds(self):
        done = called("check", "--config", ROOT / "configs" / "vp" / "digits.py")
        assert done.returncode == 0, done.stderr
        assert "kernel covariance from the SDE" in done.stdout and "FAIL" not in done.stdout

    def test_a_process_that_does_not(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "from scoresde.sde import VPSDE\n\n\nclass Mine(VPSDE):\n    def diffusion(self, t):\n        return self.beta(t)\n"
        )
        config = tmp_path / "config.py"
        config.write_text(
            "import sys\nfrom pathlib import Path\n\nimport ml_collections\n\n"
            "sys.path.insert(0, str(Path(__file__).parent))\n\n\n"
            "def get_config():\n    return ml_collections.ConfigDict({'sde': {'name': 'mine:Mine', 'beta_max': 4.0}})\n"
        )
        done = called("check", "--config", config)
        assert done.returncode == 1, done.stderr
        assert "is a square root missing in diffusion?" in done.stdout

    def test_a_module_in_the_current_folder(self, tmp_path, monkeypatch):
        """Python's path of a console script has the folder of the script, not the current folder."""
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "lying_here.py").write_text(
            "from scoresde.sde import VPSDE\n\n\nclass Mine(VPSDE):\n    pass\n"
        )
        config = tmp_path / "config.py"
        config.write_text(
            "import ml_collections\n\n\n"
            "def get_config():\n    return ml_collections.ConfigDict({'sde': {'name': 'lying_here:Mine'}})\n"
        )
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
        monkeypatch.chdir(tmp_path)
        done = called("check", "--config", config)
        assert done.returncode == 2 and "is its folder on PYTHONPATH, or the current one?" in done.stderr
        monkeypatch.chdir(tmp_path / "here")
        before = list(sys.path)
        assert called("check", "--config", config).returncode == 0 and sys.path == before

    def test_what_cannot_be_built(self):
        done = called("check", "--config", ROOT / "configs" / "vp" / "digits.py", "--config.sde.name=VPSED")
        assert done.returncode == 2
        assert "did you mean 'VPSDE'" in done.stderr


def test_an_overridden_name_starts_its_node_anew(here):
    done = here("train", sde__name="VESDE", sde__sigma_max=20.0)
    assert done.returncode == 0, done.stderr
    config = json.loads((here.workdir / "config.json").read_text())
    assert config["sde"] == {"name": "VESDE", "sigma_max": 20.0}


def test_sections_that_a_config_leaves_out_can_be_set():
    config = ConfigDict({"sde": {"name": "VPSDE"}})
    apply_overrides(config, {"sampling.count": "3", "training.steps": "2", "seed": "4"})
    assert config.sampling.count == 3 and config.training.steps == 2 and config.seed == 4
    for key, near in (("smapling.count", "did you mean"), ("sampling.a.b", "sampling.a"), ("sede", "sede")):
        with pytest.raises(ConfigError, match=near):
            apply_overrides(config, {key: "1"})


def test_a_report_of_an_unfinished_run_says_what_is_missing(here):
    assert here("train").returncode == 0
    assert here("report").returncode == 0
    page = (here.workdir / "report.html").read_text()
    assert "not drawn yet. Run scoresde sample." in page
    assert "Not computed yet: run scoresde likelihood" in page


def test_real_data_is_reported_in_nats(tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    config = tmp_path / "points.py"
    config.write_text(
        f"""
import ml_collections

def get_config():
    return ml_collections.ConfigDict({{
        "data": {{"name": "Arrays", "train": {str(tmp_path / "points.npy")!r}, "scale": 2.0}},
        "sde": {{"name": "VPSDE"}},
        "network": {{"name": "MLP", "width": 16, "depth": 1}},
        "objective": {{"name": "DenoisingScoreMatching"}},
        "training": {{"steps": 3, "batch_size": 4}},
        "samplers": {{"flow": {{"name": "ProbabilityFlowODE"}},
                     "karras": {{"name": "PredictorCorrector", "steps": 4,
                                "grid": {{"name": "karras", "rho": 5.0}}}}}},
        "likelihood": {{"divergence": {{"name": "Exact"}}}},
    }})
"""
    )
    for verb in ("train", "sample", "likelihood", "report"):
        done = called(verb, "--config", config, "--workdir", tmp_path / "run")
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "likelihood" / "test.json").read_text())
    assert "bits_per_dim" not in summary
    assert math.isfinite(summary["nats"])
    # x = r / 2 of two coordinates: p(r) = p(x) / 4
    assert summary["nats_of_data"] == pytest.approx(summary["nats"] - math.log(4.0))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "nats, log-density of the original data" in page and f"{summary['nats_of_data']:.3f}" in page
