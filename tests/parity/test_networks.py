"""parity/networks: what tiny networks say and their gradients; at full size every configuration's weights, names and shapes.

``layouts.json`` keeps of each configuration its settings, its parameter counts, and the SHA-256 of the reference's lines
"name shape" in its order.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from functools import cache

import numpy as np
import pytest
import torch

from scoresde.conditions import Classes
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.loader import load_config
from scoresde.interop.score_sde import averages_from_reference, from_reference, layout, to_reference
from scoresde.networks import (
    DDPM,
    FIR,
    Averaging,
    FourierEmbedding,
    NCSNpp,
    NCSNv2,
    RadialEmbedding,
    SinusoidalEmbedding,
)
from scoresde.score import LogNoiseLabel, ScoreModel, TimeLabel
from scoresde.score.predictions import ScaledScorePrediction
from scoresde.sde import VESDE

from .common import _PLACES, _ROOT, arrays, folder, tensor

TINY = [
    "ddpm_ve_discrete", "ddpm_vp", "ddpmpp_vp", "ncsnpp_cat_ve", "ncsnpp_ddpmblock_nofir_vp", "ncsnpp_highres_ve",
    "ncsnpp_residual_out_nofir_vp", "ncsnpp_ve", "ncsnpp_ve_discrete", "ncsnpp_vp",
]  # fmt: skip
PROGRESSIVE = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}
LAYOUTS = json.loads((_PLACES[1] / "networks" / "layouts.json").read_text())


def network_of(settings):
    """Ours by the reference's settings."""
    m, side, channels = settings["model"], settings["data"]["image_size"], settings["data"]["num_channels"]
    fourier = m["embedding_type"] == "fourier"
    common = {
        "channels": m["nf"],
        "multipliers": m["ch_mult"],
        "blocks": m["num_res_blocks"],
        "attention": m["attn_resolutions"],
        "input_range": (-1.0, 1.0) if settings["data"]["centered"] else (0.0, 1.0),
        "embedding": FourierEmbedding(m["nf"]) if fourier else SinusoidalEmbedding(m["nf"]),
    }
    if m["name"] == "ddpm":
        return DDPM((channels, side, side), **common, convolve=m["resamp_with_conv"], group_width=1)
    return NCSNpp(
        (channels, side, side),
        **common,
        resampling=FIR(m["fir_kernel"]) if m["fir"] else Averaging(),
        block=m["resblock_type"],
        progressive_input=PROGRESSIVE[m["progressive_input"]],
        progressive_output=PROGRESSIVE[m["progressive"]],
        combine=m["progressive_combine"],
        rescale=m["skip_rescale"],
    )


def ruled(name, shape, fourier_scale):
    """The weights that the data's rule gives to a name and a shape."""
    g = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if len(shape) > 1:
        w = g / math.sqrt(shape[0] if last == "W" else math.prod(shape[1:]))
    else:
        w = fourier_scale * g if last == "W" else (last == "weight") + 0.1 * g
    return torch.from_numpy(w.astype(np.float32))


@cache
def tiny(name):
    """Settings, arrays and our network with the weights of the rule."""
    data = arrays(f"networks/{name}_tiny")
    settings = json.loads(str(data["config"]))
    network = network_of(settings).eval()
    scale = settings["model"]["fourier_scale"]
    theirs = {n: ruled(n, tuple(w.shape), scale) for n, w in to_reference(network).items()}
    network.load_state_dict(from_reference(network, theirs))
    return settings, data, network


def said(settings, network, x, labels):
    """What the reference's network returns: ours is told ln sigma in place of sigma, and is divided by sigma elsewhere.

    The logarithm is in float64: rounded to float32 it turns a Fourier phase, 2 pi w ln sigma with w up to 50, by 1e-4.
    """
    m = settings["model"]
    fourier = m["embedding_type"] == "fourier"
    out = network(x, labels.double().log() if fourier else labels)
    if not m["scale_by_sigma"]:
        return out
    table = torch.linspace(math.log(m["sigma_max"]), math.log(m["sigma_min"]), m["num_scales"], dtype=torch.float64)
    sigma = labels if fourier else table.exp()[labels.long()]
    return out.double() / sigma.double().reshape(-1, 1, 1, 1)


