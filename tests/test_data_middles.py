"""Discrete data without dequantization, from a config to the likelihood and the samples of a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from scoresde.cli import main
from scoresde.data import Affine, Dataset, Digits, LevelMiddles, Quantized, Splits, WithoutDequantization
from scoresde.experiment import Experiment, load_config
from scoresde.experiment.config.builder import ConfigError
from scoresde.likelihood import bits_per_dim
from tests.experiment.conftest import ROOT


def test_values():
    transform, data = LevelMiddles(17), WithoutDequantization(Digits())
    raw = data.train.events(torch.arange(20))
    one, two = (data.train.encode(slice(20), seed=seed, dtype=torch.float64) for seed in (0, 1))
    assert torch.equal(one, two) and torch.equal(transform.decode(one), raw)
    assert torch.allclose(one, (2 * raw.double() + 1) / 17 - 1.0, atol=1e-12)
    assert torch.equal(one, Quantized(17).encode(raw, None, dtype=torch.float64))
    batch = data.train.batch(0, 8, seed=0).x
    assert torch.equal(batch, transform.encode(transform.decode(batch), None, dtype=torch.float32))
    assert not transform.dequantized and transform.discrete and transform != Quantized(17)
    assert data.train.digest() == Digits().train.digest() and "LevelMiddles(levels=17" in repr(data.train)


def test_bits_of_probabilities():
    found = bits_per_dim(torch.tensor([-64 * math.log(2.0)]), (1, 8, 8), LevelMiddles(17))
    assert float(found) == pytest.approx(1.0)


def test_conditions_are_kept_and_real_data_is_refused():
    data = WithoutDequantization(Digits(labels=True))
    assert list(data.kinds) == ["label"] and len(data.train.conditions(slice(3))["label"]) == 3
    real = Dataset(torch.zeros(4, 2), Affine())
    with pytest.raises(ValueError, match="which has no levels"):
        WithoutDequantization(Splits(real, real))


def test_data_without_dequantization_is_refused():
    with pytest.raises(
        ValueError, match=r"data has the transform LevelMiddles\(.*, which does not dequantize: use data itself"
    ):
        WithoutDequantization(WithoutDequantization(Digits()))


def test_dequantized_data_in_a_config():
    config = load_config(ROOT / "configs" / "vp" / "digits_vdm.py")
    config.data = {"name": "Digits"}
    with pytest.raises(ConfigError, match=r"config.objective: .*transform=Quantized.*WithoutDequantization"):
        Experiment.from_config(config)


def test_a_run_from_training_to_samples(tmp_path):
    """The rows of the likelihood are bounds of log P(k), and samples are levels."""
    folder, config = str(tmp_path / "run"), str(ROOT / "configs" / "vp" / "digits_vdm.py")
    small = ["--config.network.channels=8", "--config.network.blocks=1", "--config.training.batch_size=8"]
    small += ["--config.training.steps=4", "--config.training.preview_every=0", "--config.likelihood.limit=4"]
    small += ["--config.likelihood.draws=2", "--config.likelihood.grid_events=0", "--config.sampling.count=2"]
    small += ["--config.likelihood.solver={'name': 'Multistep', 'nodes': 8}"]
    small += ["--config.samplers={'ddim': {'name': 'DDIM', 'steps': 4}}"]
    for command in ("train", "likelihood", "sample"):
        assert main([command, "--config", config, "--workdir", folder, *small]) in (0, None)
    summary = json.loads((tmp_path / "run" / "likelihood" / "test.json").read_text())
    assert summary["bound by"] == ["the noise of t_min and the decoder of the levels"]
    assert summary["known biases"]["cut-off"] == 0.0 and 2.0 < summary["bits_per_dim"] < 8.0
    assert summary["bits_per_dim"] == pytest.approx(-summary["nats"] / (64 * math.log(2.0)))
    assert main(["report", "--workdir", folder]) in (0, None)
    assert (
        "by the noise of t_min and the decoder of the levels: t_min does not bias it"
        in (tmp_path / "run" / "report.html").read_text()
    )
    samples = np.load(tmp_path / "run" / "samples" / "ddim.npz")
    assert samples["raw"].dtype == np.int64 and samples["raw"].min() >= 0 and samples["raw"].max() <= 16
