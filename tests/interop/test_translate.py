"""Translation of settings of the reference: all of its configs, and random settings compared with a second implementation."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from ml_collections import ConfigDict

from scoresde.experiment import Experiment
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.loader import load_config
from scoresde.interop.errors import ConvertError
from scoresde.interop.score_sde import from_reference, to_reference
from scoresde.interop.translate import translate
from scoresde.noise import NoiseSource
from scoresde.sde import LinearSDE

from ..params import some_long
from .reference_forward import Forward, ruled

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = json.loads((ROOT / "tests" / "data" / "parity" / "networks" / "configs.json").read_text())
OURS = {name: content for name, content in CONFIGS.items() if (ROOT / "configs" / f"{name}.py").exists()}
TINY = CONFIGS["vp/cifar10_ncsnpp_continuous"] | {
    "data": CONFIGS["vp/cifar10_ncsnpp_continuous"]["data"] | {"image_size": 16},
    "model": CONFIGS["vp/cifar10_ncsnpp_continuous"]["model"]
    | {"nf": 12, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8]},
}


def changed(settings, **values):
    """Settings with some of the model's, the data's (image_size, centered) and training's (sde, continuous) changed."""
    found = copy.deepcopy(settings)
    for key, value in values.items():
        section = next((s for s in ("model", "data", "training") if key in found[s]), "model")
        found[section][key] = value
    return found


def network_of(settings):
    """The network of settings in float64, with weights by the rule of the parity data, and its tensors by reference name."""
    node, data = translate(settings, "theirs").config["network"], settings["data"]
    shape = (data["num_channels"], data["image_size"], data["image_size"])
    network = build(node, "network", torch.nn.Module, event_shape=shape, outputs=1).double().eval()
    theirs = {n: ruled(n, tuple(w.shape)) for n, w in to_reference(network).items()}
    network.load_state_dict(from_reference(network, theirs))
    return network, theirs


def assert_same_function(settings):
    """Compare with an implementation written from the description of the architecture, up to rounding."""
    network, theirs = network_of(settings)
    channels, side = settings["data"]["num_channels"], settings["data"]["image_size"]
    x = NoiseSource.of(0, 2).normal((channels, side, side), step=0, purpose="x", dtype=torch.float64)
    labels = torch.tensor([3.0, 40.0], dtype=torch.float64)
    wanted = Forward(settings, theirs)(x, labels)
    fourier = settings["model"]["name"] == "ncsnpp" and settings["model"]["embedding_type"] == "fourier"
    with torch.no_grad():
        out = network(x, labels.log() if fourier else labels)
    if settings["model"]["scale_by_sigma"]:
        low, high, n = (settings["model"][k] for k in ("sigma_min", "sigma_max", "num_scales"))
        sigma = labels if fourier else high * (low / high) ** (labels / (n - 1))
        out = out / sigma.reshape(-1, 1, 1, 1)
    assert torch.allclose(out, wanted, rtol=1e-9, atol=1e-9 * float(wanted.std())), settings["model"]


@pytest.mark.parametrize("name", some_long(OURS, lambda name: "cifar10" not in str(name)))
def test_configs_of_the_reference_are_ours_of_the_same_name(name):
    """Process, label, prediction, network and weights' names are those of configs/, which were written by hand."""
    found = translate(CONFIGS[name], name).config
    wanted = load_config(ROOT / "configs" / f"{name}.py").to_dict()
    processes = [build(node["sde"], "sde", LinearSDE) for node in (found, wanted)]
    assert processes[0] == processes[1]
    assert found["objective"] == wanted["objective"]
    assert found["data"]["low"] == wanted["data"]["low"]
    for key in ("prediction", "label", "data_std", "steps"):
        assert found["model"].get(key) == wanted["model"].get(key), key
    side = wanted["data"].get("side", 32)
    with torch.device("meta"):
        nets = [build(c["network"], "network", torch.nn.Module, event_shape=(3, side, side)) for c in (found, wanted)]
    assert [(n, w.shape) for n, w in nets[0].state_dict().items()] == [
        (n, w.shape) for n, w in nets[1].state_dict().items()
    ]
    # every module's own arguments: groups, kernels, activations, dilations
    trees = [torch.nn.Module.__repr__(net).partition("(")[2] for net in nets]
    assert trees[0] == trees[1]
    for key in ("steps", "batch_size", "learning_rate", "warmup", "grad_clip", "ema_decay"):
        assert found["training"][key] == wanted["training"][key], key
    sampler, ours = found["samplers"]["predictor-corrector"], next(iter(wanted["samplers"].values()))
    assert sampler["steps"] == ours["steps"] and sampler["predictor"] == ours["predictor"]
    assert sampler["corrector"] == ours.get("corrector")


def test_all_configs_are_there():
    assert len(CONFIGS) == 39 and len(OURS) == 38


def test_an_unconditional_network():
    """vp/ddpm/cifar10_unconditional, which the reference itself cannot build: the label is ignored, its layers are kept."""
    settings = changed(CONFIGS["vp/ddpm/cifar10_unconditional"], nf=32, ch_mult=[1, 1], num_res_blocks=1, image_size=16)
    assert_same_function(settings)
    network, theirs = network_of(settings)
    x = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(network(x, torch.zeros(1)), network(x, torch.full((1,), 900.0)))
    assert next(iter(theirs)) == "all_modules.0.weight" and "all_modules.1.Dense_0.weight" in theirs
    assert not any(p.requires_grad for n, p in network.named_parameters() if ".label." in n)


@pytest.mark.parametrize("nonlinearity", ["relu", "elu", "lrelu", "swish"])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_activations_and_conditioning(nonlinearity, conditional, name):
    settings = changed(TINY, name=name, nonlinearity=nonlinearity, conditional=conditional)
    assert_same_function(changed(settings, nf=32, ch_mult=[1], num_res_blocks=1) if name == "ddpm" else settings)


