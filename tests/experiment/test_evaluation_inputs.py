"""The inputs of scoresde evaluate, without a trained model."""

from __future__ import annotations

import numpy as np

from scoresde.data import Digits
from scoresde.experiment import Experiment, apply_overrides, load_config
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
