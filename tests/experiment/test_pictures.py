"""Folders of pictures from inspect to the report: rectangles, and label maps with a palette."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.cli import main
from scoresde.data import Affine, ImageFolder
from scoresde.experiment import Experiment, inspect
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.folder.plots import event_picture, events_shown

SHORT = {
    "threads": 1, "training.steps": 3, "training.checkpoint_every": 3, "training.preview_every": 3, "training.batch_size": 4,
    "network.channels": 8, "network.blocks": 1, "sampling.count": 3, "samplers.predictor-corrector.steps": 2,
    "likelihood.limit": 2, "likelihood.solver": "{'name': 'ScipyODE', 'rtol': 0.05, 'atol': 0.05}",
}  # fmt: skip
FLAGS = [f"--config.{key}={value}" for key, value in SHORT.items()]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waves(height, width, seed):
    y, x = np.mgrid[:height, :width] / 4.0
    phases = np.random.default_rng(seed).uniform(0.0, 6.0, 3)
    return np.stack([127.5 + 127.5 * np.sin(x + phase) * np.cos(y - phase) for phase in phases], axis=-1).astype(
        np.uint8
    )


def write(folder, images, suffix, **options):
    folder.mkdir()
    for k, image in enumerate(images):
        image.save(folder / f"{k:02d}.{suffix}", **options)


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_rectangles_from_inspect_to_the_report(folder, capsys):
    """Pictures of 12 x 20 pixels in WebP: nothing is cropped, and every command gives results of this shape."""
    write(folder / "mine", [Image.fromarray(waves(12, 20, k)) for k in range(20)], "webp", lossless=True)
    run("inspect", "mine", "--output", "mine.py", "--no-measure")
    assert "20 of shape (3, 12, 20)" in capsys.readouterr().out
    config = load_config(folder / "mine.py")
    assert tuple(config.data.side) == (12, 20) and Experiment.from_config(config).data.event_shape == (3, 12, 20)
    run("train", "--config", "mine.py", "--workdir", "run", *FLAGS)
    for command in ("sample", "likelihood"):
        run(command, "--workdir", "run")
    run("evaluate", "--workdir", "run", "--samples", "mine")
    run("report", "--workdir", "run")
    assert np.load("run/samples/probability-flow.npz")["raw"].shape == (3, 3, 12, 20)
    assert np.isfinite(json.loads((folder / "run/likelihood/test.json").read_text())["bits_per_dim"])
    # previews and samples: 2 columns of images of 20 x 12, enlarged 5 times
    previews = list((folder / "run/previews").glob("*.png"))
    for picture in (*previews, folder / "run/samples/predictor-corrector.png"):
        count, columns = (16, 4) if picture in previews else (3, 2)
        rows = -(-count // columns)
        assert Image.open(picture).size == (columns * 104 + 4, rows * 64 + 4), picture
    assert previews and (folder / "run/report.html").read_text().count("data:image/png") > 4
    (found,) = (folder / "run/evaluation").glob("files-mine-*.json")
    assert not [line for line in json.loads(found.read_text())["warnings"] if "resized" in line]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_events_of_one_number_are_a_histogram(shape):
    """A line through one point would leave the axes empty. The bins of a uniform distribution fill most of them."""
    raw = torch.linspace(-1.0, 1.0, 500).reshape(500, *shape)
    pixels = np.asarray(Image.open(io.BytesIO(event_picture(raw, Affine()))).convert("RGB"))
    blue = (pixels == (31, 119, 180)).all(2).mean()
    assert blue > 0.3 and events_shown(shape, Affine()) == 4096


def test_label_maps_with_a_palette(folder):
    """Five classes, larger than the events: training data, samples and foreign samples are classes, never in between."""
    labels = [np.random.default_rng(k).choice([0, 4], (16, 28)).astype(np.uint8) for k in range(20)]
    images = [Image.fromarray(one) for one in labels]
    for image in images:
        image.putpalette(np.arange(768) % 251)
    write(folder / "maps", images, "png")
    data = {
        "name": "ImageFolder", "folder": "maps", "side": (8, 14), "channels": 1, "levels": 5, "resampling": "nearest",
        "palette": "indices",
    }  # fmt: skip
    made = ImageFolder(**{key: value for key, value in data.items() if key != "name"})
    assert made.train.raw[:].unique().tolist() == [0, 4], "an interpolation of 0 and 4 gives 1 to 3"
    assert (
        "channels = 1, levels = K, resampling = 'nearest', palette = 'indices'" in inspect("maps", measure=False).text
    )
    digits = {"network.channels": 8, "network.blocks": 1, "data": str(data)}
    root = __file__.rpartition("/tests/")[0]
    run(
        "train",
        "--config",
        f"{root}/configs/vp/digits.py",
        "--workdir",
        "run",
        *FLAGS,
        *(f"--config.{k}={v}" for k, v in digits.items()),
    )
    for command in ("sample", "likelihood"):
        run(command, "--workdir", "run")
    run("evaluate", "--workdir", "run", "--samples", "maps")
    raw = np.load("run/samples/probability-flow.npz")["raw"]
    assert raw.shape == (3, 1, 8, 14) and raw.min() >= 0 and raw.max() <= 4
    summary = json.loads((folder / "run/likelihood/test.json").read_text())
    assert np.isfinite(summary["bits_per_dim"]) and "levels=5" in json.dumps(summary)


@pytest.mark.parametrize(
    ("mode", "levels", "resampling"), [("I;16", 65536, "bicubic"), ("1", 2, "nearest"), ("L", None, None)]
)
def test_inspect_states_the_levels_of_a_folder(folder, mode, levels, resampling):
    values = [np.random.default_rng(k).integers(0, 65536, (8, 12)).astype(np.uint16) for k in range(12)]
    made = {
        "I;16": Image.fromarray,
        "1": lambda a: Image.fromarray(a > 30000),
        "L": lambda a: Image.fromarray(a.astype(np.uint8)),
    }
    write(folder / "mine", [made[mode](value) for value in values], "png")
    found = inspect("mine", measure=False)
    data = found.config.data.to_dict()
    assert (data.get("levels"), data.get("resampling"), data["channels"]) == (levels, resampling, 1)
    assert found.usable and Experiment.from_config(found.config).data.transform.levels == (levels or 256)


@pytest.mark.parametrize(
    ("sizes", "wanted", "kept"),
    [
        ([(20, 12)] * 3, (12, 20), ""),  # width, height; height, width
        ([(20, 12), (40, 24)], (12, 20), "40 % of all pixels are kept: shrinking"),
        ([(128, 64)] * 2, (32, 64), "25 % of all pixels are kept: shrinking"),
        ([(20, 12), (20, 13)], 12, "58 % of all pixels are kept: crops to the central square"),
        ([(20, 20), (30, 30)], 20, "62 % of all pixels are kept: shrinking"),
        ([(640, 10)] * 2, 10, "1.6 % of all pixels are kept: crops"),
    ],
)
def test_the_size_that_inspect_chooses(folder, sizes, wanted, kept):
    write(folder / "mine", [Image.fromarray(waves(h, w, k)) for k, (w, h) in enumerate(sizes)], "png")
    found = inspect("mine", measure=False)
    side = found.config.data.side
    assert (side if isinstance(side, int) else tuple(side)) == wanted
    assert kept in found.text if kept else "of all pixels are kept" not in found.text


def test_a_size_that_is_given(folder, capsys):
    write(folder / "mine", [Image.fromarray(waves(24, 40, k)) for k in range(4)], "tiff")
    run("inspect", "mine", "--side", "10x20", "--no-measure")
    said = capsys.readouterr().out
    assert "4 of shape (3, 10, 20)" in said and "crops to the central rectangle keep 83 %" in said
    Image.fromarray(waves(48, 80, 4)).save(folder / "mine" / "4.tiff")
    assert main(["inspect", "mine", "--side", "30x20", "--no-measure"]) == 1
    assert "4 images are smaller than side=(30, 20)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["inspect", "mine", "--side", "10x20x3"])
    assert "give a whole number, or HEIGHTxWIDTH such as 12x20" in capsys.readouterr().err


@pytest.mark.parametrize(("largest", "labels"), [(20, True), (200, False)])
def test_images_that_may_be_labels(folder, largest, labels):
    values = [np.random.default_rng(k).integers(0, largest + 1, (8, 8)).astype(np.uint8) for k in range(20)]
    write(folder / "mine", [Image.fromarray(value) for value in values], "png")
    said = "set levels = 21 and resampling = 'nearest' in the data section"
    assert (said in inspect("mine", measure=False).text) == labels
