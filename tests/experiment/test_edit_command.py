"""scoresde edit: flags, what is refused, other events than pictures, the report and the commands of the docs."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from scoresde.experiment import Workdir
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.reports.report import report
from scoresde.samplers import Sampler
from tests.experiment.conftest import ROOT, called
from tests.experiment.edit_common import EDIT, INPAINT, RUN, SUPER, Edited, edited, other_run
from tests.experiment.training import experiment


class TestOtherEvents:
    def test_gaps_of_series_are_drawn(self, tmp_path):
        """In units of the data, for all inputs in one file."""
        x = np.random.default_rng(0).normal(5.0, 2.0, (20, 6))
        np.save(tmp_path / "train.npy", x)
        other_run(tmp_path, {"name": "Arrays", "train": str(tmp_path / "train.npy"), "shift": 5.0, "scale": 2.0})
        gaps = x[:2].copy()
        gaps[0, 2:4] = gaps[1, 5] = np.nan
        np.save(tmp_path / "gaps.npy", gaps)
        call = ["edit", "--workdir", tmp_path / "run", "--task=inpaint", "--samples=3", "--output", tmp_path / "out"]
        done = called(*call, "--input", tmp_path / "gaps.npy")
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out" / "samples.npz") as found:
            assert found["raw"].shape == (2, 3, 6) and found["mean"].shape == found["std"].shape == (2, 6)
            known = ~np.isnan(gaps)
            for k in range(2):
                assert np.allclose(found["raw"][k][:, known[k]], gaps[k, known[k]], rtol=1e-6)
                assert (found["std"][k][~known[k]] > 0).all() and (found["std"][k][known[k]] < 1e-6).all()
            assert np.allclose(found["x"], (found["raw"] - 5.0) / 2.0, atol=1e-5)
        assert (tmp_path / "out" / "overview.png").read_bytes().startswith(b"\x89PNG")
        for task, message in (
            ("super_resolve", "needs events (C, *sides)"),
            ("colorize", "needs events of three colors"),
        ):
            done = called(*call[:3], f"--task={task}", "--input", tmp_path / "gaps.npy")
            assert done.returncode == 2 and message in done.stderr, done.stderr

    def test_empty_cells_of_a_table_are_drawn(self, tmp_path):
        """Rows of the table with the samples, in the order of the inputs; what is known does not change."""
        pytest.importorskip("pyarrow")
        lines = [f"{k}.5,{k},{'xy'[k % 2]}" for k in range(9)]
        (tmp_path / "train.csv").write_text("\n".join(["a,b,kind", *lines]) + "\n")
        columns = [
            {"name": "RealColumn", "column": "a", "shift": 4.5, "scale": 2.5},
            {"name": "WholeColumn", "column": "b", "low": 0, "high": 8, "shift": 4.5, "scale": 2.5},
            {"name": "CategoryColumn", "column": "kind", "values": ["x", "y"], "shift": 1.0, "scale": 0.5},
        ]
        other_run(tmp_path, {"name": "Table", "file": str(tmp_path / "train.csv"), "columns": columns})
        (tmp_path / "in.csv").write_text("kind,b,a\ny,,2.5\n,3,\nx,1,\n")
        call = ["edit", "--workdir", tmp_path / "run", "--task=inpaint", "--samples=2", "--input", tmp_path / "in.csv"]
        done = called(*call, "--output", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        rows = [line.split(",") for line in (tmp_path / "out" / "samples.csv").read_text().replace('"', "").split()]
        assert rows[0] == ["a", "b", "kind"] and len(rows) == 7
        assert [(float(a), kind) for a, _, kind in rows[1:3]] == [(2.5, "y")] * 2
        assert [b for _, b, _ in rows[3:5]] == ["3", "3"] and [row[1:] for row in rows[5:]] == [["1", "x"]] * 2
        assert all(0 <= int(b) <= 8 and kind in ("x", "y") for _, b, kind in rows[1:])
        done = called(*call, "--noise-std=1")
        assert done.returncode == 2 and "noise_std=1 is not allowed for a table" in done.stderr, done.stderr
        (tmp_path / "whole.csv").write_text("kind,b,a\ny,2,2.5\n")
        done = called(*call[:-1], tmp_path / "whole.csv")
        assert done.returncode == 2 and "has no missing values: leave missing cells empty" in done.stderr, done.stderr


def test_samples_far_outside_of_the_data_are_counted(place, monkeypatch, capsys):
    """Planted: a sampler whose third sample has one value of 40 in a range from -1 to 1."""
    whole = Sampler.__call__

    def wild(self, *args, **options):
        result = whole(self, *args, **options)
        result.samples[result.samples.abs() > 2.5] = 0.0
        result.samples[options["noise"].indices == 2**16 + 2, 0, 3, 3] = 40.0
        return result

    monkeypatch.setattr(Sampler, "__call__", wild)
    found = edited(place, **EDIT)
    assert [one["strayed"] for one in found.facts["inputs"]] == [0, 1, 0]
    text = "1 of 9 samples are far outside of the data, of digit1: the sampler or its guidance was not stable"
    assert f"WARNING: edit: {text}" in capsys.readouterr().out
    assert text in report(experiment(**RUN), Workdir(place / "run")).read_text()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"editing__task": "inpant"}, ConfigError, "config.editing.task='inpant' is not known.*did you mean 'inpaint'"),
        ({}, ConfigError, "config.editing.task is missing: give one of edit, purify"),
        (EDIT | {"editing__input": []}, ConfigError, "config.editing.input is empty"),
        ({"editing__task": "edit"}, ConfigError, "config.editing.t is missing: the task 'edit' needs the time"),
        (EDIT | {"editing__t": 1.5}, ConfigError, "config.editing.t=1.5 is not allowed: give a finite number > 0.0 and < 1.0"),
        (EDIT | {"editing__t": 0}, ConfigError, "config.editing.t=0.* is not allowed"),
        (SUPER | {"editing__t": 0.3}, ConfigError, "t=0.3 is not allowed for the task 'super_resolve': it is for edit, purify"),
        (EDIT | {"editing__noise_std": 1.0}, ConfigError, "noise_std=1.0 is not allowed for the task 'edit'"),
        (EDIT | {"editing__samples": 0}, ConfigError, "config.editing.samples=0 is not allowed"),
        (EDIT | {"editing__sampler": "unpic"}, ConfigError, "sampler='unpic' is not known.*did you mean 'unipc'"),
        (EDIT | {"editing__condition": {"label": 3}}, ConfigError, "config.editing: condition.label is not known"),
        (EDIT | {"editing__input": "nowhere.png"}, FileNotFoundError, "input='nowhere.png': no such file"),
        (INPAINT, ValueError, "digit0.png has no missing values: make missing pixels transparent, or give --mask FILE"),
        (INPAINT | {"editing__mask": "nowhere.png"}, FileNotFoundError, "mask='nowhere.png': no such file"),
        ({"editing__task": "super_resolve"}, ValueError, "digit0.png has 8 x 8 pixels, as the model's .*give --factor N"),
        (SUPER | {"editing__factor": 3}, ValueError, "factor=3 does not divide the side 8"),
        ({"editing__task": "colorize"}, ConfigError, "task='colorize' needs events of three colors"),
        (SUPER | {"editing__guidance": {"name": "TweedieMoment"}}, ConfigError, "did you mean 'TweedieMoments'"),
        (SUPER | {"editing__guidance": {"name": "ClassifierFree"}}, ConfigError, "ClassifierFree is not allowed here"),
        (SUPER | {"editing__guidance": {"name": "TweedieMoments", "iterations": 0}}, ConfigError, "guidance.iterations=0"),
        (SUPER | {"editing__guidance": {"weight": 1.0}}, ConfigError, "config.editing.guidance=.* is not allowed: give a node"),
        (EDIT | {"samplers": "{'a': {'name': 'DDIM'}, 'b': {'name': 'UniPC'}}"}, ConfigError, "a, b; give one, e.g. --sampler a"),
        (EDIT | {"samplers": "{'a': {'name': 'Fast', 'steps': 4}}"}, ConfigError, "a Fast sampler is fitted to one score"),
        (EDIT | {"editing__weights": "ema7"}, Exception, "weights='ema7' are not in"),
    ],
)  # fmt: skip
def test_what_is_refused(edit_folder, options, error, message):
    """Each with its name, before anything is written."""
    with pytest.raises(error, match=message):
        edited(edit_folder, **options)
    assert not list((edit_folder / "run").rglob("edits/*"))


def test_a_wrong_time_is_an_error_before_the_first_message(edit_folder, capsys):
    with pytest.raises(ConfigError, match=r"config\.editing\.t=1\.5"):
        edited(edit_folder, **EDIT | {"editing__t": 1.5})
    assert "drawing" not in capsys.readouterr().out


def test_pictures_of_another_size(place):
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(place / "pictures" / "wide.png")
    for options, needed in (
        (EDIT, "the task 'edit' of this model needs 8 x 8 pixels"),
        (INPAINT | {"editing__mask": str(place / "mask.png")}, "the task 'inpaint' of this model needs 8 x 8 pixels"),
        (SUPER, "give pictures of 8 x 8 pixels, or of a size that is smaller by the factor 2"),
        (
            SUPER | {"editing__factor": 0, "editing__input": [str(place / "pictures" / "wide.png")]},
            "give pictures of 8 x 8 pixels, or of a size that is smaller by a whole factor",
        ),
    ):
        with pytest.raises(ValueError, match=f"wide.png has 12 x 9 pixels: {needed}"):
            edited(place, **options)


class TestCommand:
    def test_flags(self, place):
        done = called(
            "edit", "--workdir", place / "run", "--task", "super_resolve", "--factor=2", "--input", place / "pictures" / "*.png",
            "--samples", 2, "--guidance", "IsotropicMoments", "--config.editing.guidance.iterations=7", "--noise-std=0.5",
            "--output", place / "out", "--sampler", "unipc",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "super_resolve: drawing 6 of 6 samples, 2 for each of 3 inputs, by unipc" in done.stdout
        facts = Edited(place / "out").facts
        assert json.loads(facts["task guidance"]) == {"name": "IsotropicMoments", "iterations": 7}
        assert (facts["noise_std"], facts["samples"]) == (0.5, 2)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--tsk=edit"], "--tsk=edit is not known; did you mean '--task'"),
            (["--task=edit", "--config.editing.task=edit"], "--task and --config.editing.task set the same value"),
            (
                ["--guidance=A", "--config.editing.guidance.name=B"],
                "--guidance and --config.editing.guidance.name set the same",
            ),
            (["--task=edit", "--t=0.1", "--samples=two", "--input=a"], "config.editing.samples='two' is not allowed"),
            (["--draws=2"], "--draws is a flag of likelihood, not of edit"),
            (["--task=edit", "--input"], "argument --input: expected at least one argument"),
        ],
    )
    def test_wrong_flags(self, edit_folder, flags, message):
        done = called("edit", "--workdir", edit_folder / "run", *flags)
        assert done.returncode == 2 and message in done.stderr, done.stderr


class TestReport:
    def page(self, place, **options):
        return report(experiment(**RUN, **options), Workdir(place / "run")).read_text()

    def test_results_in_the_work_folder_are_shown(self, place):
        assert "<h2>Edits</h2>" not in self.page(place)
        found = edited(place, **SUPER)
        page = self.page(place)
        assert f"{found.folder.name}: super_resolve, 3 samples for each of 3 inputs, by UniPC(" in page
        rows = [one["rmse of the mean"] for one in found.facts["inputs"]]
        assert f"root mean square error of the mean {np.mean(rows):.3g} over 3 whole inputs" in page
        (found.folder / "overview.png").write_bytes(b"another")
        assert "overview.png is not the picture of these results. Run the same scoresde edit again" in self.page(place)
        (found.folder / "edit.json").unlink()
        assert "3 batches are drawn, not finished. Run the same scoresde edit again" in self.page(place)

    def test_results_of_an_earlier_checkpoint_say_so(self, place):
        edited(place, **EDIT)
        more = {**RUN, "training__steps": 4}
        train_here(experiment(**more), Workdir(place / "run"))
        page = report(experiment(**more), Workdir(place / "run")).read_text()
        assert "drawn with checkpoint step-000000002.safetensors, the last is step-000000004.safetensors" in page


def test_the_commands_of_the_page(place, monkeypatch):
    """Every command of docs/editing.md that edits, with models that are hardly trained."""
    page = (ROOT / "docs" / "editing.md").read_text()
    commands = re.findall(r"^    scoresde (edit --workdir runs/.*)$", page, re.M)
    assert len(commands) == 5
    monkeypatch.chdir(place)
    (place / "runs").mkdir()
    (place / "run").rename(place / "runs" / "digits")
    train_here(experiment(**RUN, data__labels=True), Workdir(place / "runs" / "classes"))
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], {})
    for command in commands:
        done = called(*shlex.split(command))
        assert done.returncode == 0, (command, done.stderr)
    assert (place / "restored" / "overview.png").exists()
    assert len(list((place / "runs" / "digits" / "edits").iterdir())) == 3