def error(ours, theirs):
    """Of each example relative to its standard deviation, the largest: outputs under VE span four decades."""
    theirs = tensor(theirs, torch.float64)
    return float(((ours.detach() - theirs).abs().flatten(1).amax(1) / theirs.flatten(1).std(1)).max())


@pytest.mark.parametrize("name", TINY)
def test_outputs(name, worst):
    """Against the reference in float64. In float32 the reference itself is off by up to 1.1e-4 with Fourier features; ours has
    its phases in float64.
    """
    settings, data, network = tiny(name)
    x, labels = tensor(data["x"]), tensor(data["labels"])
    with torch.no_grad():
        single = error(said(settings, network.float(), x, labels.float()), data["out_f64"])
        exact = error(said(settings, network.double(), x.double(), labels.double()), data["out_f64"])
    worst("networks float32", single)
    worst("networks float64", exact)
    assert exact < 1e-12
    assert single < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_embeddings_and_gradients(name, worst):
    settings, data, network = tiny(name)
    network.double()
    x, labels = tensor(data["x"], torch.float64).requires_grad_(), tensor(data["labels"], torch.float64)
    with torch.no_grad():
        embedded = network.embedding(labels.log() if "frequencies" in network.embedding._buffers else labels)
        assert torch.allclose(embedded.float(), tensor(data["embedding"]), atol=2e-4)
        assert torch.allclose(network.label(embedded).float(), tensor(data["temb"]), atol=2e-3)
    places = {w.name: ours for ours, w in layout(network).items() if w.trained}
    weights = dict(network.named_parameters())
    scalar = (said(settings, network, x, labels) * tensor(data["vjp_v"])).sum()
    gradients = torch.autograd.grad(scalar, [x, *(weights[ours] for ours in places.values())])
    off = error(gradients[0], data["vjp_x_f64"])
    assert off < 1e-12
    norms = torch.stack([g.norm() for g in gradients[1:]])
    theirs = tensor(data["param_grad_norm_f64"])
    worst("networks gradients", off)
    # some are zero but for rounding: of a key's bias, which moves all logits of a query alike, and of a bias before a norm
    # with one channel in a group
    assert torch.allclose(norms, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["ncsnpp_ve", "ncsnpp_ve_discrete", "ddpm_ve_discrete"])
def test_division_by_sigma_is_the_score_model_s(name):
    """The whole score by `ScaledScorePrediction`, in continuous time and on the chain."""
    settings, data, network = tiny(name)
    m, labels = settings["model"], tensor(data["labels"], torch.float64)
    sde = VESDE(m["sigma_min"], m["sigma_max"])
    if "discrete" in name:
        sde = sde.discretize(m["num_scales"])
        t = sde.time(sde.steps - 1 - labels)
        label = TimeLabel(sde.steps - 1.0, descending=True, whole=True)
    else:
        t = (labels / m["sigma_min"]).log() / math.log(m["sigma_max"] / m["sigma_min"])
        label = LogNoiseLabel()
    model = ScoreModel(network.double(), sde, ScaledScorePrediction(), label=label, data_std=None)
    with torch.no_grad():
        score = model(tensor(data["x"], torch.float64), t)
    # sigma is known to float32 in the data, and so is the phase of its Fourier features
    assert error(score, data["out_f64"]) < (1e-12 if "discrete" in name else 1e-10)


BUILT = [name for name, row in LAYOUTS.items() if "sha256" in row]


def built(name):
    """The network of our config of the same name, without memory; many configs share one."""
    config = load_config(_ROOT / "configs" / f"{name}.py").to_dict()
    return built_from(json.dumps(config["network"]), config["data"].get("side", 32))


@cache
def built_from(node, side):
    with torch.device("meta"):
        return build(json.loads(node), "network", torch.nn.Module, event_shape=(3, side, side), outputs=1)


@pytest.mark.parametrize("name", BUILT)
def test_every_configuration_has_the_reference_s_parameters(name):
    network, row = built(name), LAYOUTS[name]
    assert sum(p.numel() for p in network.parameters()) == row["trainable"]
    assert sum(w.numel() for w in network.state_dict().values()) == row["parameters"]
    ours = to_reference(network)
    lines = [f"{n} {tuple(w.shape)}" for n, w in ours.items()]
    assert len(lines) == row["tensors"] and set(layout(network)) == set(network.state_dict())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == row["sha256"]


