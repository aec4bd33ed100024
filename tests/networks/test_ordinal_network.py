"""Networks of levels made from networks of numbers: the numbers that the body sees, the order of logits, logistic logits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from scoresde.conditions import Classes, Image
from scoresde.networks import DDPM, MLP, DDPMpp, ImprovedUNet, OrdinalNetwork, SmallUNet

from .common import disturbed, normal

T = torch.tensor([0.0, 0.3, 0.8, 1.0])
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1}
BODIES = {
    "no sides": ((), partial(MLP, width=8, depth=1)),
    "vector": ((5,), partial(MLP, width=8, depth=1)),
    "SmallUNet": ((1, 4, 6), partial(SmallUNet, channels=8, blocks=1)),
    "DDPMpp": ((3, 8, 8), partial(DDPMpp, **SMALL)),
    "series": ((2, 12), partial(DDPMpp, **SMALL)),
    "ImprovedUNet": ((3, 4, 4), partial(ImprovedUNet, channels=32, multipliers=(1,), blocks=1, attention=())),
}


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def levels_of(event, states, batch=4):
    return (normal((batch, *event)).abs() * 1e4).long() % states


class Record(nn.Module):
    """A body that keeps its input and label, and returns numbers that tell where they are from."""

    def __init__(self, event_shape, outputs):
        super().__init__()
        self.event_shape, self.outputs = event_shape, outputs

    def forward(self, x, label):
        self.x, self.label = x, label
        count = math.prod(self.event_shape) * self.outputs
        numbers = torch.arange(float(count)).reshape(*self.event_shape, self.outputs)
        return (numbers if self.outputs > 1 else numbers[..., 0]).expand(
            len(x), *[-1] * (len(self.event_shape) + (self.outputs > 1))
        )


@pytest.mark.covering
@pytest.mark.parametrize("logistic", [False, True])
@pytest.mark.parametrize(("states", "features"), [(5, 0), (6, 0), (6, 7)])
@pytest.mark.parametrize("name", BODIES)
def test_logits_of_any_body_and_event(name, states, features, logistic):
    event, body = BODIES[name]
    network = disturbed(OrdinalNetwork(event, 5, states, body, features=features, logistic=logistic))
    out = network(levels_of(event, states), T)
    assert out.shape == (4, *event, 5)
    assert bool(torch.isfinite(out).all()) and len(out.unique()) > 4


def test_the_numbers_of_levels_and_the_mask():
    network = OrdinalNetwork((2, 3), 5, 6, Record)
    x = torch.tensor([[[0, 1, 2], [3, 4, 5]]])
    network(x, T[1:2])
    assert network.body.event_shape == (4, 3)
    levels, masks = network.body.x.reshape(2, 2, 3).unbind(1)
    assert levels.tolist() == [[-1.0, -0.5, 0.0], [0.5, 1.0, 0.0]]
    assert masks.tolist() == [[0, 0, 0], [0, 0, 1]]
    without = OrdinalNetwork((2, 3), 5, 5, Record)
    without(x.clamp(max=4), T[1:2])
    assert torch.equal(without.body.x, torch.tensor([[[-1.0, -0.5, 0.0], [0.5, 1.0, 1.0]]]))


@pytest.mark.parametrize("states", [5, 6])
def test_every_logit_is_a_number_of_its_own_coordinate(states):
    """Numbers of the body in order: with two channels for each coordinate, three of each, of which one is left over."""
    network = OrdinalNetwork((2, 3), 5, states, Record)
    out = network(levels_of((2, 3), states), T)[0]
    if states == 5:
        assert torch.equal(out, torch.arange(30.0).reshape(2, 3, 5))
    else:
        numbers = torch.arange(36.0).reshape(2, 2, 3, 3)
        for c in range(2):
            for i in range(3):
                assert out[c, i].tolist() == [*numbers[c, 0, i].tolist(), *numbers[c, 1, i].tolist()][:5]


def test_labels_of_the_body():
    network, scaled = OrdinalNetwork((2,), 5, 6, Record), OrdinalNetwork((2,), 5, 6, Record, time_scale=999.0)
    x = levels_of((2,), 6)
    network(x, T)
    scaled(x, T)
    wanted = [-14.0, math.log(0.3 / 0.7), math.log(0.8 / 0.2), 7.0]
    assert network.body.label.tolist() == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(scaled.body.label, 999 * T)


def test_default_labels_suit_the_bodies():
    x = levels_of((1, 8, 8), 6)
    t = torch.tensor([0.0, 1e-6, 1 - 1e-6, 1.0])
    for body in (partial(SmallUNet, channels=8, blocks=1), partial(DDPMpp, **SMALL)):
        assert bool(torch.isfinite(disturbed(OrdinalNetwork((1, 8, 8), 5, 6, body))(x, t)).all())
    network = disturbed(OrdinalNetwork((1, 8, 8), 5, 6, partial(DDPM, **SMALL), time_scale=999.0))
    assert float((network(x, T) - network(x, T.flip(0))).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("location", [-2.0, 0.3, 5.0])
@pytest.mark.parametrize("log_scale", [-3.0, 0.0, 2.0])
def test_logistic_logits_by_their_formula(location, log_scale):
    network = OrdinalNetwork((1,), 9, 10, Record, logistic=True).double()
    network.body.forward = lambda x, label: torch.tensor([[location, log_scale]], dtype=torch.float64)
    for level in (3, 9):
        found = network(torch.tensor([[level]]), T[:1])[0, 0].softmax(-1)
        number = 0.0 if level == 9 else level / 4 - 1
        mu, s = math.tanh(location + number), math.exp(log_scale - 2)
        ends = torch.linspace(-1.125, 1.125, 10, dtype=torch.float64)
        bins = torch.sigmoid((ends - mu) / s).diff()
        torch.testing.assert_close(found, bins / bins.sum(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("log_scale", [-1e4, -20.0, 20.0, 1e4])
def test_logistic_logits_are_finite_with_finite_gradients(log_scale):
    network = OrdinalNetwork((1,), 256, 257, Record, logistic=True)
    out = torch.tensor([[0.2, log_scale]], requires_grad=True)
    network.body.forward = lambda x, label: out
    logits = network(torch.tensor([[256]]), T[:1])
    loss = -logits.log_softmax(-1)[0, 0, 3]
    loss.backward()
    assert (
        bool(torch.isfinite(logits).all())
        and bool(torch.isfinite(out.grad).all())
        and math.isfinite(float(loss.detach()))
    )


def test_conditions_are_those_of_the_body():
    kinds = {"c": Classes(3), "i": Image(1)}
    body = partial(SmallUNet, channels=16, blocks=1)
    network = disturbed(OrdinalNetwork((1, 4, 4), 5, 6, body, conditions=kinds)).eval()
    x, c, image = levels_of((1, 4, 4), 6), torch.tensor([0, 1, 2, 0]), normal((4, 1, 4, 4))
    whole, absent = network(x, T, c=c, i=image), network(x, T)
    some = network(x, T, c=c, i=image, dropped=torch.tensor([True, False, True, False]))
    torch.testing.assert_close(some[::2], absent[::2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some[1::2], whole[1::2], rtol=1e-4, atol=1e-5)
    assert float((whole - absent).detach().abs().max()) > 1e-3


def test_gradients_reach_all_parameters():
    """The mask, all levels and their learned features."""
    network = disturbed(OrdinalNetwork((1, 4, 4), 5, 6, partial(SmallUNet, channels=16, blocks=1), features=3))
    out = network(levels_of((1, 4, 4), 6), T)
    (out * normal(out.shape, "weights")).sum().backward()
    for name, p in network.named_parameters():
        spare = name.startswith("body.last")  # 5 logits from 5 channels: nothing is left over
        assert p.grad is not None and float(p.grad.abs().max()) > 0, (name, spare)
    assert bool((network.features.weight.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ({"states": 7}, ValueError, "states=7 is not allowed: give 5 for levels only, or 6 with a mask"),
        ({"tokens": 1, "states": 1}, ValueError, "tokens=1"),
        ({"features": -1}, ValueError, "features=-1"),
        ({"time_scale": 0.0}, ValueError, "time_scale=0.0"),
        ({"event_shape": (5,), "body": SmallUNet}, ValueError, r"event_shape=\(10,\) .* SmallUNet takes \(C, H, W\)"),
        ({"body": lambda size: nn.Identity()}, TypeError, "body=.* does not take event_shape, outputs"),
        ({"body": lambda event_shape, outputs: 3}, TypeError, "body=.* makes 3: give a function that makes a network"),
    ],
)
def test_wrong_arguments_are_named(how, kind, message):
    with pytest.raises(kind, match=message):
        OrdinalNetwork(**{"event_shape": (1, 4, 4), "tokens": 5, "states": 6, "body": SmallUNet, **how})


def test_wrong_levels_are_refused():
    network = OrdinalNetwork((5,), 5, 6, MLP)
    with pytest.raises(ValueError, match="x has the value 6: this OrdinalNetwork was made for 0 to 5"):
        network(torch.full((4, 5), 6), T)
    with pytest.raises(TypeError, match=r"x has dtype torch\.float32: give tokens as int64"):
        network(torch.zeros(4, 5), T)
