"""Networks whose body is a node of its own: its shape and outputs come from the network around it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde.conditions import Classes
from scoresde.experiment import ConfigError, build
from scoresde.networks import OrdinalNetwork, RadialEmbedding, SmallUNet

CONTEXT = {"event_shape": (1, 8, 8), "tokens": 17, "states": 18, "conditions": {"label": Classes(10)}, "outputs": 17}


def made(body, **more):
    return build({"name": "OrdinalNetwork", "body": body, **more}, "network", nn.Module, **CONTEXT)


def test_the_body_of_a_node():
    body = {"name": "SmallUNet", "channels": 8, "blocks": 1, "embedding": {"name": "RadialEmbedding", "count": 10}}
    network = made(body, features=1)
    assert isinstance(network, OrdinalNetwork) and isinstance(network.body, SmallUNet)
    assert network.body.event_shape == (3, 8, 8) and network.body.outputs == 6
    assert isinstance(network.body.embedding, RadialEmbedding) and network.body.embedding.features == 10
    x = torch.randint(18, (2, 1, 8, 8))
    assert network(x, torch.rand(2), label=torch.tensor([1, 2])).shape == (2, 1, 8, 8, 17)
    assert made({"name": "MLP"}).body.event_shape == (2, 8, 8)  # without arguments


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "SmallUNet", "channels": 12}, "config.network: OrdinalNetwork cannot be built: channels=12"),
        ({"name": "SmallUNet", "chanels": 8}, r"config.network.body.chanels is not known: SmallUNet takes .*channels"),
        (
            {"name": "SmallUNet", "channels": "a"},
            r"config.network.body.channels='a' is not allowed: give a whole number",
        ),
        (
            {"name": "VPSDE"},
            r"config.network.body: VPSDE is not allowed here: give Module, allowed are .*SmallUNet",
        ),
        ({"name": "karras"}, "config.network.body: karras is not allowed here"),
        ({"name": "TokenTransformer"}, "TokenTransformer.* does not take event_shape, outputs"),
        ("SmallUNet", "config.network.body='SmallUNet' is not allowed: give a function"),
    ],
)
def test_a_wrong_body_is_named(body, message):
    with pytest.raises(ConfigError, match=message):
        made(body)
