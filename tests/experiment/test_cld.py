"""Digits with critically damped Langevin diffusion, from training to likelihood in a few steps."""

from __future__ import annotations

import json
import math

import pytest
import torch

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import load_config
from scoresde.score import MixedPrediction
from tests.experiment.conftest import ROOT

FEW = {"samplers.symmetric-splitting.steps": 3, "samplers.predictor-corrector.steps": None}
FEW |= {"samplers.probability-flow.solver": "{'name': 'ScipyODE', 'rtol': 0.05, 'atol': 0.05}"}


def test_config_says_what_it_claims():
    """The ends of the time distribution and the label at T agree with the comments of the config."""
    experiment = Experiment.from_config(load_config(ROOT / "configs" / "cld" / "digits.py"))
    sde = experiment.sde
    assert experiment.model.prediction == MixedPrediction(experiment.model.data_std)
    ends = torch.tensor([0.075, 12.0], dtype=torch.float64).log()
    start, stop = sde.time_of_log_noise(ends).tolist()
    assert 1.5e-4 < start < 2.1e-4
    assert 0.58 < stop < 0.63
    assert float(sde.kernel(torch.tensor(start).double()).noise.m[0, 0]) < 4e-4
    t = torch.tensor([1.0], dtype=torch.float64)
    assert 0.005 < float(1 / sde.log_noise(t).exp()) < 0.007
    centers = experiment.model.network.unet.embedding.centers
    assert centers.min() < float(sde.log_noise(t)) < centers.max()


@pytest.mark.long
def test_end_to_end(here):
    for command in ("train", "sample", "likelihood", "report"):
        done = here(command, "cld", **FEW)
        assert done.returncode == 0, (command, done.stderr)
    names = {path.name for path in here.workdir.rglob("*")}
    assert any("symmetric-splitting" in name and name.endswith(".png") for name in names), names
    assert any("probability-flow" in name and name.endswith(".png") for name in names), names
    likelihood = json.loads(next((here.workdir).rglob("test.json")).read_text())
    assert math.isfinite(likelihood["bits_per_dim"]), likelihood
