"""NCSN++, DDPM++ and DDPM: shapes, initialization, classes, recomputation. Outputs are compared with parity data elsewhere."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from scoresde import VPSDE, ScoreModel
from scoresde.conditions import Classes
from scoresde.losses import SlicedScoreMatching
from scoresde.networks import (
    DDPM,
    FIR,
    Averaging,
    DDPMpp,
    FourierEmbedding,
    NCSNpp,
    RadialEmbedding,
    SinusoidalEmbedding,
)
from scoresde.networks.blocks import convolution, group_norm

from .common import disturbed, normal, weights_of

LABELS = torch.tensor([-3.0, -1.0, 0.0, 2.0])
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp, DDPM])
@pytest.mark.parametrize(
    ("event", "outputs"), [((1, 8), 1), ((2, 6), 3), ((1, 8, 8), 1), ((3, 4, 10), 3), ((1, 2, 4, 6), 1)]
)
def test_shapes(event, kind, outputs):
    """Series, images and volumes, any number of channels."""
    network = disturbed(kind(event, **SMALL | {"attention": (max(event[1:]) // 2,)}, outputs=outputs))
    out = network(normal((4, *event)), LABELS)
    assert out.shape == (4, *event, *([outputs] if outputs > 1 else []))
    assert torch.isfinite(out).all() and len(out.unique()) > 1


WAYS = ["none", "skip", "residual"]
STYLES = [
    *itertools.product(["biggan", "ddpm"], WAYS, WAYS, ["sum"]),
    *itertools.product(["biggan", "ddpm"], ["skip"], WAYS, ["cat"]),
]


@pytest.mark.covering
@pytest.mark.parametrize(
    ("block", "down", "up", "combine", "resampling"), [(*s, [FIR, Averaging][i % 2]) for i, s in enumerate(STYLES)]
)
def test_every_style_works_and_uses_all_its_weights(block, down, up, combine, resampling):
    """Also those that the reference implementation cannot run."""
    network = disturbed(
        NCSNpp(
            (1, 8), 8, (1, 1, 2), 1, (4,), block=block, progressive_input=down, progressive_output=up, combine=combine,
            resampling=resampling(),
        )
    ).double()  # fmt: skip
    weights_of(network(normal((4, 1, 8), dtype=torch.float64), LABELS.double())).backward()
    for name, p in network.named_parameters():
        # the same for all keys of a query: softmax does not see it
        assert ("key.bias" in name) == (float(p.grad.abs().max()) < 1e-9), name


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp, DDPM])
def test_the_output_of_an_untrained_network_is_nearly_zero(kind):
    """The weights of the last layer and of every branch are initially nearly zero."""
    network = kind((3, 8, 8), **SMALL)
    assert 0.0 < float(network(normal((4, 3, 8, 8)), LABELS).detach().abs().max()) < 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_initial_weights(scale):
    """Uniform with variance scale / mean(fan in, fan out): its end is sqrt 3 standard deviations away."""
    weight = convolution(2, 16, 64, scale=scale).weight.detach()
    std = math.sqrt(scale / (0.5 * (16 + 64) * 9))
    assert abs(float(weight.std()) / std - 1) < 0.02
    assert 0.98 < float(weight.abs().max()) / (std * math.sqrt(3)) <= 1.0


@pytest.mark.parametrize(
    ("channels", "width", "groups"),
    [(128, 4, 32), (384, 4, 32), (48, 4, 12), (144, 4, 24), (6, 4, 1), (2, 4, 1), (96, 1, 32), (36, 1, 18)],
)
def test_groups_divide_the_channels(channels, width, groups):
    assert group_norm(channels, width).num_groups == groups


def test_one_channel_in_a_group_hides_the_label():
    """32 groups as in DDPM remove the label in small networks. The default avoids this."""
    x = normal((4, 1, 8, 8), dtype=torch.float64)
    for width, blind in ((1, True), (2, False)):
        network = disturbed(DDPM((1, 8, 8), 8, (1, 1), 1, (), group_width=width)).double()
        apart = float((network(x, LABELS.double()) - network(x, LABELS.double().flip(0))).detach().abs().max())
        assert apart < 1e-12 if blind else apart > 1e-3


def test_input_range():
    """The network maps [0, 1] to [-1, 1]."""
    a, b = NCSNpp((1, 8, 8), **SMALL), NCSNpp((1, 8, 8), **SMALL, input_range=(0.0, 1.0))
    disturbed(a)
    b.load_state_dict(a.state_dict())
    x = normal((4, 1, 8, 8))
    assert torch.allclose(b(x, LABELS), a(2 * x - 1, LABELS), atol=1e-5)


def test_other_sides_than_those_it_was_made_for():
    network = disturbed(NCSNpp((1, 8, 8), **SMALL))
    for event in [(1, 6, 12), (1, 7, 8), (1, 8, 9)]:
        assert network(normal((4, *event)), LABELS).shape == (4, *event)
    for bad in [(2, 8, 8), (1, 8), (8, 8)]:
        with pytest.raises(
            ValueError, match=r"this NCSNpp was made for \(1, 8, 8\) and takes as many channels and sides"
        ):
            network(normal((4, *bad)), LABELS)


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp, DDPM])
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(kind):
    network = disturbed(kind((1, 8, 8), **SMALL)).double().eval()
    x, labels = normal((5, 1, 8, 8), dtype=torch.float64), torch.linspace(-3, 2, 5, dtype=torch.float64)
    whole = network(x, labels)
    alone = torch.cat([network(x[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(whole, alone, atol=1e-10)
    assert float((network(x, labels.flip(0)) - whole)[:2].abs().max()) > 1e-3
    assert float((network(x.flip(0), labels) - whole)[:2].abs().max()) > 1e-3


class TestCheckpoint:
    def pair(self):
        kept = disturbed(NCSNpp((1, 8, 8), **SMALL, dropout=0.5))
        again = NCSNpp((1, 8, 8), **SMALL, dropout=0.5, checkpoint=True)
        again.load_state_dict(kept.state_dict())
        return kept.train(), again.train()

    def test_gradients_are_the_same_dropout_included(self):
        found = []
        for network in self.pair():
            torch.manual_seed(3)
            out = network(normal((4, 1, 8, 8)), LABELS)
            weights_of(out).backward()
            found.append((out.detach(), {n: p.grad for n, p in network.named_parameters()}))
        (out, gradients), (out_again, again) = found
        assert torch.equal(out, out_again)
        assert all(torch.allclose(gradients[n], again[n], rtol=1e-4, atol=1e-5) for n in gradients)

    def test_less_is_saved_for_the_backward_pass(self):
        kept = []
        for network in self.pair():
            sizes = {}

            def pack(tensor, sizes=sizes):
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
                return tensor

            with saved_tensors_hooks(pack, lambda tensor: tensor):
                out = network(normal((4, 1, 8, 8)), LABELS)
            own = {p.data_ptr() for p in network.parameters()}
            kept.append(sum(size for place, size in sizes.items() if place not in own))
            del out
        assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_second_derivatives(checkpoint):
    """Sliced score matching trains through the Jacobian, attention's and recomputed blocks' too: against finite differences."""
    sde = VPSDE()
    network = disturbed(NCSNpp((1, 8), 8, (1, 1), 1, (4,), checkpoint=checkpoint)).double()
    model, objective = ScoreModel(network, sde), SlicedScoreMatching(sde)
    draw = objective.draw(normal((2, 1, 8), dtype=torch.float64), step=0)
    objective.evaluate(model, draw).mean().backward()
    step = [1e-5 * normal((1, *p.shape), f"step{i}", p.dtype)[0] for i, p in enumerate(network.parameters())]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(network.parameters(), step, strict=True))
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(network.parameters(), step, strict=True):
                p += sign * d
            ends.append(float(objective.evaluate(model, draw).mean()))
    assert abs((ends[0] - ends[1]) / 2 - slope) < 1e-5 * abs(slope)


def test_attention_where_it_was_asked_for():
    def attended(event, attention):
        network = NCSNpp(event, 8, (1, 1, 1), 1, attention)
        return [level.blocks[0].attention is not None for level in network.down]

    assert attended((1, 16, 16), (8,)) == [False, True, False]
    assert attended((1, 8, 16), (16, 4)) == [True, False, True]
    assert attended((1, 16), ()) == [False, False, False]


@pytest.mark.parametrize("embedding", [FourierEmbedding(6), SinusoidalEmbedding(10), RadialEmbedding(7)])
def test_any_embedding(embedding):
    network = disturbed(DDPMpp((1, 8, 8), **SMALL, embedding=embedding))
    assert torch.isfinite(network(normal((4, 1, 8, 8)), LABELS)).all()


def test_frequencies_are_drawn_once_and_never_trained():
    embedding = FourierEmbedding(512, scale=3.0)
    assert list(embedding.state_dict()) == ["frequencies"] and not list(embedding.parameters())
    assert abs(float(embedding.frequencies.std()) / 3.0 - 1) < 0.1


def test_copies_and_precisions():
    """The filter's taps lie in a buffer that is shared, moves along and is no part of a state."""
    network = disturbed(NCSNpp((1, 8, 8), **SMALL))
    twin = copy.deepcopy(network).double()
    assert {b.dtype for b in twin.buffers()} == {torch.float64} and not any("taps" in n for n in network.state_dict())
    x = normal((4, 1, 8, 8))
    assert torch.allclose(network(x, LABELS), twin(x.double(), LABELS.double()).float(), atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x, LABELS)
    assert float((half - network(x, LABELS)).detach().abs().max()) < 0.1 * float(
        network(x, LABELS).detach().abs().max()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSNpp((8,)), "event_shape="),
        (lambda: NCSNpp((1, 4, 4), 8), r"event_shape=\(1, 4, 4\) is not allowed with 4 multipliers"),
        (lambda: NCSNpp((1, 8, 8, 8, 8), 8), "one to three sides"),
        (lambda: NCSNpp((1, 8), channels=0), "channels="),
        (lambda: NCSNpp((1, 8), 8, multipliers=(1, 0)), "multipliers="),
        (lambda: NCSNpp((1, 8), 8, blocks=0), "blocks="),
        (lambda: NCSNpp((1, 8), 8, outputs=0), "outputs="),
        (lambda: NCSNpp((1, 8), 8, conditions={"x": Classes(2)}), "conditions: 'x' is not allowed as a name"),
        (
            lambda: NCSNpp((1, 8), 8, conditions={"y": Classes(2)}, conditional=False),
            "conditions=.* with conditional=False",
        ),
        (lambda: NCSNpp((1, 8), 8, dropout=1.5), "dropout"),
        (lambda: NCSNpp((1, 8), 8, input_range=(1.0, 0.0)), "input_range="),
        (lambda: NCSNpp((1, 8), 8, input_range=(1.0,)), "input_range="),
        (lambda: NCSNpp((1, 8), 8, block="gan"), "block='gan'.*did you mean 'biggan'"),
        (lambda: NCSNpp((1, 8), 8, progressive_input="skips"), "progressive_input='skips'.*did you mean 'skip'"),
        (lambda: NCSNpp((1, 8), 8, progressive_output="all"), "progressive_output="),
        (lambda: NCSNpp((1, 8), 8, combine="add"), "combine="),
        (lambda: SinusoidalEmbedding(3), "size="),
        (lambda: FourierEmbedding(0), "count="),
        (lambda: FourierEmbedding(4, 0.0), "scale="),
        (lambda: FIR((1,)), "kernel="),
        (lambda: FIR((1, -1)), "kernel="),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
