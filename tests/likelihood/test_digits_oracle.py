"""The complete evaluation on real digits, with a model whose bits/dim are known: independent pixels.

A network that returns the log-frequencies of each pixel's levels makes ``Levels`` the exact score of the independent-pixel
distribution, a product of mixtures of boxes. Its Jacobian is diagonal, so that one Rademacher probe gives the exact trace.
The flow's bits/dim must equal those of the histogram, which is a sum of logarithms. Isolated levels and sharp box edges are
the hard case for a solver.
"""

from __future__ import annotations

import pytest
import torch

from scoresde import VESDE, VPSDE, Levels, ScoreModel, SubVPSDE, bits_per_dim, log_likelihood
from scoresde.data import Digits
from scoresde.metrics import pixel_histogram

COUNT = 4


class Frequencies(torch.nn.Module):
    """Logits that do not depend on their input."""

    def __init__(self, raw, levels, pseudocount=0.1):
        super().__init__()
        counts = torch.nn.functional.one_hot(raw, levels).sum(0) + pseudocount
        self.register_buffer("logits", (counts / counts.sum(-1, keepdim=True)).log())

    def forward(self, x, label):
        return self.logits.expand(len(x), *self.logits.shape)


@pytest.mark.parametrize(
    "sde",
    [
        VPSDE(),
        pytest.param(SubVPSDE(), marks=pytest.mark.long),
        pytest.param(VESDE(0.0005, 50.0), marks=pytest.mark.long),
    ],
    ids=["vp", "subvp", "ve"],
)
def test_flow_of_independent_pixels_has_the_bits_of_their_histogram(sde, worst):
    data = Digits()
    levels = data.transform.levels
    model = ScoreModel(Frequencies(data.train.raw, levels), sde, Levels(data.transform))
    exact = pixel_histogram(data.train.raw, data.test.raw[:COUNT], levels).bits_per_dim
    x = data.test.encode(slice(COUNT), seed=0)
    found = log_likelihood(sde, model, x, tolerance=1e-5)
    bits = float(bits_per_dim(found.log_prob, data.event_shape, data.transform).mean())
    worst("bits/dim of independent pixels on held-out digits, against their histogram", abs(bits - exact))
    # the cut-off's noise blurs the edges: the share of points within one sigma(t_min) of an edge is 2 sigma / width,
    # below 1.7 %
    assert abs(bits - exact) < 0.01


def test_a_planted_offset_is_seen():
    """The offset of 8-bit data used for 17 levels: the result is wrong by the logarithm of 256 / 17."""
    data = Digits()
    model = ScoreModel(Frequencies(data.train.raw, 17), VPSDE(), Levels(data.transform))
    x = data.test.encode(slice(4), seed=0)
    nats = log_likelihood(VPSDE(), model, x).log_prob
    wrong = bits_per_dim(nats, data.event_shape, type(data.transform)(256, -1.0, 1.0))
    right = bits_per_dim(nats, data.event_shape, data.transform)
    assert float((wrong - right).mean()) > 3.9
