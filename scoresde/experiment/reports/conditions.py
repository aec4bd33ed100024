"""Images among the conditions of samples, for the report: the measurements that the samples were drawn for."""

from __future__ import annotations

import json

from torch import Tensor

from scoresde.conditions import Image
from scoresde.data import Affine
from scoresde.experiment.config.condition_values import sample_conditions, short
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.plots import event_picture, events_shown
from scoresde.experiment.reports.html import figure


def condition_figures(experiment: Experiment) -> str:
    """The images among the conditions of the first samples, in the order of the samples.

    Args:
        experiment: The experiment.

    Returns:
        A figure for each condition that is an image. Empty if there is none.
    """
    kinds = {name: kind for name, kind in experiment.data.kinds.items() if isinstance(kind, Image)}
    if not kinds:
        return ""
    count = min(experiment.sampling.count, events_shown(experiment.data.event_shape, experiment.data.transform))
    given = sample_conditions(experiment, 0, count)
    spec = short(json.dumps(experiment.sampling.condition, sort_keys=True, default=str))
    text = f"of the samples with the condition {spec}, in the same order"
    return "".join(
        figure(event_picture(_shown(given[name]), Affine()), f"{name} {text}", "half")
        for name in kinds
        if name in given
    )


def _shown(rows: Tensor) -> Tensor:
    """Three channels of images if there are that many, otherwise the first: a mask comes last."""
    return rows[:, :3] if rows.shape[1] >= 3 else rows[:, :1]
