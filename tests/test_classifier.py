"""Classifiers and regressors of x_t: pooling, distributions, gradients, precision, and wrong calls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.conditions import Classes, Vector
from scoresde.networks import MLP, NCSNpp, SmallUNet
from scoresde.score import Classifier, NoiseConditionalModel, Regressor, ScoreModel, TargetModel
from scoresde.sde import VPSDE, CriticallyDampedLangevin

SDE = VPSDE()
T = torch.tensor([0.1, 0.5, 0.9])


class Fixed(nn.Module):
    """Returns the same outputs for every sample."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x, label, **condition):
        return self.rows(x) if callable(self.rows) else self.rows


def randomized(network):
    """The network with a last layer that is not 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


NETWORKS = {
    "vector": ((5,), lambda: MLP((5,), width=8, depth=1, outputs=3)),
    "a size like the classes": ((3,), lambda: MLP((3,), width=8, depth=1, outputs=3)),
    "scalar": ((), lambda: MLP((), width=8, depth=1, outputs=3)),
    "image": ((1, 8, 8), lambda: SmallUNet((1, 8, 8), channels=8, blocks=1, outputs=3)),
    "colors": ((3, 8, 8), lambda: NCSNpp((3, 8, 8), channels=8, multipliers=(1,), blocks=1, outputs=3)),
    "series": ((2, 7), lambda: MLP((2, 7), width=8, depth=1, outputs=3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_mean_over_the_event(name):
    shape, made = NETWORKS[name]
    model, x = Classifier(randomized(made()), SDE, 3), torch.linspace(-1, 1, 3 * math.prod(shape)).reshape(3, *shape)
    output = model.output(x, T)
    wanted = output if not shape else output.mean(tuple(range(1, 1 + len(shape))))
    assert torch.equal(model.logits(x, T), model(x, T)) and torch.allclose(model(x, T), wanted, atol=1e-6)
    y = torch.tensor([2, 0, 1])
    assert torch.allclose(model.probabilities(x, T).sum(1), torch.ones(3))
    assert torch.allclose(model.log_prob(x, T, y), wanted.log_softmax(1)[torch.arange(3), y], atol=1e-6)
    assert torch.equal(model.distribution(x, T).mode, wanted.argmax(1))


def test_a_network_that_returns_one_row_of_logits():
    rows = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    model = Classifier(Fixed(rows), SDE, 3)
    assert torch.equal(model(torch.zeros(3, 4, 4), T), rows)
    assert torch.allclose(model.log_prob(torch.zeros(3, 4, 4), T, 1), rows.log_softmax(1)[:, 1])
    state = CriticallyDampedLangevin()
    both = Classifier(Fixed(lambda x: x[..., None].expand(*x.shape, 3)), state, 3, data_std=None)
    assert both(torch.ones(3, *state.state_shape((4,))), T).shape == (3, 3)


def test_log_prob_is_differentiable_in_x():
    """The gradient agrees with finite differences."""
    model = Classifier(randomized(MLP((2,), width=8, depth=1, outputs=3)).double(), SDE, 3)
    x, t, y = torch.tensor([[0.3, -0.4]], dtype=torch.float64, requires_grad=True), T[1:2].double(), torch.tensor([2])
    assert torch.autograd.gradcheck(lambda x: model.log_prob(x, t, y), x)
    reg = Regressor(randomized(MLP((2,), width=8, depth=1, outputs=4)).double(), SDE, 2)
    assert torch.autograd.gradcheck(lambda x: reg.log_prob(x, t, torch.ones(1, 2, dtype=torch.float64)), x)


def test_the_regressor_is_a_gaussian():
    rows = torch.tensor([[0.5, -1.0, 0.2, -60.0]]).expand(3, 4)
    model = Regressor(Fixed(rows), SDE, 2, shift=10.0, scale=3.0, min_std=0.01)
    x, y = torch.zeros(3, 5), torch.tensor([[11.0, 7.02]]).expand(3, 2)
    std = 3.0 * torch.tensor([math.exp(0.2) + 1e-4, 1e-4]).sqrt()
    mean = torch.tensor([11.5, 7.0])
    wanted = (-0.5 * ((y[0] - mean) / std) ** 2 - std.log() - 0.5 * math.log(2.0 * math.pi)).sum()
    assert torch.allclose(model(x, T), mean.expand(3, 2))
    assert torch.allclose(model.log_prob(x, T, y), wanted.expand(3), atol=1e-5)


def test_half_precision_and_conditions():
    network = MLP((2,), width=8, depth=1, outputs=3, conditions={"size": Vector(1)})
    model = Classifier(randomized(network), SDE, 3)
    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    given = {"size": torch.tensor([[0.0], [1.0], [5.0]])}
    free, bound = model(x, T), model.given(**given)
    assert torch.equal(bound(x, T), model(x, T, **given)) and not torch.equal(bound(x, T), free)
    assert torch.allclose(bound.select_rows(torch.tensor([2]))(x[2:], T[2:]), bound(x, T)[2:], atol=1e-6)
    half = Classifier(randomized(MLP((2,), width=8, depth=1, outputs=3)).bfloat16(), SDE, 3)
    found = half.log_prob(x.bfloat16(), T, torch.tensor([0, 1, 2]))
    exact = Classifier(randomized(MLP((2,), width=8, depth=1, outputs=3)), SDE, 3).log_prob(x, T, torch.arange(3))
    assert found.dtype == torch.float32 and torch.allclose(found, exact, atol=0.05)


def test_bases():
    assert issubclass(TargetModel, NoiseConditionalModel) and not issubclass(Classifier, ScoreModel)
    assert Classifier.sizes(Classes(7)) == {"classes": 7, "outputs": 7}
    assert Regressor.sizes(Vector(3)) == {"size": 3, "outputs": 6}
    with pytest.raises(TypeError, match="abstract"):
        NoiseConditionalModel(MLP((2,)), SDE)


def test_wrong_calls_are_rejected():
    model, x = Classifier(MLP((2,), outputs=3), SDE, 3), torch.zeros(3, 2)
    for target, message in {
        3: "target=3 is not allowed: give a class, a whole number in 0 .. 2",
        1.5: r"target=1.5 is not allowed",
        "cat": "target='cat' is not allowed",
    }.items():
        with pytest.raises(ValueError, match=message):
            model.log_prob(x, T, target)
    with pytest.raises(ValueError, match=r"target of shape \(2,\) .* one row for each of 3 samples"):
        model.log_prob(x, T, torch.tensor([0, 1]))
    with pytest.raises(
        ValueError, match=r"network returned shape \(3, 2\) for x of shape \(3, 2\): give a network that ret.*outputs=3"
    ):
        Classifier(MLP((2,)), SDE, 3)(x, T)
    with pytest.raises(ValueError, match="classes=1 is not allowed"):
        Classifier(MLP((2,)), SDE, 1)
    for name, value in {"size": 0, "shift": math.inf, "scale": 0.0, "min_std": -1.0}.items():
        with pytest.raises(ValueError, match=f"{name}={value}"):
            Regressor(MLP((2,), outputs=2), SDE, **{name: value})
