"""Samples and their conditions, for the report: images that are conditions, and samples by class."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from scoresde.conditions import Classes, Image
from scoresde.data import Affine
from scoresde.data.pictures import picture_format
from scoresde.experiment.config.condition_values import sample_conditions, short, stored_conditions
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.plots import event_picture, events_shown
from scoresde.experiment.folder.sheets import SheetRow, contact_sheet
from scoresde.experiment.reports.html import figure
from scoresde.experiment.results.sample_index import SampleIndex

ROWS, IN_A_ROW, SEARCHED = 20, 8, 2**16
"""Largest numbers of classes and of samples of each in a grid, and of samples that are searched for them."""


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


def class_figure(experiment: Experiment, file: Path) -> str:
    """Samples by class: a row for each class, with its first samples.

    Args:
        experiment: The experiment.
        file: The index of the samples.

    Returns:
        A figure. Empty if the samples are not pictures, or got no classes, or a split whose classes they got has changed.
    """
    data, form = experiment.data, picture_format(experiment.data)
    name = next((name for name, kind in data.kinds.items() if isinstance(kind, Classes)), None)
    if form is None or name is None:
        return ""
    index = SampleIndex.open(file)
    try:
        given = stored_conditions(data, index.facts, min(index.count, SEARCHED)).get(name)
    except (ValueError, OSError):
        return ""
    if given is None:
        return ""
    kind = data.kinds[name]
    assert isinstance(kind, Classes)
    places = {c: (given == c).nonzero()[:, 0][:IN_A_ROW].tolist() for c in range(kind.count)}
    drawn = [c for c in places if places[c]][:ROWS]
    raw = _events(index, sorted({k for c in drawn for k in places[c]}))
    names = kind.names or [str(c) for c in range(kind.count)]
    rows = [SheetRow(f"{name} {names[c]}", [form.shown(raw[k]) for k in places[c]]) for c in drawn]
    height, width = data.event_shape[-2:]
    picture = contact_sheet([""] * max(len(row.cells) for row in rows), rows, (height, width), least=48)
    return figure(picture, f"{file.stem}: the first samples of each {name}", "half")


def _events(index: SampleIndex, wanted: list[int]) -> dict[int, Tensor]:
    """The decoded samples with these numbers."""
    found: dict[int, Tensor] = {}
    for entry in index.entries:
        if here := [k for k in wanted if entry.first <= k < entry.end]:
            raw = index.read(entry).raw
            found |= {k: torch.from_numpy(raw[k - entry.first]) for k in here}
    return found
