"""The results of ``scoresde edit`` in the work folder, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde._files import bytes_digest, read_plain, read_sealed
from scoresde.experiment.config.condition_values import short
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.jobs.edit_results import RECORD, strayed_text
from scoresde.experiment.reports.html import UNREADABLE, figure, note, problem_note

MOST = 8
"""Largest number of results that are shown, the last ones."""


def edits_section(workdir: Workdir) -> str:
    """The overview of each result, the last one first.

    Args:
        workdir: The work folder.

    Returns:
        The section. Empty if there is no result.
    """
    folders = sorted((path for path in workdir.edits.glob("*") if path.is_dir()), key=_changed, reverse=True)
    if not folders:
        return ""
    parts = ["<h2>Edits</h2>", *(_one(workdir, folder) for folder in folders[:MOST])]
    if folders[MOST:]:
        parts.append(note(f"{len(folders) - MOST} earlier results are in {workdir.edits}."))
    return "".join(parts)


def _changed(folder: Path) -> float:
    """When the record of a result was written, or the folder if there is none."""
    record = folder / RECORD
    return (record if record.is_file() else folder).stat().st_mtime


def _one(workdir: Workdir, folder: Path) -> str:
    try:
        facts, picture = read_sealed(folder / RECORD), read_plain(folder / "overview.png")
        if facts["overview digest"] != bytes_digest(picture):
            raise ValueError("overview.png is not the picture of these results")
        before = workdir.outdated(facts)
        shown = figure(picture, _caption(folder.name, facts), "full")
        if text := strayed_text(facts["inputs"], facts["samples"]):
            shown += problem_note(f"{folder.name}: {text}.")
    except FileNotFoundError:
        there = len(list(folder.glob("shards-*/*.npz")))
        return problem_note(
            f"{folder.name}: {there} batches are drawn, not finished. Run the same scoresde edit again."
        )
    except UNREADABLE as problem:
        return problem_note(f"{folder.name} cannot be shown: {problem}. Run the same scoresde edit again.")
    return shown + (problem_note(f"{folder.name}: drawn with {before}. Run scoresde edit again.") if before else "")


def _caption(name: str, facts: Mapping[str, Any]) -> str:
    """The settings of a result, and the mean errors where the whole events are known."""
    inputs, how = facts["inputs"], []
    for key in ("t", "noise_std"):
        if facts.get(key):
            how.append(f"{key} {facts[key]}")
    if "task guidance" in facts:
        how.append(json.loads(facts["task guidance"])["name"])
    how += [f"{key} {short(facts[key])}" for key in ("condition", "guidance") if key in facts]
    rows = [one["rmse of the mean"] for one in inputs if "rmse of the mean" in one]
    if rows:
        how.append(f"root mean square error of the mean {sum(rows) / len(rows):.3g} over {len(rows)} whole inputs")
    maps = [one["mean of the map"] for one in inputs if "mean of the map" in one]
    if maps:
        how.append(f"mean distance to the input {min(maps):.3g} to {max(maps):.3g}")
    return (
        f"{name}: {facts['task']}, {facts['samples']} samples for each of {len(inputs)} inputs, by {facts['sampler']}, "
        f"{', '.join([*how, ''])}{facts['nfe']} evaluations, {facts['seconds']} s, weights {facts['weights']}"
    )
