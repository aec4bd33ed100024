"""The configs of improved DDPM: stated numbers of parameters, and a step and samples of a small network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scoresde.data import Quantized
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.experiment import build_model
from scoresde.losses import HybridLoss
from scoresde.samplers import Sampler
from scoresde.sde import CosineVPSDE
from tests.networks.common import normal
from tests.networks.test_configs import ROOT, config_of

CONFIGS = {
    "vp/digits_improved": ((1, 8, 8), 257_282, 1000),
    "vp/ddpm/cifar10_improved": ((3, 32, 32), 47_484_166, 4000),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_number_of_parameters_is_the_stated_one(name: str) -> None:
    event, count, _ = CONFIGS[name]
    with torch.device("meta"):
        network = build(config_of(name)["network"], "network", nn.Module, event_shape=event, outputs=2)
    assert sum(p.numel() for p in network.parameters()) == count
    assert f"`{name}` | {count:,} |" in (ROOT / "docs" / "learned_variance.md").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_samples_in_small(name: str) -> None:
    content, (event, _, steps) = config_of(name), CONFIGS[name]
    content["network"] |= {"channels": 8, "blocks": 1}
    if event[0] == 3:
        content["network"] |= {"multipliers": (1, 2), "attention": (4,)}
        content["samplers"]["ancestral"]["steps"]["steps"] = 4
    content["model"]["steps"] = 10
    event = (event[0], 8, 8)
    data = SimpleNamespace(event_shape=event, transform=Quantized(17), kinds={})
    model = build_model(content, data, CosineVPSDE(), 0)
    loss = build(content["objective"], "objective", HybridLoss, sde=model.sde, transform=data.transform)
    x0 = torch.tanh(normal((4, *event)).float())
    losses = loss(model.train(), x0)
    losses.mean().backward()
    assert losses.shape == (4,) and losses.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for node in content["samplers"].values():
        sampler = build(node | ({"steps": 3} if node["steps"] in (50, 100) else {}), "sampler", Sampler)
        assert sampler(model.sde, model.eval(), (2, *event)).samples.isfinite().all()
    assert config_of(name)["model"]["steps"] == steps
