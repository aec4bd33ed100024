"""Networks at odd sides and for rectangles: shapes, gradients at all positions, the sides of the levels, attention."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde.networks import DDPM, FIR, NCSN, Averaging, DDPMpp, MultifieldUNet, NCSNpp, NCSNv2, SmallUNet
from scoresde.networks.blocks import Downsample, Resample
from scoresde.networks.ncsnpp import PROGRESSIVE
from scoresde.networks.sides import cropped, sides_of_levels, with_even_sides

from ..params import examples
from .common import disturbed, normal, weights_of

LABELS = torch.tensor([-1.0, 1.0])
STYLES = [
    {"block": block, "progressive_input": down, "progressive_output": up, "combine": combine, "convolve": convolve}
    for block, down, up, combine, convolve in itertools.product(
        ("biggan", "ddpm"), PROGRESSIVE, PROGRESSIVE, ("sum", "cat"), (True, False)
    )
]
LEVELS = {"channels": 8, "multipliers": (1, 1, 2), "blocks": 1}
NETWORKS = {
    "SmallUNet": lambda event: SmallUNet(event, 16, 1),
    "DDPM": lambda event: DDPM(event, **LEVELS),
    "DDPMpp": lambda event: DDPMpp(event, **LEVELS),
    "NCSNpp": lambda event: NCSNpp(event, **LEVELS),
    "NCSN": lambda event: NCSN(event, 4, (1, 1, 2, 2)),
    "NCSNv2": lambda event: NCSNv2(event, 4, (1, 1, 2, 2)),
}


@pytest.fixture(autouse=True, scope="module")
def same_weights():
    torch.manual_seed(0)


def assert_whole(network, event):
    """The output has the input's shape, every weight has a gradient, and every position of the input moves the output."""
    x = normal((2, *event)).requires_grad_()
    labels = torch.tensor([0.0, 3.0]) if isinstance(network, NCSN) else LABELS
    out = disturbed(network)(x, labels)
    assert out.shape == x.shape and torch.isfinite(out).all()
    weights_of(out).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)
    moved = x.grad.abs().sum(0)
    # two random gradients at each position: that one of a million positions falls below by chance has probability 1e-6
    assert float(moved.min()) > 1e-6 * float(moved.median())


SIDES = st.integers(5, 33)


@pytest.mark.parametrize("name", NETWORKS)
@given(sides=st.tuples(SIDES, SIDES))
@settings(max_examples=examples(12), deadline=None, derandomize=True)
def test_any_height_and_width(name, sides):
    assert_whole(NETWORKS[name]((1, *sides)), (1, *sides))


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_every_height_and_width(name):
    for height, width in itertools.product(range(5, 34), repeat=2):
        assert_whole(NETWORKS[name]((1, height, width)), (1, height, width))


@given(
    style=st.sampled_from(STYLES),
    event=st.one_of(
        st.tuples(st.just(2), st.integers(3, 40)),
        st.tuples(st.just(1), SIDES, SIDES),
        st.tuples(st.just(1), st.integers(3, 7), st.integers(1, 7), st.integers(1, 7)),
    ),
    resampling=st.sampled_from([FIR(), FIR((1, 2, 1)), Averaging()]),
)
@settings(max_examples=examples(32), deadline=None, derandomize=True)
def test_any_style_for_series_images_and_volumes(style, event, resampling):
    assert_whole(NCSNpp(event, **LEVELS, **style, resampling=resampling), event)


def test_two_fields_of_odd_sides():
    assert_whole(MultifieldUNet((2, 1, 5, 7), 16, 1), (2, 1, 5, 7))


@given(
    sides=st.lists(st.integers(1, 9), min_size=1, max_size=3), kernel=st.sampled_from([(1, 3, 3, 1), (1, 2, 1), (1, 1)])
)
def test_downsampling_uses_every_value(sides, kernel):
    """Without normalization and attention, which couple all positions, the last value of an odd side counts as well."""
    for resampling in (FIR(kernel), Averaging()):
        for layer in (Resample(resampling, "down"), Downsample(len(sides), 1, 1, resampling)):
            x = torch.ones(1, 1, *sides, requires_grad=True)
            for p in layer.parameters():
                torch.nn.init.ones_(p)
            out = layer(x)
            assert out.shape[2:] == sides_of_levels(sides, 2)[1]
            out.sum().backward()
            assert float(x.grad.min()) > 0.0


def test_means_over_odd_sides_are_over_the_values_that_exist():
    x = normal((2, 3, 5, 7), dtype=torch.float64)
    assert torch.allclose(Resample(Averaging(), "down")(x), F.avg_pool2d(x, 2, ceil_mode=True), atol=1e-15)


def test_even_sides_pass_unchanged():
    x = normal((1, 2, 4, 6))
    assert with_even_sides(x) is x and cropped(x, (4, 6)) is x
    odd = normal((1, 1, 3, 5))
    assert torch.equal(cropped(with_even_sides(odd), (3, 5)), odd)
    assert torch.equal(with_even_sides(odd)[..., :3, 5], odd[..., 4]) and with_even_sides(odd).shape == (1, 1, 4, 6)


def test_the_sides_of_the_levels():
    network = NCSNpp((1, 33, 20), 8, (1, 1, 1, 1), 1)
    seen = []
    for level in network.down:
        level.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[2:])))
    network(normal((2, 1, 33, 20)), LABELS)
    assert seen == sides_of_levels((33, 20), 4) == [(33, 20), (17, 10), (9, 5), (5, 3)]


def attended(network):
    return [level.blocks[0].attention is not None for level in network.down]


def test_attention_at_the_longest_side():
    assert attended(NCSNpp((1, 12, 20), 8, (1, 1, 1), 1, (10,))) == [False, True, False]
    assert attended(NCSNpp((1, 13, 5), 8, (1, 1, 1), 1, (7, 4))) == [False, True, True]
    assert attended(NCSNpp((1, 31, 7), 8, (1, 1, 1), 1)) == [False, True, False]
    assert attended(NCSNpp((1, 24, 24), 8, (1, 1, 1), 1)) == [False, False, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NCSNpp((1, 24, 24), 8, (1, 1, 1), 1, (16, 12)),
            r"attention=\(16, 12\) is not allowed: no level has the longest side 16; sides \(24, 24\) and 3 levels have the "
            "longest sides 24, 12, 6",
        ),
        (lambda: DDPM((1, 12, 20), 8, (1, 1), 1, (6,)), "no level has the longest side 6; .* have the longest sides 20, 10"),
        (lambda: NCSNpp((1, 3, 4), 8), r"\(1, 3, 4\) is not allowed with 4 multipliers: .* would be 4, 2, 1, 1; give at most 3"),
        (lambda: NCSNv2((1, 8, 2)), "H and W above 2 for 4 multipliers"),
        (lambda: NCSNv2((1, 8, 8), 4, (1, 1, 2)), r"multipliers=\(1, 1, 2\) is not allowed: the last two must be equal"),
        (lambda: NCSNv2((1, 9, 9), 4)(torch.zeros(1, 1, 9, 2), torch.zeros(1)), "takes sides above 2"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
