"""Helpers of the training tests: a small experiment in this process, and its steps."""

from __future__ import annotations

import torch

from scoresde.experiment import Experiment, load_config
from scoresde.experiment.config.loader import apply_overrides
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.trainer import Trainer
from tests.experiment.conftest import ROOT

TINY = {
    "training.steps": 6, "training.batch_size": 8, "training.log_every": 2, "training.checkpoint_every": 2,
    "network.channels": 8, "network.blocks": 1, "device": "cpu",
}  # fmt: skip


def experiment(**overrides):
    config = load_config(ROOT / "configs" / "vp" / "digits.py")
    values = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    apply_overrides(config, {key: str(value) for key, value in values.items() if value is not None})
    return Experiment.from_config(config)


def trainer(**overrides):
    made = experiment(**overrides)
    return Trainer(made, Group(0, 1, made.device))


def advance(run, steps=1):
    """Run steps and return the last one."""
    for _ in range(steps):
        config = run.config
        step = run.update(*run.experiment.data.train.batch(run.step, config.batch_size, seed=run.experiment.seed))
    return step


def gradient(run):
    return torch.cat([p.grad.flatten() for p in run.parameters])


def everything(run):
    """All tensors that training changes, copied."""
    found = {f"model.{k}": v for k, v in run.trained.state_dict().items()}
    for number, average in enumerate(run.averages):
        found |= {f"average {number}.{k}": v for k, v in average.module.state_dict().items()}
    for number, parameter in enumerate(run.parameters):
        found |= {f"moment {number}.{k}": v for k, v in run.optimizer.state.get(parameter, {}).items()}
    return {k: v.clone() for k, v in (found | run.learned()).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