def test_all_configurations_are_there():
    assert len(LAYOUTS) == 39 and len(BUILT) == 30
    with_config = {n for n in LAYOUTS if (_ROOT / "configs" / f"{n}.py").is_file()}
    # it cannot be built in the reference: no label, and no branch for that
    assert set(LAYOUTS) - with_config == {"vp/ddpm/cifar10_unconditional"}


@pytest.mark.skipif(folder() == _PLACES[1], reason="the layouts themselves are in ../shared only")
@pytest.mark.parametrize("name", BUILT)
def test_layouts_are_those_of_the_data(name):
    full = json.loads((folder() / "networks" / f"{name.replace('/', '__')}.json").read_text())
    theirs = {n.removeprefix("module."): tuple(shape) for n, shape, *_ in full["state_dict"] if n != "module.sigmas"}
    ours = {n: tuple(w.shape) for n, w in to_reference(built(name)).items()}
    assert list(ours.items()) == list(theirs.items())
    trained = [n for n, *_, grad in full["state_dict"] if grad]
    assert [f"module.{w.name}" for w in layout(built(name)).values() if w.trained] == trained
    assert LAYOUTS[name]["parameters"] == full["total_parameters"]


CHECKPOINTS = {
    "ncsnpp_highres_ve": "ncsnpp_highres_ve",
    "ncsnpp_highres_ve_torch17style": "ncsnpp_highres_ve",
    "ddpm_vp_discrete": "ddpm_vp_discrete",
}


@pytest.mark.skipif(folder() == _PLACES[1], reason="the checkpoints are in ../shared only")
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name):
    place = folder() / "checkpoints"
    with np.load(place / f"{CHECKPOINTS[name]}_expected.npz") as file:
        data = {key: file[key] for key in file.files}
    settings = json.loads(str(data["config"]))
    scalar = np._core.multiarray.scalar
    safe = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("float64"))]
    with torch.serialization.safe_globals(safe):
        file = torch.load(place / f"{name}.pth", map_location="cpu", weights_only=True)
    network = network_of(settings).eval()
    x, labels = tensor(data["x"]), tensor(data["labels"]).float()
    averages = averages_from_reference(network, file["ema"]["shadow_params"], file["model"])
    for state, key in ((from_reference(network, file["model"]), "out_raw"), (averages, "out_ema")):
        network.load_state_dict(state)
        with torch.no_grad():
            assert error(said(settings, network, x, labels), data[key]) < 2e-4


def test_there_and_back():
    _, _, network = tiny("ddpm_vp")
    theirs = to_reference(network)
    back = from_reference(network, {f"module.{n}": w for n, w in theirs.items()} | {"module.sigmas": torch.ones(3)})
    assert all(torch.equal(back[n], w) for n, w in network.state_dict().items())
    averages = averages_from_reference(network, list(theirs.values()), theirs)
    assert all(torch.equal(averages[n], w) for n, w in network.state_dict().items())


def test_what_does_not_fit_is_refused():
    _, _, network = tiny("ncsnpp_ve")
    theirs = to_reference(network)
    with pytest.raises(ValueError, match=r"missing \['all_modules\.0\.W'\], unexpected \['more'\]"):
        from_reference(network, {n: w for n, w in theirs.items() if n != "all_modules.0.W"} | {"more": torch.ones(1)})
    with pytest.raises(ValueError, match=r"all_modules\.8\.NIN_0\.W has shape"):
        from_reference(network, theirs | {"all_modules.8.NIN_0.W": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="averaged tensors are given"):
        averages_from_reference(network, list(theirs.values()), theirs)
    for stranger in (
        torch.nn.Linear(1, 1),
        NCSNpp((1, 8, 8), 8, conditions={"label": Classes(2)}),
        NCSNpp((1, 8, 8), 8, embedding=RadialEmbedding()),
        NCSNv2((1, 32, 32), 4, (1, 1, 1, 1, 1, 1)),
    ):
        with pytest.raises(TypeError, match="has no counterpart in the reference implementation"):
            layout(stranger)
