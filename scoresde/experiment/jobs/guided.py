"""The score that samples are drawn with: the trained model, guided as the section ``guidance`` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.guidance import CLASSIFIER, LoadedClassifier, build_guidance, classifier_folder
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.folder.workdir import Workdir
from scoresde.score import ConditionalModel

FACTS = ("guidance", "classifier digest")
"""Names of the facts about guidance."""


def guided(
    experiment: Experiment, model: ConditionalModel, device: torch.device
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The guided score, and what its samples depend on.

    Args:
        experiment: The experiment.
        model: Its trained model.
        device: The device.

    Returns:
        The score, and facts about the guidance (`FACTS`): the section, and the digest of the classifier's weights. Empty without
        guidance.

    Raises:
        CheckpointError, ConfigError, WorkdirError: If the classifier cannot be loaded, or belongs to another process.
    """
    node = experiment.guidance
    if not node:
        return model, {}
    facts: dict[str, Any] = {"guidance": json.dumps(dict(node), sort_keys=True, default=str)}
    classifier = None
    if (folder := classifier_folder(node)) is not None:
        workdir = Workdir(folder)
        if not workdir.config_file.is_file():
            raise ConfigError(
                f"config.guidance.{CLASSIFIER}={folder!r} contains no run (no config.json): train it first"
            )
        other = replace(Experiment.from_config(load_config(workdir.config_file)), device=device)
        loaded, checkpoint = workdir.model(other)
        classifier = LoadedClassifier(loaded, other.data, next(iter(other.objective.targets), None))
        facts["classifier digest"] = checkpoint.digest
    score = build_guidance(node, model, experiment.data, classifier)
    return score, facts
