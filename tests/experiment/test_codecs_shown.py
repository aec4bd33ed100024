"""A likelihood of 8-bit images is shown with the bits/dim of the same images in lossless files."""

from __future__ import annotations

import numpy as np
import torch

from scoresde._files import read_sealed
from scoresde.data import Affine, Dataset, Quantized
from scoresde.experiment import Experiment, Workdir, apply_overrides, likelihood, load_config, report, train
from scoresde.experiment.results.simple_baseline import CODEC_IMAGES, codec_facts
from scoresde.metrics import codec_bits_per_dim
from scoresde.noise import NoiseSource
from tests.experiment.conftest import ROOT


def test_the_same_images():
    raw = NoiseSource.of(0, 150).integers(256, (3, 8, 8), step=0, purpose="raw")
    found = codec_facts(Dataset(raw, Quantized(256)), 5)
    assert found["images"] == 5 and len(found["figures"]) == 4
    assert found["figures"][0]["value"] == codec_bits_per_dim(raw[:5], "PNG").bits_per_dim
    assert codec_facts(Dataset(raw, Quantized(256)), 150)["images"] == CODEC_IMAGES
    for data in (Dataset(raw, Quantized(257)), Dataset(raw.double(), Affine()), Dataset(raw[:, 0], Quantized(256))):
        assert codec_facts(data, 5) is None


def test_they_are_in_summary_log_and_report(tmp_path):
    config = load_config(ROOT / "configs" / "vp" / "digits.py")
    values = {
        "network.channels": 8, "network.blocks": 1, "training.steps": 1,
        "training.batch_size": 2, "training.warmup": 0, "model.prediction": "noise", "device": "cpu", "likelihood.limit": 3,
        "likelihood.grid_events": 0, "likelihood.tolerance": 100.0,
    }  # fmt: skip
    raw = NoiseSource.of(0, 20).integers(256, (3, 8, 8), step=0, purpose="raw")
    np.save(tmp_path / "images.npy", raw.to(torch.uint8).numpy())
    config.data = {"name": "Arrays", "train": str(tmp_path / "images.npy"), "levels": 256, "test_fraction": 0.2}
    apply_overrides(config, {key: str(value) for key, value in values.items()})
    made, workdir = Experiment.from_config(config), Workdir(tmp_path / "run")
    train(made, workdir)
    likelihood(made, workdir)
    images = made.data.test.events(torch.arange(3))
    png = codec_bits_per_dim(images, "PNG")
    figures = read_sealed(workdir.likelihood / "test.json")["codecs"]["figures"]
    assert figures[0] == {"name": png.name, "value": png.bits_per_dim, "standard error": png.standard_error}
    said = f"the first 3 images in lossless files, bits/dim: PNG, a file for each image {png.bits_per_dim:.3f};"
    assert said in (workdir.path / "log.txt").read_text()
    page = report(made, workdir).read_text()
    assert "WebP, one file of all images" in page and f"{png.bits_per_dim:.3f}" in page
