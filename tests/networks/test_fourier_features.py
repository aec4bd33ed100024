"""Fourier features of a network's input."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.conditions import Classes, Image
from scoresde.experiment import load_config
from scoresde.experiment.config.builder import build
from scoresde.networks import DDPM, MLP, NCSN, DDPMpp, FourierFeatures, MultifieldUNet, NCSNpp, NCSNv2, SmallUNet
from tests.experiment.conftest import ROOT

SMALL = {"channels": 8, "multipliers": (1, 2), "attention": (), "blocks": 1}
NETWORKS = {
    "MLP": lambda **more: MLP((3,), 8, 1, **more),
    "MLP, images": lambda **more: MLP((2, 4, 4), 8, 1, outputs=3, **more),
    "SmallUNet": lambda **more: SmallUNet((2, 8, 8), 8, 1, **more),
    "SmallUNet, conditions": lambda **more: SmallUNet(
        (1, 8, 8), 8, 1, conditions={"label": Classes(3), "picture": Image(2)}, **more
    ),
    "MultifieldUNet": lambda **more: MultifieldUNet((2, 1, 8, 8), 8, 1, **more),
    "NCSNpp": lambda **more: NCSNpp((2, 8, 8), **SMALL, **more),
    "NCSNpp, series": lambda **more: NCSNpp((2, 8), **SMALL, **more),
    "DDPMpp": lambda **more: DDPMpp((1, 8, 8), **SMALL, **more),
    "DDPM": lambda **more: DDPM((1, 8, 8), **SMALL, **more),
    "NCSN": lambda **more: NCSN((1, 8, 8), 8, (1, 1, 1), **more),
    "NCSNv2": lambda **more: NCSNv2((1, 8, 8), 8, (1, 1, 1), **more),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_them(name):
    torch.manual_seed(0)
    plain, network = NETWORKS[name](), NETWORKS[name](input_features=FourierFeatures((3, 4)))
    x, label = torch.randn(4, *network.event_shape, requires_grad=True), torch.zeros(4)
    assert network(x, label).shape == plain(x, label).shape
    before, after = plain.state_dict(), network.state_dict()
    changed = [key for key in before if before[key].shape != after[key].shape]
    assert before.keys() == after.keys() and len(changed) == 1 and changed[0].endswith("first.weight")
    assert sum(p.numel() for p in network.parameters()) > sum(p.numel() for p in plain.parameters())
    network(x, label).square().sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values(dtype):
    """Sines and cosines of 2^n pi x to the precision of the dtype, for large n too."""
    x, exponents = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype) * 4 - 2, (0, 7, 20)
    found = FourierFeatures(exponents)(x)
    assert found.dtype == dtype and torch.equal(found[:, :2], x)
    exact = [(x.double() * 2.0**n % 2.0 * math.pi) for n in exponents]
    wanted = torch.cat([wave for phase in exact for wave in (phase.sin(), phase.cos())], dim=1)
    assert float((found[:, 2:] - wanted).abs().max()) < 8 * torch.finfo(dtype).eps


def test_a_period_of_two_levels_and_of_one():
    """Of 256 levels in [-1, 1], n = 7 gives neighbors opposite values, and n = 8 equal ones."""
    x = ((torch.arange(256, dtype=torch.float64) + 0.25) / 128 - 1)[:, None]
    seven, eight = FourierFeatures((7, 8))(x)[:, 1:].split(2, dim=1)
    assert torch.allclose(seven[1:], -seven[:-1], atol=1e-9) and torch.allclose(eight[1:], eight[:-1], atol=1e-9)


def test_half_precision():
    x = torch.linspace(-1, 1, 9)[:, None]
    exact = FourierFeatures((2,))(x)
    half = FourierFeatures((2,))(x.bfloat16())
    assert half.dtype == torch.bfloat16 and float((half.float() - exact).abs().max()) < 2.0**-8
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FourierFeatures((2,))(x), exact)


@pytest.mark.parametrize("exponents", [(), (3, 3), (-1,), (2.5,), (21,), "34", (True,)])
def test_wrong_exponents(exponents):
    with pytest.raises((TypeError, ValueError), match="exponents"):
        FourierFeatures(exponents)


def test_other_features_are_refused():
    with pytest.raises(TypeError, match="input_features"):
        SmallUNet((1, 8, 8), 8, 1, input_features=torch.nn.Identity())


def test_the_network_of_the_paper():
    """The parameters of configs/vp/cifar10_vdm.py, and those of the published code by its layers."""
    node = load_config(ROOT / "configs" / "vp" / "cifar10_vdm.py").network.to_dict()
    with torch.device("meta"):
        network = build(node, "network", torch.nn.Module, event_shape=(3, 32, 32), outputs=1, conditions=None)
    found = sum(p.numel() for p in network.parameters())
    c, e = 128, 512

    def convolution(before, after):
        return 9 * before * after + after

    def block(before):  # norms, convolutions, label layer without bias, shortcut
        shortcut = before * c + c if before != c else 0
        return 2 * before + convolution(before, c) + e * c + 2 * c + convolution(c, c) + shortcut

    attention = 2 * c + 4 * (c * c + c)
    label = (129 * e + e) + (e * e + e)
    published = label + convolution(15, c) + 34 * block(c) + attention + 33 * block(2 * c) + 2 * c + convolution(c, 3)
    assert (found, published) == (30_586_243, 30_578_179)
    assert found - published == 67 * c - e  # biases of the label layers, and the input for the conditioning
