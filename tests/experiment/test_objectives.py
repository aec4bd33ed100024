"""Objectives from a config: they train, go on after a restart, and refuse what they cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.experiment.config.builder import ConfigError
from scoresde.losses import ExplicitScoreMatching, SlicedScoreMatching
from scoresde.noise import NoiseSource
from scoresde.sde import VPSDE
from tests.experiment.test_training import reload
from tests.experiment.training import advance, everything, experiment, same, trainer

NAMES = ["ExplicitScoreMatching", "SlicedScoreMatching", "DenoisingScoreMatching"]


def options(folder, name, steps=4, **more):
    """A model of points in the plane."""
    data = GaussianMixture([[0.7, 0.0], [-0.7, 0.3]], stds=[0.2, 0.3]).sample(512, seed=0)
    np.save(folder / "points.npy", data.numpy())
    return {
        "data": f"{{'name': 'Arrays', 'train': '{folder}/points.npy'}}",
        "network": "{'name': 'MLP', 'width': 32, 'depth': 1}", "network__channels": None, "network__blocks": None,
        "model": "{'data_std': 0.7}", "training__steps": steps, "training__schedule": "constant",
        "objective": f"{{'name': '{name}', 'times': {{'name': 'UniformTime', 't_min': 0.05}}}}", **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES[:2])
def test_it_goes_on_where_it_stopped(tmp_path, name):
    made = options(tmp_path, name)
    whole, first = trainer(**made), trainer(**made)
    assert type(whole.experiment.objective) is {
        "ExplicitScoreMatching": ExplicitScoreMatching, "SlicedScoreMatching": SlicedScoreMatching,
    }[name]  # fmt: skip
    advance(whole, 4)
    advance(first, 2)
    second = reload(first, tmp_path / "checkpoints", **made)
    advance(second, 2)
    assert same(everything(whole), everything(second))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_the_score(tmp_path, name):
    """The distance from the exact score falls to less than half of that of the initial network."""
    run = trainer(**options(
        tmp_path, name, training__batch_size=128, training__learning_rate=5e-3, training__warmup=5, training__ema_decay=0.9,
    ))  # fmt: skip
    sde, data = VPSDE(), GaussianMixture([[0.7, 0.0], [-0.7, 0.3]], stds=[0.2, 0.3])
    t = torch.linspace(0.1, 0.9, 256)
    x = sde.marginal_sample(data.sample(256, seed=1), t, NoiseSource.of(2, 256), step=0)
    sigma = sde.sigma(t)[:, None]

    def error():
        with torch.no_grad():
            return float(((run.model(x, t) - data.score(sde)(x, t)) * sigma).square().mean())

    before = error()
    advance(run, 150)
    assert error() < 0.5 * before


@pytest.mark.parametrize("option", ["compile", "sharded"])
def test_second_derivatives_are_not_compiled_or_sharded(tmp_path, option):
    more = {f"training__{option}": True, "training__preview_every": 0}
    with pytest.raises(ConfigError, match=rf"training\.{option}=True is not allowed for SlicedScoreMatching"):
        trainer(**options(tmp_path, "SlicedScoreMatching", **more))


def test_an_unknown_objective_is_answered_with_all(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"allowed are DenoisingScoreMatching, ExplicitScoreMatching, .*SlicedScoreMatching, ",
    ):
        experiment(**options(tmp_path, "ScoreMatching"))
