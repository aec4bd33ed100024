"""scoresde edit: the results of each task, restarts, processes and folders."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data.pictures import picture_format
from scoresde.experiment import Workdir, WorkdirError, edit_files
from scoresde.experiment import train as train_here
from scoresde.noise import NoiseSource
from scoresde.operators import Grayscale, SuperResolution
from scoresde.tasks import edit
from tests.experiment.conftest import called
from tests.experiment.edit_common import EDIT, INPAINT, RUN, SUPER, Edited, edited, other_run
from tests.experiment.training import experiment

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Of samples of a model that is hardly trained, which may be large."""


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
        found = edited(place, **{**SUPER, "editing__guidance": {"name": guidance}})
        raw = experiment(**RUN).data.test.raw[:3]
        x = experiment(**RUN).data.transform.encode(raw, None, dtype=torch.float32)
        wanted = SuperResolution(2).apply(x)[:, None]
        drawn = torch.from_numpy(found["x"])
        means = SuperResolution(2).apply(drawn.flatten(0, 1)).unflatten(0, (3, 3))
        assert (means - wanted).abs().max() < ROUNDING * drawn.abs().max()

    def test_predictions_stay_in_the_range_of_the_levels(self, place, monkeypatch):
        """Without the threshold, guidance enlarges the errors of this model until its samples are far outside."""
        options = {**INPAINT, "editing__mask": str(place / "mask.png"), "model": "{'prediction': 'noise'}"}
        shutil.rmtree(place / "run")
        made = experiment(**{**RUN, **options})
        train_here(made, Workdir(place / "run"))
        found = edited(place, **options)
        assert [one["strayed"] for one in found.facts["inputs"]] == [0, 0, 0]
        monkeypatch.setattr("scoresde.experiment.jobs.editing.StaticThreshold", lambda score, low, high: score)
        assert sum(one["strayed"] for one in edited(place, **options, editing__seed=1).facts["inputs"]) > 0

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
