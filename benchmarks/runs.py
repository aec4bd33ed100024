"""A trained run, for benchmarks that take its work folder."""

from __future__ import annotations

from typing import Any

from scoresde.experiment import Experiment, Workdir, load_config


def load(folder: str) -> tuple[Experiment, Any, str]:
    """The experiment of a work folder, its model with the averaged weights, and the name of the checkpoint."""
    workdir = Workdir(folder)
    made = Experiment.from_config(load_config(workdir.config_file))
    model, checkpoint = workdir.model(made)
    return made, model, checkpoint.path.name
