"""Conditions of a score model: those a network requires, and tensors with one row for each sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde.interop.edm import DenoiserScore
from scoresde.networks import MLP
from scoresde.samplers import AdaptiveSDE, UniPC
from scoresde.score import LogNoiseLabel, ScoreModel, TimeLabel
from scoresde.sde import VESDE, VPSDE


class Conditional(nn.Module):
    def forward(self, x, label, y):
        return x - y


class ByKeyword(nn.Module):
    def forward(self, x, label, *, y, mask=None):
        return x - y


X, T = torch.ones(3, 2), torch.full((3,), 0.5)


@pytest.mark.parametrize("network", [Conditional(), ByKeyword()])
def test_a_required_condition_is_passed_by_name(network):
    model, y = ScoreModel(network, VPSDE(), "score", data_std=None), torch.arange(3.0)[:, None]
    assert torch.equal(model(X, T, y=y), X - y)
    with pytest.raises(TypeError, match=r"the network requires y: call model\(x, t, y=\.\.\.\)"):
        model(X, T)
    with pytest.raises(TypeError, match=r"lambda x, t: model\(x, t, y="):
        UniPC(2)(VPSDE(), model, (3, 2))
    assert UniPC(2)(VPSDE(), lambda x, t: model(x, t, y=y), (3, 2)).samples.shape == (3, 2)


def test_a_network_that_cannot_be_called_is_refused():
    class One(nn.Module):
        def forward(self, x):
            return x

    class Positional(nn.Module):
        def forward(self, x, label, y, /):
            return x

    for network in (One(), Positional()):
        with pytest.raises(TypeError, match="cannot be called as network"):
            ScoreModel(network, VPSDE())


@pytest.mark.parametrize("shape", [(1, 2), (2,), (1,), (6, 2), (0, 2)])
def test_a_condition_that_would_broadcast_is_refused(shape):
    denoiser = DenoiserScore(Conditional(), VESDE())
    for model in (ScoreModel(Conditional(), VPSDE()), denoiser):
        with pytest.raises(ValueError, match="for a batch of 3: give one row for each sample"):
            model(X, T, y=torch.zeros(shape))
        assert model(X, T, y=torch.tensor(0.5)).shape == (3, 2)
        assert model(X, T, y=0.5).shape == (3, 2)


def test_the_message_for_a_condition_of_all_samples_names_the_batch():
    model = ScoreModel(Conditional(), VPSDE(), "score", data_std=None)
    y = torch.linspace(0.1, 3.0, 8)[:, None]
    with pytest.raises(ValueError, match=r"failed for .* of the 8 samples .*y has shape .*must not hold conditions"):
        AdaptiveSDE(0.05, 0.05)(VPSDE(), lambda x, t: -model(x, t, y=y) * y, (8, 2))


def test_the_label_of_a_time_without_noise_is_explained():
    for network in (MLP((2,), width=8, depth=1),):
        model = ScoreModel(network, VPSDE(), label=LogNoiseLabel())
        with pytest.raises(ValueError, match=r"t=0 is not allowed: the label of LogNoiseLabel\(\) is not finite there"):
            model(X, torch.tensor([0.0, 0.5, 1.0]))
        assert torch.isfinite(model(X, T)).all()
    network = MLP((2,), width=8, depth=1)
    with pytest.raises(ValueError, match=r"labels from .* do not suit"):
        ScoreModel(network, VPSDE(), label=TimeLabel(999.0))(X, T)
