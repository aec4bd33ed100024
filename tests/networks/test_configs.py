"""The configs of the paper: each agrees with that of the reference, and trains and samples when small.

That they can be built at full size, with the reference's weights, is seen in tests/parity.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scoresde.data import Quantized
from scoresde.experiment.config.builder import ConfigError, build, build_section
from scoresde.experiment.config.experiment import build_model
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.config.sections import LikelihoodConfig, SamplingConfig, TrainingConfig
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks.refinenet import RefineNet
from scoresde.samplers import Ancestral, AnnealedLangevin, EulerMaruyama, Langevin, ReverseDiffusion, Sampler
from scoresde.score import NoisePrediction, ScorePrediction
from scoresde.score.predictions import ScaledScorePrediction
from scoresde.sde import Chain, LinearSDE

from ..params import some_long
from ..parity.test_networks import built
from .common import normal

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = {
    name: row["settings"]
    for name, row in json.loads((ROOT / "tests" / "data" / "parity" / "networks" / "layouts.json").read_text()).items()
    if name != "vp/ddpm/cifar10_unconditional"
}
PREDICTORS = {
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral_sampling": Ancestral,
    "none": type(None),
}
PREDICTIONS = {"noise": NoisePrediction, "score": ScorePrediction, "sigma score": ScaledScorePrediction}
CORRECTORS = {"langevin": Langevin, "ald": AnnealedLangevin, "none": type(None)}


def made(content):
    """All objects of a config but its data set."""
    low, high, side = content["data"]["low"], content["data"]["high"], content["data"].get("side", 32)
    data = SimpleNamespace(event_shape=(3, side, side), transform=Quantized(256, low, high), kinds={})
    sde = build(content["sde"], "sde", LinearSDE)
    model = build_model(content, data, sde, 0)
    return SimpleNamespace(
        model=model,
        objective=build(content["objective"], "objective", DenoisingScoreMatching, sde=model.sde),
        samplers={name: build(node, name, Sampler) for name, node in content["samplers"].items()},
        training=build_section(TrainingConfig, content["training"], "training"),
        sampling=build_section(SamplingConfig, content["sampling"], "sampling"),
        likelihood=build_section(LikelihoodConfig, content["likelihood"], "likelihood"),
    )


def config_of(name):
    return load_config(ROOT / "configs" / f"{name}.py").to_dict()


@pytest.mark.parametrize("name", REFERENCE)
def test_a_config_agrees_with_the_reference(name):
    theirs, content = REFERENCE[name], config_of(name)
    small = {key: value for key, value in shrunken(content)["network"].items() if key != "attention"}
    ours, ve = made(content | {"network": small}), name.startswith("ve")
    sde = ours.model.sde.continuous
    # an error in the file of the reference, whose network could not get sigma as its label
    continuous = theirs["training.continuous"] and name != "ve/ncsnv2/bedroom"
    assert isinstance(ours.model.sde, Chain) != continuous
    assert continuous or ours.model.sde.steps == theirs["model.num_scales"]
    if ve:
        assert (sde.sigma_min, sde.sigma_max) == (theirs["model.sigma_min"], theirs["model.sigma_max"])
    else:
        assert (sde.beta_min, sde.beta_max) == (theirs["model.beta_min"], theirs["model.beta_max"])
        assert type(sde).__name__.lower() == theirs["training.sde"]
    assert (content["data"]["name"] == "CIFAR10") == (theirs["data.dataset"] == "CIFAR10")
    assert content["data"].get("side", 32) == theirs["data.image_size"]
    assert (content["data"]["low"], content["data"]["high"]) == ((-1.0, 1.0) if theirs["data.centered"] else (0.0, 1.0))
    network = ours.model.network
    assert torch.equal(network.input_range(torch.tensor([content["data"]["low"], 1.0])), torch.tensor([-1.0, 1.0]))
    if not isinstance(network, RefineNet):  # those two have no dropout
        assert content["network"].get("dropout", 0.0) == theirs["model.dropout"]
    predicted = "noise" if not ve else "sigma score" if theirs["model.scale_by_sigma"] else "score"
    assert type(ours.model.prediction) is PREDICTIONS[predicted]
    assert ours.objective.reduction == ("mean" if theirs["training.reduce_mean"] else "half_sum")
    plan = ours.training
    assert (plan.steps, plan.batch_size) == (theirs["training.n_iters"] - 1, theirs["training.batch_size"])
    assert (plan.learning_rate, plan.warmup, plan.beta2) == (theirs["optim.lr"], theirs["optim.warmup"], 0.999)
    assert plan.grad_clip == (theirs["optim.grad_clip"] if theirs["optim.grad_clip"] > 0 else 1e9)
    assert plan.ema_decay == theirs["model.ema_rate"]
    sampler = ours.samplers.get("predictor-corrector") or ours.samplers["annealed-langevin"]
    assert type(sampler.predictor) is PREDICTORS[theirs["sampling.predictor"]]
    assert type(sampler.corrector) is CORRECTORS[theirs["sampling.corrector"]]
    assert len(sampler.discretization.transitions(sde)) == theirs["model.num_scales"]
    assert sampler.steps.t_min == (1e-5 if ve else 1e-3)
    if sampler.corrector is not None:
        assert (sampler.corrector.snr, sampler.corrector.steps) == (
            theirs["sampling.snr"],
            theirs["sampling.n_steps_each"],
        )


@pytest.mark.parametrize("name", REFERENCE)
def test_labels(name):
    """The labels of the network at both ends of time."""
    content, theirs = config_of(name), REFERENCE[name]
    content["network"] = {"name": "MLP", "width": 1}
    model, n = made(content).model, theirs["model.num_scales"]
    ends = model.label(model.sde, torch.tensor([0.0, 1.0]))
    if not name.startswith("ve"):
        assert torch.allclose(ends, torch.tensor([0.0, 999.0]))
    elif isinstance(model.sde, Chain):
        assert torch.equal(ends, torch.tensor([n - 1.0, 0.0]))
    else:
        assert torch.allclose(ends.exp(), torch.tensor([0.01, theirs["model.sigma_max"]]), rtol=1e-5)


def shrunken(content):
    """The same in small: two levels of a few channels, images of 8 x 8, two steps."""
    content = copy.deepcopy(content)
    network = content["network"]
    network["channels"] = 8
    if network["name"] not in ("NCSN", "NCSNv2"):
        multipliers = [min(m, 2) for m in network.get("multipliers", (1, 2))[-2:]]
        network |= {"blocks": 1, "multipliers": multipliers, "attention": (4,)}
    content["data"]["side"] = 8
    for sampler in content["samplers"].values():
        if sampler["name"] == "PredictorCorrector":
            sampler["steps"] = 2
            if sampler.get("corrector"):
                sampler["corrector"]["steps"] = 1
    return content


@pytest.mark.parametrize("name", some_long(sorted(REFERENCE), lambda name: "cifar10" not in name))
def test_trains_and_samples_in_small(name):
    content = shrunken(config_of(name))
    ours = made(content)
    x0 = content["data"]["low"] + (content["data"]["high"] - content["data"]["low"]) * torch.sigmoid(
        normal((2, 3, 8, 8))
    )
    optimizer = torch.optim.Adam(ours.model.parameters(), ours.training.learning_rate)
    before = copy.deepcopy(ours.model.network.state_dict())
    draw = ours.objective.draw(x0, step=0)
    loss = ours.objective.evaluate(ours.model.train(), draw)
    assert loss.shape == (2,) and torch.isfinite(loss).all()
    loss.mean().backward()
    optimizer.step()
    assert any(not torch.equal(before[n], w) for n, w in ours.model.network.state_dict().items())
    for what, sampler in ours.samplers.items():
        if what != "probability-flow":
            result = sampler(ours.model.sde, ours.model.eval(), (2, 3, 8, 8), seed=0)
            assert result.samples.shape == (2, 3, 8, 8) and torch.isfinite(result.samples).all()


def test_a_chain_that_a_process_does_not_have_is_refused():
    content = config_of("vp/cifar10_ddpmpp")
    content["sde"] = {"name": "CriticallyDampedLangevin"}
    with pytest.raises(ConfigError, match=r"config.model.steps=1000: .* has no chain"):
        made(content)


def test_the_docs_table():
    """docs/experiments.md: a row for each config, with the parameters that its network has."""
    rows = re.findall(
        r"^\| `(\S+)` \| .*? \| `(\w+)` \| .*? \| ([\d,]+) \|", (ROOT / "docs" / "experiments.md").read_text(), re.M
    )
    assert {name for name, *_ in rows} == set(REFERENCE)
    for name, kind, parameters in rows:
        network = built(name)
        assert type(network).__name__ == kind
        assert sum(p.numel() for p in network.parameters()) == int(parameters.replace(",", "")), name
