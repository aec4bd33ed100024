"""scoresde edit: tasks for files, their results, restarts and processes, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde._files import read_sealed
from scoresde.data.pictures import picture_format
from scoresde.experiment import Workdir, WorkdirError, edit_files, load_config
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.reports.report import report
from scoresde.noise import NoiseSource
from scoresde.operators import Grayscale, SuperResolution
from scoresde.samplers import Sampler
from scoresde.tasks import edit
from tests.experiment.conftest import ROOT, called
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "training__steps": 2, "training__schedule": "constant", "training__preview_every": 0,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 3}}",
    "editing__samples": 3, "editing__batch_size": 4,
}  # fmt: skip
EDIT = {"editing__task": "edit", "editing__t": 0.3}
INPAINT = {"editing__task": "inpaint"}
ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Of samples of a model that is hardly trained, which may be large."""
SUPER = {"editing__task": "super_resolve", "editing__factor": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of digits, five test digits as pictures, and a mask."""
    folder = tmp_path_factory.mktemp("edit")
    made = experiment(**RUN)
    train_here(made, Workdir(folder / "run"))
    (folder / "pictures").mkdir()
    form = picture_format(made.data)
    for k in range(3):
        (folder / "pictures" / f"digit{k}.png").write_bytes(form.png(made.data.test.raw[k]))
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:5, 3:7] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """A copy of that folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


class Edited:
    """The results of a command."""

    def __init__(self, folder):
        self.folder = folder
        self.facts = read_sealed(folder / "edit.json")

    def __getitem__(self, name):
        """An array of samples.npz of all inputs, (N, S, ...)."""
        return np.stack([np.load(self.folder / one["name"] / "samples.npz")[name] for one in self.facts["inputs"]])

    def contents(self):
        """The bytes of all files but the record, which has times."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and "shards-" not in str(path))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if path.name != "edit.json"}

    def shards(self):
        """When each shard was written."""
        return {path.name: path.stat().st_mtime_ns for path in self.folder.glob("shards-*/*.npz")}


def edited(place, processes=1, **options):
    inputs = {"editing__input": [str(place / "pictures")]}
    return Edited(edit_files(experiment(**{**RUN, **inputs, **options}), Workdir(place / "run"), processes))


class TestTasks:
    def test_edits_are_those_of_the_task_keyed_by_input_and_sample(self, place):
        """Batches of 4 of 9 samples give what one call for each sample gives."""
        found = edited(place, **EDIT)
        made = experiment(**RUN)
        model, _ = Workdir(place / "run").model(made)
        for i in range(3):
            guide = made.data.transform.encode(made.data.test.raw[i][None], None, dtype=torch.float32)
            for s in range(3):
                noise = NoiseSource(0, torch.tensor([i * 2**16 + s]))
                one = edit(made.samplers["unipc"], model.sde, model, guide, 0.3, noise=noise)
                assert np.abs(one.samples.numpy()[0] - found["x"][i, s]).max() < 1e-5
        assert not np.array_equal(found["x"][0, 0], found["x"][0, 1])
        raw = found["raw"].astype(float)
        assert np.allclose(found["mean"], raw.mean(1)) and np.allclose(found["std"], raw.std(1, ddof=1))
        form = picture_format(made.data)
        for s in range(3):
            assert np.array_equal(form.read(found.folder / "digit1" / f"sample-{s}.png")[0], raw[1, s])

    def test_more_samples_begin_with_the_same_ones(self, place):
        few, many = edited(place, **EDIT, editing__samples=2), edited(place, **EDIT, editing__samples=5)
        assert few.folder != many.folder and np.abs(few["x"] - many["x"][:, :2]).max() < 1e-5

    def test_inpainting_keeps_what_is_known(self, place):
        found = edited(place, **INPAINT, editing__mask=str(place / "mask.png"))
        known = np.asarray(Image.open(place / "mask.png")) > 0
        whole = experiment(**RUN).data.test.raw[:3].numpy()
        raw = found["raw"][:, :, 0]
        assert (raw[:, :, known] == whole[:, 0][:, None, known]).all()
        assert (raw[:, :, ~known] != whole[:, 0][:, None, ~known]).any()
        assert (found["std"][:, 0, known] == 0).all() and (found["std"][:, 0, ~known] > 0).any()
        rmse = np.sqrt(((found["mean"] - whole) ** 2).mean((1, 2, 3)))
        assert [one["rmse of the mean"] for one in found.facts["inputs"]] == pytest.approx(rmse.tolist())

    def test_transparent_pixels_are_drawn_like_those_of_a_mask(self, place):
        by_mask = edited(place, **INPAINT, editing__mask=str(place / "mask.png"))
        alpha = np.asarray(Image.open(place / "mask.png"))
        for file in (place / "pictures").iterdir():
            Image.fromarray(np.stack([np.asarray(Image.open(file)), alpha], -1), "LA").save(file)
        found = edited(place, **INPAINT)
        assert np.array_equal(found["x"], by_mask["x"]) and "rmse of the mean" not in found.facts["inputs"][0]

    def test_a_folder_of_masks_has_one_for_each_input(self, place):
        (place / "masks").mkdir()
        for k in range(3):
            mask = np.full((8, 8), 255, np.uint8)
            mask[k] = 0
            Image.fromarray(mask).save(place / "masks" / f"digit{k}.png")
        found = edited(place, **INPAINT, editing__mask=str(place / "masks"))
        whole = experiment(**RUN).data.test.raw[:3].numpy()
        for k in range(3):
            rows = [row for row in range(8) if row != k]
            assert (found["raw"][k][:, 0, rows] == whole[k][0, rows]).all()
        (place / "masks" / "digit2.png").rename(place / "masks" / "digt2.png")
        with pytest.raises(FileNotFoundError, match="no picture with the name 'digit2'; did you mean 'digt2'"):
            edited(place, **INPAINT, editing__mask=str(place / "masks"))

    @pytest.mark.parametrize("guidance", ["TweedieMoments", "IsotropicMoments"])
    def test_higher_resolution_has_the_given_means(self, place, guidance):
        found = edited(place, **SUPER, editing__guidance={"name": guidance})
        raw = experiment(**RUN).data.test.raw[:3]
        x = experiment(**RUN).data.transform.encode(raw, None, dtype=torch.float32)
        wanted = SuperResolution(2).apply(x)[:, None]
        drawn = torch.from_numpy(found["x"])
        means = SuperResolution(2).apply(drawn.flatten(0, 1)).unflatten(0, (3, 3))
        assert (means - wanted).abs().max() < ROUNDING * drawn.abs().max()

    def test_low_resolutions_are_measurements_by_their_size(self, place):
        """Arrays of levels, of two sizes: the factor of each follows from its size."""
        shutil.rmtree(place / "pictures")
        (place / "pictures").mkdir()
        raw = [np.full((1, side, side), side) for side in (2, 4, 4)]
        for k, low in enumerate(raw):
            np.save(place / "pictures" / f"low{k}.npy", low)
        found = edited(place, editing__task="super_resolve")
        for k, low in enumerate(raw):
            x = experiment(**RUN).data.transform.encode(torch.from_numpy(low)[None], None, dtype=torch.float32)
            drawn = torch.from_numpy(found["x"][k])
            means = SuperResolution(8 // low.shape[-1]).apply(drawn)
            assert (means - x).abs().max() < ROUNDING * drawn.abs().max()
        assert [e["first"] for e in found.facts["shards"]] == [0, 3, 7], "a batch has measurements of one size"

    def test_maps_are_distances_to_the_mean(self, place):
        found = edited(place, **EDIT | {"editing__task": "anomaly_map"})
        made = experiment(**RUN)
        y = made.data.transform.encode(made.data.test.raw[:3], None, dtype=torch.float32).numpy()
        distance = np.abs(found["x"].mean(1) - y) / made.data.transform.width
        assert np.allclose(found["map"], distance, atol=1e-4)
        means = [one["mean of the map"] for one in found.facts["inputs"]]
        assert means == pytest.approx(distance.mean((1, 2, 3)).tolist(), rel=1e-4)
        assert (found.folder / "digit0" / "map.png").exists()

    def test_noise_of_the_measurement_is_in_units_of_the_data(self, place, monkeypatch):
        """A level of 17 between -1 and 1 is 2/17 wide."""
        import scoresde.experiment.jobs.editing as job

        seen = []
        whole = job.super_resolve
        monkeypatch.setattr(job, "super_resolve", lambda *a, **k: seen.append(k["noise_std"]) or whole(*a, **k))
        edited(place, **SUPER, editing__noise_std=2.0)
        assert seen and seen[0] == pytest.approx(4 / 17)


class TestRestart:
    @pytest.fixture
    def whole(self, place):
        return edited(place, **SUPER)

    def test_only_what_is_missing_is_drawn(self, place, whole):
        contents, shards = whole.contents(), whole.shards()
        assert len(shards) == 3
        lost = next(whole.folder.glob("shards-*/*.npz"))
        lost.unlink()
        (whole.folder / "edit.json").unlink()
        (whole.folder / "digit1" / ".sheet.png.1.tmp").write_bytes(b"half")
        again = edited(place, **SUPER)
        assert again.contents() == contents
        assert {k: v for k, v in again.shards().items() if k != lost.name} == {
            k: v for k, v in shards.items() if k != lost.name
        }

    def test_two_processes(self, place, whole):
        contents, digests = whole.contents(), [entry["sha256"] for entry in whole.facts["shards"]]
        shutil.rmtree(whole.folder)
        again = edited(place, 2, **SUPER)
        assert again.contents() == contents and again.facts["processes"] == 2
        assert [entry["sha256"] for entry in again.facts["shards"]] == digests

    def test_ranks_of_a_launcher(self, place, whole, monkeypatch):
        contents = whole.contents()
        shutil.rmtree(whole.folder)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        made = experiment(**RUN, **SUPER, editing__input=[str(place / "pictures")])
        assert edit_files(made, Workdir(place / "run")) is None
        monkeypatch.setenv("RANK", "0")
        assert edited(place, **SUPER).contents() == contents

    def test_the_size_of_batches_changes_rounding_only(self, place, whole):
        x = whole["x"]
        shutil.rmtree(whole.folder)
        assert np.abs(edited(place, **SUPER, editing__batch_size=9)["x"] - x).max() < 1e-4

    def test_other_settings_and_other_inputs_have_their_own_folder(self, place, whole):
        folders = {whole.folder}
        for options in ({"editing__seed": 1}, {"editing__noise_std": 0.5}):
            folders.add(edited(place, **{**SUPER, **options}).folder)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "pictures" / "digit1.png")
        folders.add(edited(place, **SUPER).folder)
        assert len(folders) == 4 and whole.contents() == Edited(whole.folder).contents()


class TestOutput:
    def test_a_folder_takes_the_results_of_one_command(self, place):
        output = {"editing__output": str(place / "out")}
        first = edited(place, **EDIT, **output)
        assert first.folder == place / "out" and edited(place, **EDIT, **output).contents() == first.contents()
        with pytest.raises(
            WorkdirError, match=r"out has results of other settings or inputs: .*Changes: t: 0.3 -> 0.4"
        ):
            edited(place, **EDIT | {"editing__t": 0.4}, **output)

    def test_a_folder_with_other_files_is_refused(self, place):
        with pytest.raises(WorkdirError, match="contains other files: give a new or empty folder"):
            edited(place, **EDIT, editing__output=str(place / "pictures"))
        with pytest.raises(WorkdirError, match="is a file: give a folder"):
            edited(place, **EDIT, editing__output=str(place / "mask.png"))
        assert sorted(path.name for path in (place / "pictures").iterdir()) == [f"digit{k}.png" for k in range(3)]

    def test_links_in_the_work_folder_are_not_followed(self, place):
        (place / "run" / "edits").symlink_to(place / "pictures")
        with pytest.raises(WorkdirError, match="edits is a symbolic link"):
            edited(place, **EDIT)


OTHER = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "data": %s, "sde": {"name": "VPSDE"}, "network": {"name": "MLP", "width": 8, "depth": 1},
        "objective": {"name": "DenoisingScoreMatching"}, "training": {"steps": 2, "batch_size": 4},
        "samplers": {"unipc": {"name": "UniPC", "steps": 3}},
    })
"""


def other_run(folder, data):
    """A run of other data than pictures."""
    (folder / "config.py").write_text(OTHER % data)
    made = Experiment.from_config(load_config(folder / "config.py"))
    train_here(made, Workdir(folder / "run"))
    return made


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


def test_colors_have_the_given_grays(tmp_path):
    """Of a colored picture, its luminance; a gray picture is the measurement itself."""
    levels = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "train.npy", levels)
    made = other_run(tmp_path, {"name": "Arrays", "train": str(tmp_path / "train.npy"), "levels": 256})
    Image.fromarray(levels[0].transpose(1, 2, 0)).save(tmp_path / "color.png")
    Image.fromarray(levels[0, 0]).save(tmp_path / "gray.png")
    done = called(
        "edit", "--workdir", tmp_path / "run", "--task=colorize", "--samples=2", "--input", tmp_path / "color.png",
        tmp_path / "gray.png", "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, transform = Edited(tmp_path / "out"), made.data.transform
    assert ["rmse of the mean" in one for one in found.facts["inputs"]] == [True, False]
    for k, raw in enumerate((levels[0], np.stack([levels[0, 0]] * 3))):
        x = transform.encode(torch.from_numpy(raw)[None], None, dtype=torch.float32)
        drawn = torch.from_numpy(found["x"][k])
        assert (Grayscale().apply(drawn) - Grayscale().apply(x)).abs().max() < ROUNDING * drawn.abs().max()
    assert np.asarray(Image.open(tmp_path / "out" / "gray" / "sample-1.png")).shape == (4, 4, 3)


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
def test_what_is_refused(trained, options, error, message):
    """Each with its name, before anything is written."""
    with pytest.raises(error, match=message):
        edited(trained, **options)
    assert not list((trained / "run").rglob("edits/*"))


def test_pictures_of_another_size(place):
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(place / "pictures" / "wide.png")
    for options, needed in (
        (EDIT, "the task 'edit' of this model needs 8 x 8 pixels"),
        (INPAINT | {"editing__mask": str(place / "mask.png")}, "the task 'inpaint' of this model needs 8 x 8 pixels"),
        (SUPER, "give pictures of 8 x 8 pixels, or of a size that is smaller by the factor 2"),
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
    def test_wrong_flags(self, trained, flags, message):
        done = called("edit", "--workdir", trained / "run", *flags)
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
