"""Training data that the noise of a process does not cover: an error or a warning, depending on the mismatch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scoresde.data import Affine, Dataset
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.training.prior_fit import check_prior, prior_mismatch
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, LinearSDE, SubVPSDE

from .conftest import called


def given(sde, mean, std, shape=(3,), transform=None):
    raw = mean + std * torch.from_numpy(np.random.default_rng(0).normal(size=(100, *shape)))
    data = Dataset(raw, transform or Affine())
    return SimpleNamespace(process=sde, data=SimpleNamespace(train=data)), data.transform.encode(
        raw, dtype=torch.float64
    )


@pytest.mark.parametrize(
    "sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 50.0), CriticallyDampedLangevin()], ids=lambda sde: type(sde).__name__
)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (10.0, 0.3), (-1e4, 1e3)])
def test_the_mismatch_is_that_of_gaussians(sde, mean, std):
    """E (alpha x_0)^2 / (2 std^2) for scalar processes; about half of it per coordinate for a process with velocities."""
    found, x = given(sde, mean, std)
    t = torch.tensor(sde.T, dtype=torch.float64)
    if isinstance(sde, CriticallyDampedLangevin):
        state = sde.kernel(t).mean(sde.embed_data(x))
        zero = torch.zeros_like(state)
        wanted = float((sde.prior_log_prob(zero) - sde.prior_log_prob(state)).mean()) / 6
    else:
        prior = float(sde.sigma(t)) if isinstance(sde, VESDE) else 1.0
        wanted = float((sde.alpha(t) * x).square().mean()) / (2 * prior**2)
    assert isinstance(sde, LinearSDE) and prior_mismatch(found) == pytest.approx(wanted, rel=1e-3)


def test_what_passes_what_warns_and_what_is_refused():
    assert check_prior(given(VPSDE(), 0.0, 1.0)[0]) == ""
    assert check_prior(given(VPSDE(), 1e6, 1.0, transform=Affine(1e6, 1.0))[0]) == ""
    assert check_prior(given(VESDE(0.01, 50.0), 0.0, 1.0)[0]) == ""
    said = check_prior(given(VESDE(0.01, 50.0), 20.0, 1.0)[0])
    assert "mean 19.96" in said and "0.0799 nats per coordinate" in said and "data.shift, data.scale" in said
    for sde, mean, std in ((VPSDE(), 1e4, 10.0), (VPSDE(), 0.0, 1e6), (VESDE(0.01, 50.0), 0.0, 1e3)):
        with pytest.raises(
            ConfigError, match=r"config\.data: the training data, of mean .* nats per coordinate \(limit 0\.01\)"
        ):
            check_prior(given(sde, mean, std)[0])


CONFIG = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict({
        "data": {"name": "Arrays", "train": "a.npy"}, "sde": {"name": "VPSDE"},
        "network": {"name": "MLP", "width": 8, "depth": 1}, "objective": {"name": "DenoisingScoreMatching"},
        "training": {"steps": 2, "batch_size": 4}, "threads": 1,
    })
"""


@pytest.mark.parametrize(
    ("mean", "std", "why"),
    [
        (0.0, 1e6, "nats per coordinate"),
        (1e4, 1.0, "nats per coordinate"),
        (1e8, 1.0, "float32 rounds away"),
        (1e6, 1.0, "float32 rounds away"),
        (0.0, 1e60, "beyond float32"),
    ],
)
def test_training_on_data_far_away_is_one_line_and_code_2(tmp_path, monkeypatch, mean, std, why):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", mean + std * np.random.default_rng(0).normal(size=(50, 2)))
    (tmp_path / "mine.py").write_text(CONFIG)
    for more in (("--workdir", "run"), ("--workdir", "run", "--dry-run")):
        done = called("train", "--config", "mine.py", *more)
        assert done.returncode == 2 and why in done.stderr and "config.data" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_training_says_the_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", 40.0 + np.random.default_rng(0).normal(size=(50, 2)))
    (tmp_path / "mine.py").write_text(CONFIG)
    done = called("train", "--config", "mine.py", "--workdir", "run")
    assert done.returncode == 0, done.stderr
    assert "WARNING: the training data, of mean 40" in (tmp_path / "run" / "log.txt").read_text()
