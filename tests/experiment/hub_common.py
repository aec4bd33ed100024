"""Helpers of the tests of publishing: a run in its folder, opened and evaluated."""

from __future__ import annotations

import torch

from scoresde.experiment import Experiment, Workdir, load_config
from tests.experiment.conftest import TINY

FEW = {
    **TINY, "training__preview_every": 0, "training__steps": 4, "training__schedule": "constant", "sampling__count": 4,
    "training__posthoc_widths": "[0.05, 0.1]", "training__posthoc_every": 2, "loggers": "{}",
}  # fmt: skip


def opened(folder):
    """The experiment and the work folder of a run."""
    return Experiment.from_config(load_config(folder / "config.json")), Workdir(folder)


def scores(folder, which="ema"):
    """The model's scores at three points."""
    experiment, workdir = opened(folder)
    model, _ = workdir.model(experiment, which)
    return model(torch.linspace(-1.0, 1.0, 192).reshape(3, 1, 8, 8), torch.full((3,), 0.5))
