"""ImprovedUNet equals a second implementation with weights by a rule, and has the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch

from scoresde.conditions import Classes
from scoresde.networks import ImprovedUNet

from .improved_forward import filled, forward

SMALL = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 4}
CASES = {
    "plain": ((3, 8, 8), {}, {}),
    "learn_sigma": ((3, 8, 8), {"outputs": 2}, {}),
    "shift only": ((3, 8, 8), {"scale_shift": False}, {}),
    "classes": ((3, 8, 8), {"conditions": {"label": Classes(5)}}, {}),
    "attention everywhere": (
        (1, 8, 8),
        {"attention": (0, 1), "heads": 2, "decoder_heads": 8},
        {"heads": 2, "up_heads": 8},
    ),
    "one head": ((3, 8, 16), {"heads": 1}, {"heads": 1}),
    "head channels, new order": (
        (3, 8, 8),
        {"head_channels": 16, "grouped_heads": False},
        {"head_channels": 16, "grouped": False},
    ),
    "resampling blocks": ((3, 8, 8), {"resample_blocks": True, "blocks": 2, "outputs": 2}, {"resample_blocks": True}),
    "CIFAR-10": ((3, 16, 16), {"multipliers": (1, 2, 2, 2), "blocks": 3, "attention": (1, 2), "outputs": 2}, {}),
    "ImageNet-64": ((3, 16, 16), {"multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (2, 3), "outputs": 2}, {}),
    "LSUN": (
        (3, 32, 32),
        {
            "multipliers": (1, 1, 2, 2, 4, 4),
            "blocks": 2,
            "attention": (4,),
            "heads": 1,
            "scale_shift": False,
            "outputs": 2,
        },
        {"heads": 1},
    ),
}


def published(state):
    """Our state dict by the names of improved-diffusion."""
    ours = "conditioning.encoders.label.weight"
    return {n.replace(ours, "label_emb.weight"): w for n, w in state.items() if not n.startswith("conditioning.null")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_are_those_of_the_published_architecture(case, dtype):
    event, more, how = CASES[case]
    if dtype == torch.float32 and event[1] > 8:
        pytest.skip("the float32 rounding is compared for the small networks")
    network = ImprovedUNet(event, **{**SMALL, **more}).to(dtype).eval()
    state = filled(published(network.state_dict()), dtype)
    network.load_state_dict({n.replace("label_emb.weight", "conditioning.encoders.label.weight"): w for n, w in state.items()},
                            strict="conditions" not in more)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *event, generator=generator, dtype=torch.float64).to(dtype)
    label = torch.tensor([0.25, 987.75], dtype=dtype)
    y = torch.tensor([4, 1]) if "conditions" in more else None
    with torch.no_grad():
        found = network(x, label, **({} if y is None else {"label": y}))
        # in float64, so that the rounding of the reference does not count
        wanted = forward({n: w.double() for n, w in state.items()}, x.double(), label.double(), y=y, **how)
    if more.get("outputs") == 2:  # all channels of the variance come last in the file's layout
        found = torch.cat((found[..., 0], found[..., 1]), dim=1)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.std()) < (1e-5 if dtype == torch.float32 else 1e-10)


def count(*arguments, **options):
    with torch.device("meta"):
        network = ImprovedUNet(*arguments, **options)
    return sum(w.numel() for w in published(dict(network.named_parameters())).values())


def test_numbers_of_parameters_of_the_published_configurations(monkeypatch):
    """The names of the released files say 50M, 100M, 270M and 100M."""
    monkeypatch.setattr(
        torch.nn.init, "normal_", lambda weight, *_, **__: weight
    )  # which imports a compiler for "meta"
    imagenet = {"multipliers": (1, 2, 3, 4), "attention": (2, 3), "outputs": 2}
    assert count((3, 32, 32), outputs=2) == 52_546_438
    assert count((3, 64, 64), **imagenet) == 121_063_942
    assert count((3, 64, 64), channels=192, conditions={"label": Classes(1000)}, **imagenet) == 273_049_350
    lsun = {"multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention": (4,), "heads": 1, "scale_shift": False}
    assert count((3, 256, 256), outputs=2, **lsun) == 113_676_678


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": (3, 9, 8)}, "event_shape=.*multiples of 2"),
        ({"multipliers": ()}, r"multipliers=\(\) .*at least one"),
        ({"channels": 48}, "channels=48.*multiple of 32"),
        ({"attention": (2,)}, r"attention=\(2,\).*levels 0 ... 1"),
        ({"heads": 5}, "heads=5 .*64 channels"),
        ({"head_channels": 48}, "head_channels=48 .*64 channels"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ImprovedUNet(**{"event_shape": (3, 8, 8), **SMALL, **options})