def random_settings(seed):
    """Settings that the reference can run, chosen at random: every switch that a network has."""
    draw = random.Random(seed)
    block, fir = draw.choice(["biggan", "ddpm"]), draw.random() < 0.6
    process = draw.choice(["vpsde", "subvpsde", "vesde"])
    continuous = process == "subvpsde" or draw.random() < 0.5
    fourier = process == "vesde" and continuous
    progressive_input = draw.choice(["none", "input_skip", "residual"])
    name = "ddpm" if draw.random() < 0.25 and not fourier else "ncsnpp"
    return changed(
        TINY,
        name=name,
        nf=32 if name == "ddpm" else draw.choice([8, 12, 16]),
        ch_mult=draw.choice([[1], [1, 1], [1, 2]]) if name == "ncsnpp" else [1, 1],
        num_res_blocks=draw.choice([1, 2]),
        attn_resolutions=draw.choice([[8], [16], [8, 16], []]),
        # the reference has no learned up-sampling by filters
        resamp_with_conv=not (block == "ddpm" and fir) and draw.random() < 0.7,
        nonlinearity=draw.choice(["swish", "relu", "elu", "lrelu"]),
        conditional=draw.random() < 0.8,
        fir=fir,
        fir_kernel=draw.choice([[1, 3, 3, 1], [1, 2, 1], [1, 1], [1, 2, 3, 4]]),
        skip_rescale=draw.random() < 0.6,
        resblock_type=block,
        progressive=draw.choice(["none", "output_skip"]),
        progressive_input=progressive_input,
        progressive_combine=draw.choice(["sum", "cat"]),
        embedding_type="fourier" if fourier else "positional",
        scale_by_sigma=process == "vesde" and (not continuous or fourier) and draw.random() < 0.7,
        centered=draw.random() < 0.5,
        sde=process,
        continuous=continuous,
        sigma_max=draw.choice([1.0, 50.0, 348.0]),
        num_scales=draw.choice([100, 1000]),
        num_channels=draw.choice([1, 3]),
    )


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_random_settings(first):
    for seed in range(first, first + 8):
        assert_same_function(random_settings(seed))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"nonlinearity": "gelu"}, "model.nonlinearity='gelu' has no counterpart here: allowed is 'swish', 'relu'"),
        ({"conditional": 1}, "model.conditional=1 has no counterpart here: allowed is True, False"),
        ({"num_heads": 4}, r"model.num_heads=4 is no setting of score_sde_pytorch.*give --source.model.num_heads=unused"),
        ({"attention_type": "multi"}, "model.attention_type='multi' has no counterpart here: allowed is 'ddpm'"),
        ({"normalization": "InstanceNorm++"}, "allowed is 'GroupNorm'"),
        ({"embedding_type": "fourier"}, "model.embedding_type='fourier' with training.sde='vpsde' has no counterpart"),
        ({"scale_by_sigma": True}, "model.scale_by_sigma=True with training.sde='vpsde' has no counterpart"),
        ({"sde": "subvpsde", "continuous": False}, "training.continuous=False with 'subvpsde' is not supported"),
        ({"sde": "vesde", "scale_by_sigma": True}, "divides by the level of an index"),
        ({"sde": "vesde", "continuous": False, "embedding_type": "fourier"}, "takes the logarithm of the index 0"),
        ({"sde": "cld"}, "training.sde='cld' has no counterpart here"),
        ({"nf": 0}, "model.nf=0 has no counterpart here: allowed is a whole number >= 1"),
        ({"beta_max": float("nan")}, "model.beta_max=nan has no counterpart"),
        ({"ch_mult": "12"}, "model.ch_mult='12' has no counterpart"),
        ({"fir_kernel": None}, "model.fir_kernel is missing: give --source.model.fir_kernel=VALUE"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused(change, wanted):
    with pytest.raises(ConvertError, match=f"theirs: .*{wanted}"):
        translate(changed(TINY, **change), "theirs")


@pytest.mark.parametrize(
    "name", ["vp/cifar10_ncsnpp_continuous", "ve/celeba_ncsnpp", "vp/ddpm/church", "ve/ncsn/cifar10"]
)
def test_nothing_that_a_network_depends_on_has_a_silent_default(name):
    """Each setting that changes the translated network or model is asked for when it is missing, all of them at once."""
    full = translate(CONFIGS[name], name).config
    asked = []
    for section in ("model", "data", "training"):
        for key in CONFIGS[name][section]:
            less = copy.deepcopy(CONFIGS[name])
            del less[section][key]
            try:
                found = translate(less, name).config
            except ConvertError as problem:
                assert f"{section}.{key} is missing" in str(problem)
                asked.append(f"{section}.{key}")
                continue
            assert all(found[part] == full[part] for part in ("sde", "network", "model")), key
    with pytest.raises(ConvertError) as problem:
        translate({"model": {"name": CONFIGS[name]["model"]["name"]}}, name)
    assert "model.nf is missing" in str(problem.value) and "data.centered is missing" in str(problem.value)
    assert {"model.nonlinearity", "data.centered", "training.continuous", "model.scale_by_sigma"} <= {*asked}


def test_a_whole_experiment():
    """The config is one that builds, from JSON as from the settings, and does not need its data."""
    made = Experiment.from_config(ConfigDict(translate(TINY, "theirs").config))
    assert made.model.network.event_shape == (3, 16, 16) and made.training.steps == 1_300_000
    source = translate(changed(TINY, num_channels=4), "theirs")
    assert source.config["data"]["train"] == "data/images_4x16x16.npy"
