"""parity/layers.npz: embeddings, resampling, and every kind of block, by itself."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scoresde.networks import FIR, Averaging, FourierEmbedding, SinusoidalEmbedding
from scoresde.networks.blocks import Attention, Downsample, ResidualBlock, Upsample

from .common import arrays, deviation, tensor

DATA = arrays("layers")
DTYPES = [torch.float32, torch.float64]
# the data is float32: in float64 ours is as far from it as float32 is
TOLERANCE = 1e-6
# the data's names for ours, in the order of a block
PARTS = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "label": "Dense_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
}
ATTENTION = {"norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}


@pytest.fixture
def assert_agrees(worst):
    def check(ours, key):
        error = deviation(ours.detach(), DATA[key])
        worst("network layers", error)
        assert error < TOLERANCE, key

    return check


def assert_waves(phase, stretch, key, ours):
    """Features against their definition, sin and cos of phases in float64: ours are within the rounding of a feature, 2^-24.

    The reference computes phases p in float32, and is off by up to ``stretch`` p / 2^24, which is 4e-5 here.
    """
    truth, theirs = torch.cat((phase.sin(), phase.cos()), 1), tensor(DATA[key], torch.float64)[:, : 2 * phase.shape[1]]
    rounding = 1e-11 if ours.dtype == torch.float64 else 2**-24
    assert float((ours[:, : truth.shape[1]] - truth).abs().max()) < rounding
    assert not ours[:, truth.shape[1] :].any()
    allowed = stretch * phase.abs() / 2**24 + 2**-23
    assert bool(((theirs - truth).abs() <= torch.cat((allowed, allowed), 1)).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", ["dim4", "dim15", "dim16", "dim128", "int_dim16"])
def test_sinusoidal_embedding(key, dtype):
    size, labels = int(key.rsplit("dim", 1)[1]), tensor(DATA["emb/int_labels" if "int" in key else "emb/labels"], dtype)
    j = torch.arange(size // 2, dtype=torch.float64)
    phase = labels.double()[:, None] * 10_000.0 ** (-j / (size // 2 - 1))
    # rounded are the product, the frequency w, and ln w before it
    assert_waves(phase, 2.0 + 9.21 * j / (size // 2 - 1), f"emb/{key}", SinusoidalEmbedding(size)(labels))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fourier_embedding(dtype):
    embedding = FourierEmbedding(5)
    embedding.frequencies.copy_(tensor(DATA["fourier/W"]))
    label = tensor(DATA["fourier/log_sigma"], torch.float64)
    phase = 2 * math.pi * label[:, None] * tensor(DATA["fourier/W"], torch.float64)
    assert_waves(phase, 3.0, "fourier/out", embedding.to(dtype)(label))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kernel", ["1331", "121", "11", "1234", "124"])
def test_filters(kernel, direction, dtype, assert_agrees):
    fir = FIR([int(k) for k in kernel]).to(dtype)
    assert_agrees(getattr(fir, direction)(tensor(DATA["fir/x"], dtype)), f"fir/{kernel}/{direction}")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_averaging(direction, assert_agrees):
    assert_agrees(getattr(Averaging(), direction)(tensor(DATA["fir/x"])), f"naive/{direction}")


def test_averaging_of_blocks(assert_agrees):
    assert_agrees(Averaging().down(tensor(DATA["block/x"])), "block/downsample_avg/out")


@pytest.mark.parametrize("kernel", ["1331", "1234", "121"])
def test_filtered_convolution(kernel, assert_agrees):
    module = Downsample(2, 3, 4, FIR([int(k) for k in kernel]))
    module.conv.load_state_dict({"weight": tensor(DATA["fir/conv_w"]), "bias": tensor(DATA["fir/conv_b"])})
    assert_agrees(module(tensor(DATA["fir/x"])), f"fir/{kernel}/conv_down")


def load(module, name, parts, like):
    """Fill a module with the data's weights; the pointwise ones are stored transposed."""
    theirs = {
        key.removeprefix(f"block/{name}/param/"): tensor(DATA[key])
        for key in DATA
        if key.startswith(f"block/{name}/param/")
    }
    state = {}
    for ours, part in parts.items():
        pointwise = f"NIN_0.{'W'}" if part == "Conv_2" and "NIN_0.W" in theirs else f"{part}.W"
        if pointwise in theirs:
            weight, bias = theirs.pop(pointwise).T, theirs.pop(pointwise[:-1] + "b")
            state |= {
                f"{ours}.weight": weight.reshape(module.state_dict()[f"{ours}.weight"].shape),
                f"{ours}.bias": bias,
            }
        elif f"{part}.weight" in theirs:
            state |= {f"{ours}.{what}": theirs.pop(f"{part}.{what}") for what in ("weight", "bias")}
    assert not theirs
    module.load_state_dict(state)
    return module.to(like).eval()


BLOCKS = {
    "biggan_same": (8, {"rescale": True}),
    "biggan_wide": (12, {"rescale": True}),
    "biggan_down_fir": (8, {"rescale": True, "resampling": FIR(), "direction": "down"}),
    "biggan_up_fir": (8, {"rescale": True, "resampling": FIR(), "direction": "up"}),
    "biggan_down_naive": (8, {"rescale": True, "resampling": Averaging(), "direction": "down"}),
    "biggan_up_naive": (8, {"rescale": True, "resampling": Averaging(), "direction": "up"}),
    "ddpmpp_same": (8, {}),
    "ddpmpp_wide_rescale": (12, {"rescale": True}),
    "ddpmpp_convshortcut": (12, {"shortcut_size": 3}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_residual_blocks(name, dtype, assert_agrees):
    after, how = BLOCKS[name]
    block = load(ResidualBlock(2, 8, after, 12, **how), name, PARTS, dtype)
    assert_agrees(block(tensor(DATA["block/x"], dtype), F.silu(tensor(DATA["block/temb"], dtype))), f"block/{name}/out")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["attn_rescale", "attn_plain"])
def test_attention(name, dtype, assert_agrees):
    module = load(Attention(8, rescale=name == "attn_rescale"), name, ATTENTION, dtype)
    assert_agrees(module(tensor(DATA["block/x"], dtype)), f"block/{name}/out")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("downsample_conv_nofir", Downsample), ("ddpm_downsample_conv", Downsample), ("ddpm_upsample_conv", Upsample)],
)
def test_resampling_by_convolution(name, kind, assert_agrees):
    module = load(kind(2, 8, 8, Averaging()), name, {"conv": "Conv_0"}, torch.float32)
    assert_agrees(module(tensor(DATA["block/x"])), f"block/{name}/out")


def test_all_of_the_data_is_tested():
    tested = {
        *BLOCKS,
        "attn_rescale",
        "attn_plain",
        "downsample_avg",
        "downsample_conv_nofir",
        "ddpm_downsample_conv",
        "ddpm_upsample_conv",
    }
    assert {key.split("/")[1] for key in DATA if key.startswith("block/") and key.endswith("/out")} == tested
