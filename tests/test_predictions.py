"""Predictions in addition to those of test_score.py."""

from __future__ import annotations

import pytest
import torch

from scoresde import VESDE, VPSDE, GaussianMixture, ScoreModel, SubVPSDE
from scoresde.score.predictions import ScaledScorePrediction


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), SubVPSDE(), VESDE().discretize(10)], ids=repr)
def test_sigma_times_the_score(sde):
    """A network that returns sigma times the score of a mixture gives that score."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 2.0]]).double(), torch.tensor([0.3, 0.5]).double())
    exact = mixture.score(sde)

    class Network(torch.nn.Module):
        def forward(self, x, label):
            return sde.sigma(t)[:, None] * exact(x, t)

    t = torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0], [-4.0, 0.1]], dtype=torch.float64)
    model = ScoreModel(Network(), sde, ScaledScorePrediction(), data_std=None)
    assert torch.allclose(model(x, t), exact(x, t), rtol=1e-10)
    with pytest.raises(ValueError, match="the network's output has shape"):
        ScaledScorePrediction().score(sde, sde.kernel(t), x[:, :1], x)
