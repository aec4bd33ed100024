"""The configs of published models of text: sizes and training agree with the files of their projects."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from scoresde.data import Tokens
from scoresde.experiment import build, load_config
from scoresde.experiment.config.builder import build_section
from scoresde.experiment.config.experiment import build_model
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.jump import CategoricalModel, JumpObjective, JumpProcess, RatioModel, ScoreEntropy
from tests.experiment.conftest import ROOT

# model/small.yaml and config.yaml of both projects agree in these
SMALL = {"width": 768, "depth": 12, "heads": 12, "dropout": 0.1, "embedding_size": 128}
TRAINING = {
    "batch_size": 512,
    "learning_rate": 3e-4,
    "beta2": 0.999,
    "warmup": 2500,
    "grad_clip": 1.0,
    "ema_decay": 0.9999,
}
CASES = {"mdlm_small": (1_000_000, 162_264_913), "sedd_small": (1_300_000, 169_626_449)}


@pytest.mark.parametrize("name", CASES)
def test_a_config_agrees_with_the_published_model(name):
    steps, count = CASES[name]
    content = load_config(ROOT / "configs" / "jump" / f"{name}.py").to_dict()
    data = SimpleNamespace(event_shape=(content["data"]["length"],), transform=Tokens(50_257), kinds={})
    process = build(content["process"], "process", JumpProcess, tokens=50_257)
    with torch.device("meta"):
        model = build_model(content, data, process, 0)
        assert model.network(torch.zeros(1, 1024, dtype=torch.long), torch.ones(1)).shape == (1, 1024, 50_257)
    assert sum(p.numel() for p in model.parameters()) == count
    assert SMALL.items() <= content["network"].items()
    objective = build(content["objective"], "objective", JumpObjective, process=process)
    ratios = name == "sedd_small"
    assert type(model) is (RatioModel if ratios else CategoricalModel) and isinstance(objective, ScoreEntropy) == ratios
    plan = build_section(TrainingConfig, content["training"], "training")
    assert plan.steps == steps and plan.precision == "bfloat16"
    assert TRAINING.items() <= vars(plan).items()
