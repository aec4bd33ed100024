"""Models whose network gives logits given the other coordinates: exact posteriors, and the bound of a constant network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    CategoricalModel,
    ContinuousBound,
    EnumeratedJoint,
    LeaveOneOutModel,
    jump_bound,
)

from .problems import K, coupled, pairs, processes

T = torch.tensor(0.4)


class Table(nn.Module):
    """Logits that depend on the position only, or a function of x and t."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x, t):
        return self.logits(x, t) if callable(self.logits) else self.logits.expand(*x.shape, -1)


@pytest.mark.parametrize("process", processes(), ids=lambda p: type(p).__name__)
def test_logarithms_of_marginals_are_exact_for_independent_data(process):
    p = torch.tensor([[0.1, 0.3, 0.05, 0.25, 0.2, 0.1], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
    joint, model = EnumeratedJoint(p[0, :, None] * p[1]), LeaveOneOutModel(Table(p.log()), process)
    x = pairs(process.states)
    for t in (1e-3, 0.6):
        wanted = joint.model(process)(x, torch.tensor(t)).softmax(-1)
        possible = wanted.isfinite().all(-1)
        torch.testing.assert_close(
            model(x, torch.tensor(t)).softmax(-1)[possible], wanted[possible], rtol=1e-5, atol=1e-9
        )


@pytest.mark.parametrize("process", processes()[:5], ids=lambda p: type(p).__name__)
def test_what_the_network_gives_does_not_depend_on_the_state_of_its_coordinate(process):
    """The posterior of coupled variables without the likelihood of the first is a function of the second."""
    x = pairs(process.states)
    exact = coupled().model(process)(x, T).log_softmax(-1) - process.likelihood(x, T)
    rest = exact[:, 0].softmax(-1).reshape(process.states, process.states, K)
    possible = exact[:, 0].isfinite().all(-1).reshape(process.states, process.states)
    for second in range(process.states):
        rows = rest[possible[:, second], second]
        assert len(rows) >= 1 and float((rows - rows[0]).abs().max()) < 1e-6
    assert float((rest[-1, 0] - rest[-1, -2]).abs().max()) > 0.01


@pytest.mark.parametrize("process", processes(), ids=lambda p: type(p).__name__)
def test_a_constant_network_has_the_bound_of_uniform_data(process):
    model = LeaveOneOutModel(Table(torch.zeros(K)), process)
    x = coupled().sample(400, seed=0)
    bound = jump_bound(process, model, x, replicates=1, draws=8)
    assert bound.mean_bits_per_token[0] == pytest.approx(math.log2(K), abs=5 * bound.mean_bits_per_token[1] + 2e-3)


def test_absorbing_is_the_categorical_model():
    process = Absorbing(K)
    network = Table(lambda x, t: torch.sin(torch.arange(float(K)) + x[..., None] + x.sum(-1)[:, None, None]))
    x = pairs(K + 1)
    found, wanted = (cls(network, process)(x, T).log_softmax(-1) for cls in (LeaveOneOutModel, CategoricalModel))
    torch.testing.assert_close(found, wanted)


def test_gradients_are_finite_and_samples_are_data():
    for process in processes():
        network = nn.Embedding(process.states, K)
        model = LeaveOneOutModel(Table(lambda x, t, e=network: e(x)), process)
        ContinuousBound(process)(model, coupled().sample(50, seed=0), step=0).sum().backward()
        assert bool(torch.isfinite(network.weight.grad).all()) and float(network.weight.grad.abs().max()) > 0
        samples = AncestralSampler(steps=5)(process, model, (8, 2)).samples
        assert int(samples.min()) >= 0 and int(samples.max()) < K
