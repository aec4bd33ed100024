"""Images among the conditions of samples, for the report: the measurements that the samples were drawn for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scoresde.conditions import Image
from scoresde.data import Affine
from scoresde.experiment.config.condition_values import sample_conditions
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.plots import event_picture, events_shown
from scoresde.experiment.reports.html import figure


def condition_figures(experiment: Experiment, facts: Mapping[str, Any]) -> str:
    """The images among the conditions of the samples that a picture shows, in the same order.

    Args:
        experiment: The experiment.
        facts: The origin of the samples.

    Returns:
        A figure for each condition that is an image. Empty if the samples were drawn for other conditions.
    """
    kinds = {name: kind for name, kind in experiment.data.kinds.items() if isinstance(kind, Image)}
    if not kinds or facts.get("condition") != json.dumps(experiment.sampling.condition, sort_keys=True, default=str):
        return ""
    count = min(facts["count"], events_shown(experiment.data.event_shape, experiment.data.transform))
    given = sample_conditions(experiment, 0, count)
    return "".join(
        figure(event_picture(_shown(given[name]), Affine()), f"{name} of these samples, in the same order", "half")
        for name in kinds
        if name in given
    )


def _shown(rows: Tensor) -> Tensor:
    """Three channels of images if there are that many, otherwise the first: a mask comes last."""
    return rows[:, :3] if rows.shape[1] >= 3 else rows[:, :1]
