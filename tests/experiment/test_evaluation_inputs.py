"""The inputs of scoresde evaluate, without a trained model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scoresde.data import Digits
from scoresde.experiment import Experiment, apply_overrides, load_config
from scoresde.metrics import Moments, kernel_distance
from tests.experiment.conftest import ROOT, HereCommand
from tests.experiment.test_evaluation import FEW


def test_anyones_samples_need_no_trained_model(tmp_path):
    np.save(tmp_path / "array.npy", Digits().test.raw[:5].numpy())
    done = HereCommand(tmp_path / "new")("evaluate", "vp", "--samples", tmp_path / "array.npy", **FEW)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "config.json").exists()


def test_a_path_that_looks_like_a_number_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = HereCommand(tmp_path / "new")("evaluate", "vp", "--samples", "2024", **FEW)
    assert done.returncode == 2 and "'2024' is not a file, a folder" in done.stderr


def test_black_and_white_of_the_data_are_filled_in(tmp_path):
    """Levels 0 .. 16 become bytes 0 .. 255 for a network that takes images."""
    (tmp_path / "network.pt").write_bytes(b"read when it is first needed")
    config = load_config(ROOT / "configs" / "vp" / "digits.py")
    apply_overrides(
        config, {"evaluation.extractor": str({"name": "TorchScript", "file": str(tmp_path / "network.pt")})}
    )
    extractor = Experiment.from_config(config).evaluation.extractor
    assert (extractor.low, extractor.high) == (0.0, 16.0) and "0 .. 16 to bytes" in extractor.name


def test_a_table_is_compared_in_the_scaling_of_the_model(tmp_path):
    """Columns of 1e6 and 1e-3: the result has the scale of x, which the result and the line state. Planted: raw values."""
    raw = np.random.default_rng(0).normal(size=(3, 200, 2)) * [1e6, 1e3] + [3e6, 0.0]
    for name, part in zip(("train", "test", "mine"), raw, strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    data = {name: str(tmp_path / f"{name}.npy") for name in ("train", "test")}
    table = {**FEW, "data": str({"name": "Arrays", **data, "levels": 0, "shift": 3e6, "scale": 1e6})}
    done = HereCommand(tmp_path / "new")("evaluate", "vp", "--samples", tmp_path / "mine.npy", **table)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "new" / "evaluation").glob("files-mine-*.json")
    found = json.loads(file.read_text())
    x, y = (torch.tensor((part - 3e6) / 1e6).float() for part in (raw[2], raw[0]))
    assert found["kernel distance"] == pytest.approx(kernel_distance(x, y).value, rel=1e-4)
    assert found["scaling"] == "the model, Affine(shift=3000000.0, scale=1000000.0)" and found["scaling"] in done.stdout
    assert abs(kernel_distance(*(torch.tensor(part) for part in (raw[2], raw[0]))).value) > 1e20
    assert abs(found["kernel distance"]) < 1.0


def test_an_extractor_of_raw_samples_gets_them(tmp_path):
    """A network is called with levels 0 .. 16, as before."""
    made = {}
    for name in ("Coordinates", "tests.experiment.extractors:Levels"):
        overrides = {**FEW, "evaluation__extractor": str({"name": name})}
        np.save(tmp_path / "array.npy", Digits().test.raw[:5].numpy())
        folder = tmp_path / f"run-{len(made)}"
        done = HereCommand(folder)("evaluate", "vp", "--samples", tmp_path / "array.npy", **overrides)
        assert done.returncode == 0, done.stderr
        made[name] = Moments.load(folder / "evaluation" / "reference.npz").mean
        assert ("in the scaling of the data" in done.stdout) == (name != "Coordinates")
    x, raw = made.values()
    assert torch.allclose(raw, Digits().train.raw.flatten(1).double().mean(0)) and float(raw.max()) > 10.0
    assert torch.allclose(x, (raw + 0.5) * 2 / 17 - 1, atol=1e-6)
