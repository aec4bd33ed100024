"""Networks: shapes, outputs before training, gradients of every weight, and independence of samples in a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.networks import MLP, FourierEmbedding, RadialEmbedding, SinusoidalEmbedding, SmallUNet
from scoresde.noise import NoiseSource

EVENTS = [(), (1,), (5,), (2, 3), (1, 2, 3), (2, 1, 2, 2)]
IMAGES = [(1, 2, 2), (1, 8, 8), (3, 4, 6), (2, 10, 2), (1, 7, 3), (2, 1, 5)]


@pytest.fixture(autouse=True)
def same_weights():
    """The initial weights use the global generator of torch."""
    torch.manual_seed(0)


def normal(shape, purpose="x", dtype=torch.float32):
    return NoiseSource.of(0, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


LABELS = torch.tensor([-6.0, -1.0, 0.0, 4.0])


def disturbed(network):
    """The network with weights away from their zeros, the same in every run."""
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += 0.1 * NoiseSource.of(1, 1).normal(p.shape, step=i, purpose="weights", dtype=p.dtype)[0]
    return network


@pytest.mark.parametrize("outputs", [1, 2, 17])
@pytest.mark.parametrize("event", EVENTS)
def test_mlp_shapes(event, outputs):
    network = disturbed(MLP(event, width=16, depth=2, outputs=outputs))
    out = network(normal((4, *event)), LABELS)
    assert out.shape == (4, *event, *([outputs] if outputs > 1 else []))
    assert torch.isfinite(out).all() and len(out.unique()) > 1


@pytest.mark.parametrize("outputs", [1, 2, 17])
@pytest.mark.parametrize("event", IMAGES)
def test_unet_shapes(event, outputs):
    network = disturbed(SmallUNet(event, channels=8, blocks=1, outputs=outputs))
    out = network(normal((4, *event)), LABELS)
    assert out.shape == (4, *event, *([outputs] if outputs > 1 else []))
    assert torch.isfinite(out).all() and len(out.unique()) > 1


@pytest.mark.parametrize("blocks", [1, 3])
def test_unet_depth_and_dropout(blocks):
    network = disturbed(SmallUNet((1, 4, 4), channels=16, blocks=blocks, dropout=0.5))
    x = normal((4, 1, 4, 4))
    assert len(network.down) == len(network.before) == len(network.up) == blocks
    network.eval()
    assert torch.equal(network(x, LABELS), network(x, LABELS))
    network.train()
    assert not torch.equal(network(x, LABELS), network(x, LABELS))


NETWORKS = {
    "mlp": lambda **how: MLP((1, 4, 4), width=16, depth=2, **how),
    # 16 channels: with 8 every group of a norm is one channel, and it takes away whatever a bias adds
    "unet": lambda **how: SmallUNet((1, 4, 4), channels=16, blocks=1, **how),
}


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_of_an_untrained_network_is_constant(name, outputs):
    """The weights of the last layer are zero, so the output does not depend on x and the label."""
    network = NETWORKS[name](outputs=outputs)
    assert not network.last.weight.any()
    out = network(normal((4, 1, 4, 4)), LABELS)
    assert torch.equal(out, out[:1].expand_as(out)) and float(out.detach().abs().max()) < 1


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_coordinate_s_own(name):
    """Each output of each coordinate depends on its own bias: the order of the rows of the last layer is inverted."""
    network = NETWORKS[name](outputs=3)
    with torch.no_grad():
        network.last.bias.copy_(torch.arange(len(network.last.bias)))
    out = network(normal((4, 1, 4, 4)), LABELS)[0]
    rows = torch.arange(48.0).reshape(1, 4, 4, 3) if name == "mlp" else torch.arange(3.0).expand(1, 4, 4, 3)
    assert torch.equal(out, rows)


def test_unet_keeps_channels_and_outputs_apart():
    network = SmallUNet((2, 4, 4), channels=8, blocks=1, outputs=3)
    with torch.no_grad():
        network.last.bias.copy_(torch.arange(6))
    out = network(normal((4, 2, 4, 4)), LABELS)
    assert torch.equal(out[0, :, 1, 2], torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_all_parameters(name):
    network = disturbed(NETWORKS[name]())
    (network(normal((4, 1, 4, 4)), LABELS) * normal((4, 1, 4, 4), "weights")).sum().backward()
    for what, p in network.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), what
        assert float(p.grad.abs().max()) > 1e-4, what
    if name == "unet":  # a label moves scale and shift of a block, each for itself
        for half in network.down[0].label.weight.grad.chunk(2):
            assert float(half.abs().max()) > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_all_parameters_in_training(name):
    """Starting at zero weights of the last layer, every parameter has changed after four steps."""
    network = NETWORKS[name]()
    before = {what: p.detach().clone() for what, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        ((network(normal((4, 1, 4, 4)), LABELS) - normal((4, 1, 4, 4), "target")) ** 2).mean().backward()
        optimizer.step()
    still = [what for what, p in network.named_parameters() if torch.equal(p, before[what])]
    assert not still


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(name, dtype):
    """Up to the order of summation, which a batched matrix product can change."""
    network = disturbed(NETWORKS[name]()).to(dtype).eval()
    x, labels = normal((9, 1, 4, 4), dtype=dtype), torch.linspace(-6, 4, 9, dtype=dtype)
    whole = network(x, labels)
    assert whole.dtype == dtype
    alone = torch.cat([network(x[i : i + 1], labels[i : i + 1]) for i in range(9)])
    tolerance = 200 * torch.finfo(dtype).eps * float(whole.abs().max())
    assert float((whole - alone).abs().max()) < tolerance
    order = torch.tensor([3, 1, 8, 0, 2, 4, 7, 5, 6])
    assert float((network(x[order], labels[order]) - whole[order]).abs().max()) < tolerance
    # and it does depend on itself, and on its label
    assert float((network(x, labels.flip(0)) - whole)[:4].abs().max()) > 1000 * tolerance
    assert float((network(x.flip(0), labels) - whole)[:4].abs().max()) > 1000 * tolerance


def test_the_unet_depends_on_the_position_of_a_pixel():
    """The learned value of each position: without it the output for a constant image is symmetric."""
    network = disturbed(SmallUNet((1, 4, 4), channels=8, blocks=1)).eval()
    with torch.no_grad():
        network.position.copy_(normal((8, 4, 4), "place"))
    out = network(torch.zeros(1, 1, 4, 4), LABELS[:1])[0, 0]
    assert not torch.allclose(out, out.flip(0), atol=1e-3)


def test_radial_embedding_by_its_formula():
    embedding = RadialEmbedding(5, -2.0, 2.0)
    assert embedding.centers.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    found = embedding(torch.tensor([0.5, -2.0]))
    wanted = [[math.exp(-0.5 * (label - c) ** 2) for c in range(-2, 3)] for label in (0.5, -2.0)]
    assert torch.allclose(found, torch.tensor(wanted), rtol=1e-6)
    assert "centers" in embedding.state_dict() and not list(embedding.parameters())


@pytest.mark.parametrize("bad", [-100.0, 15.0, 999.0, math.nan, math.inf])
def test_labels_far_outside_the_range_raise_an_error(bad):
    labels = torch.tensor([0.0, bad])
    for call in (
        lambda: RadialEmbedding()(labels),
        lambda: MLP((2,), width=8)(torch.zeros(2, 2), labels),
        lambda: SmallUNet((1, 2, 2), channels=8, blocks=1)(torch.zeros(2, 1, 2, 2), labels),
    ):
        with pytest.raises(ValueError, match=r"do not suit an embedding made for \[-15, 8\]"):
            call()


def test_all_labels_that_are_accepted_are_distinct():
    """Every accepted label has a feature of at least 1e-6, so the output can depend on it, as the docstring states."""
    embedding = RadialEmbedding()
    blind = []
    for label in torch.linspace(-30, 30, 601).tolist():
        try:
            features = embedding(torch.tensor([label]))
        except ValueError:
            continue
        if float(features.max()) < 1e-6:
            blind.append(label)
    assert not blind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((2,), width=0), "width="),
        (lambda: MLP((2,), depth=0), "depth="),
        (lambda: MLP((2,), outputs=0), "outputs="),
        (lambda: SmallUNet((8, 8)), "event_shape="),
        (lambda: SmallUNet((1, 8, 8), channels=12), "channels="),
        (lambda: SmallUNet((1, 8, 8), channels=0), "channels="),
        (lambda: SmallUNet((1, 8, 8), blocks=0), "blocks="),
        (lambda: SmallUNet((1, 8, 8), outputs=0), "outputs="),
        (lambda: SmallUNet((1, 8, 8), dropout=1.5), "dropout"),
        (lambda: RadialEmbedding(1), "count="),
        (lambda: RadialEmbedding(8, 2.0, 2.0), "high="),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("embedding", [SinusoidalEmbedding(6), FourierEmbedding(5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_embeddings(name, embedding):
    """The sinusoidal embedding accepts labels outside the range of the radial embedding, such as 999 t in the paper."""
    network = disturbed(NETWORKS[name](embedding=embedding))
    out = network(normal((4, 1, 4, 4)), torch.tensor([0.0, 10.0, 500.0, 999.0]))
    assert torch.isfinite(out).all() and len(out.unique()) > 1


def test_networks_are_modules_that_save():
    for make in NETWORKS.values():
        network, other = disturbed(make()), make()
        other.load_state_dict(network.state_dict())
        assert isinstance(network, nn.Module)
        x = normal((4, 1, 4, 4))
        assert torch.equal(network(x, LABELS), other(x, LABELS))
