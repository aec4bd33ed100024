"""The cost of a training loss in addition to the network: operations, and waits for the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde import VESDE, VPSDE, ScoreModel, SubVPSDE
from scoresde.losses import DenoisingScoreMatching
from scoresde.noise import NoiseSource
from tests.counting import counted


class Echo(nn.Module):
    """A network of one operation."""

    def forward(self, x, label):
        return -x


@pytest.mark.parametrize("prediction", ["noise", "score", "data", "velocity"])
@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE()], ids=repr)
def test_a_loss_has_few_operations_and_no_waits(sde, prediction):
    model, loss, x0 = ScoreModel(Echo(), sde, prediction), DenoisingScoreMatching(sde), torch.randn(16, 3, 4)
    source = NoiseSource.of(0, len(x0))
    keywords = {"step": 0, "purposes": ("time", "perturb"), "dtypes": (x0.dtype, x0.dtype)}
    generator = counted(lambda: source.uniform_and_normal((3, 4), **keywords))
    total = counted(lambda: loss(model, x0))
    assert total.operations - generator.operations - 1 <= 60
    assert total.waits == 0


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=repr)
def test_a_noise_prediction_is_compared_directly(sde):
    """At t = 1e-5 a score is about 1e3 times the noise. The noise is not divided and multiplied again, so it keeps its bits."""
    model, loss = ScoreModel(Echo(), sde, "noise", data_std=None), DenoisingScoreMatching(sde)
    draw = loss.draw(torch.ones(8, 2), t=torch.full((8,), 1e-5))
    assert torch.equal(model.noise(draw.x_t, draw.t), -draw.x_t)
    assert torch.equal(loss.evaluate(model, draw), (draw.noise + draw.x_t).square().mean(1))
