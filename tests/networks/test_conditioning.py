"""Conditions of the networks: each sample has its own, absent ones are ignored, and wrong ones are refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scoresde.conditions import Classes, Image, Tokens, Vector
from scoresde.networks import DDPM, MLP, DDPMpp, NCSNpp, SmallUNet

from .common import disturbed, normal

LABELS = torch.tensor([-3.0, -1.0, 0.0, 2.0])
B, EVENT = 4, (1, 8, 8)
KINDS = {"label": Classes(3), "vector": Vector(5), "picture": Image(2), "words": Tokens(6)}
VALUES = {
    "label": torch.tensor([0, 1, 2, 1]),
    "vector": normal((B, 5), "vector"),
    "picture": normal((B, 2, 8, 8), "picture"),
    "words": normal((B, 7, 6), "words"),
}
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1}
NETWORKS = {
    "MLP": lambda kinds: MLP(EVENT, width=16, depth=1, conditions=kinds),
    "SmallUNet": lambda kinds: SmallUNet(EVENT, 8, 1, conditions=kinds),
    "NCSNpp": lambda kinds: NCSNpp(EVENT, **SMALL, conditions=kinds),
    "DDPMpp": lambda kinds: DDPMpp(EVENT, **SMALL, conditions=kinds),
    "DDPM": lambda kinds: DDPM(EVENT, **SMALL, conditions=kinds),
}
X = normal((B, *EVENT))
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def differ(a, b):
    return (a - b).detach().flatten(1).abs().amax(1)


@every_network
def test_an_untrained_network_does_not_depend_on_its_conditions(make):
    """Except on images, which are part of the input."""
    names = [name for name in KINDS if name != "picture"]
    network = make({name: KINDS[name] for name in names}).eval()
    assert torch.equal(network(X, LABELS, **{name: VALUES[name] for name in names}), network(X, LABELS))


@every_network
@every_kind
def test_each_sample_has_its_own_condition(make, name):
    network, values = disturbed(make({name: KINDS[name]}), 0.3).eval(), VALUES[name]
    whole = network(X, LABELS, **{name: values})
    alone = torch.cat([network(X[i : i + 1], LABELS[i : i + 1], **{name: values[i : i + 1]}) for i in range(B)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
    changed = values.clone()
    changed[0] = values[1]
    moved = differ(network(X, LABELS, **{name: changed}), whole)
    assert float(moved[0]) > 1e-3
    assert float(moved[1:].max()) < 1e-5


@every_network
@every_kind
def test_a_dropped_condition_is_an_absent_one(make, name):
    network, given = disturbed(make({name: KINDS[name]}), 0.3).eval(), {name: VALUES[name]}
    whole, without = network(X, LABELS, **given), network(X, LABELS)
    assert float(differ(whole, without).min()) > 1e-3
    dropped = torch.tensor([True, False, True, False])
    some = network(X, LABELS, **given, dropped=dropped)
    torch.testing.assert_close(some[dropped], without[dropped], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some[~dropped], whole[~dropped], rtol=1e-4, atol=1e-5)
    assert torch.equal(network(X, LABELS, **{name: None}), without)


@every_network
def test_every_parameter_of_the_conditions_is_trained(make):
    network = disturbed(make(KINDS), 0.3)
    dropped = torch.tensor([False, False, False, True])
    network(X, LABELS, **VALUES, dropped=dropped).square().sum().backward()
    lost = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not [name for name in lost if "conditioning" in name or "tokens" in name]


@every_network
def test_every_parameter_has_a_gradient_without_dropout(make):
    """DistributedDataParallel refuses parameters without one."""
    network = make(KINDS)
    network(X, LABELS, **VALUES).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("make", [NETWORKS["MLP"], NETWORKS["SmallUNet"], NETWORKS["NCSNpp"]])
def test_tokens_are_a_set_and_nan_is_padding(make):
    network, words = disturbed(make({"words": Tokens(6)}), 0.3).eval(), VALUES["words"]
    whole = network(X, LABELS, words=words)
    torch.testing.assert_close(network(X, LABELS, words=words[:, torch.randperm(7)]), whole, rtol=1e-4, atol=1e-4)
    padded = torch.cat((words, torch.full((B, 3, 6), torch.nan)), dim=1)
    torch.testing.assert_close(network(X, LABELS, words=padded), whole, rtol=1e-4, atol=1e-4)
    none = network(X, LABELS, words=torch.full((B, 3, 6), torch.nan))
    assert bool(torch.isfinite(none).all())


@every_network
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conditions_in_half_precision(make, dtype):
    network = disturbed(make(KINDS), 0.1).eval()
    with torch.autocast("cpu", dtype):
        mixed = network(X, LABELS, **VALUES)
    torch.testing.assert_close(mixed.float(), network(X, LABELS, **VALUES), rtol=0.1, atol=0.1)


@every_network
def test_conditions_of_a_network_in_double_precision(make):
    network = disturbed(make(KINDS), 0.1).eval()
    narrow = network(X, LABELS, **VALUES)
    wide = network.double()(X.double(), LABELS.double(), **VALUES)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), narrow, rtol=1e-3, atol=1e-4)


@every_network
def test_equal_conditions_in_other_types_are_equal(make):
    network = disturbed(make({"label": Classes(3), "size": Vector(1)}), 0.3).eval()
    wanted = network(X, LABELS, label=torch.full((B,), 2), size=torch.full((B, 1), 3.0))
    for label in (2, np.int64(2), np.uint8(2), torch.tensor(2)):
        assert torch.equal(network(X, LABELS, label=label, size=3.0), wanted)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32):
        assert torch.equal(network(X, LABELS, label=torch.full((B,), 2, dtype=dtype), size=3), wanted)
    for size in (np.float32(3), torch.tensor(3.0), torch.full((B,), 3.0), torch.full((B, 1), 3.0).double()):
        assert torch.equal(network(X, LABELS, label=2, size=size), wanted)
    for wrong in ({"label": True}, {"label": 3}, {"label": -1}, {"label": 1.0}, {"size": True}, {"size": math.nan}):
        with pytest.raises(ValueError, match="is not allowed: give a"):
            network(X, LABELS, **wrong)


@every_network
def test_classes_differ(make):
    network = disturbed(make({"label": Classes(3)}), 0.3).eval()
    out = network(X[:1].expand(3, -1, -1, -1), LABELS[:1].expand(3), label=torch.tensor([0, 1, 2]))
    for a, b in itertools.combinations(range(3), 2):
        assert float((out[a] - out[b]).detach().abs().max()) > 1e-3
    one = network(X, LABELS, label=2)
    torch.testing.assert_close(one, network(X, LABELS, label=torch.full((B,), 2)))


@every_network
def test_wrong_conditions_are_refused(make):
    network = make(KINDS)
    with pytest.raises(TypeError, match=r"the condition lable is not known: the network takes label, .* mean 'label'"):
        network(X, LABELS, lable=VALUES["label"])
    with pytest.raises(
        ValueError, match=r"label is 3 in row 3, which is not allowed: give a class, a whole number in 0 \.\. 2"
    ):
        network(X, LABELS, label=torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"picture has sides|picture of shape"):
        network(X, LABELS, picture=torch.zeros(B, 2, 7, 8))
    with pytest.raises(TypeError, match="the condition label is not known: the network takes none"):
        make(None)(X, LABELS, label=VALUES["label"])
    for wrong in ({"dropped": Classes(2)}, {"a b": Classes(2)}, {"y": 3}, [Classes(2)]):
        with pytest.raises((TypeError, ValueError), match=r"conditions"):
            make(wrong)
