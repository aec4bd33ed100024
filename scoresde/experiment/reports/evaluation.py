"""The report's section on samples beside data."""

from __future__ import annotations

from typing import Any

from scoresde._files import read_sealed
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.reports.html import UNREADABLE, missing, note, table
from scoresde.experiment.results.sample_index import SampleIndex

HEAD = ("samples", "number", "Frechet distance", "kernel distance", "+-", "precision", "recall")
KEYS = ("frechet distance", "kernel distance", "kernel distance error", "precision", "recall")


def evaluation(workdir: Workdir) -> str:
    """A table for each reference and extractor, the yardstick under the samples."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    parts = ["<h2>Samples beside data</h2>"]
    for file in sorted(workdir.evaluation.glob("*.json")):
        try:
            result = read_sealed(file)
            _row(file.stem, result)
            result["warnings"] = [*result["warnings"], *_outdated(workdir, result)]
            found.setdefault(_setting(result), []).append((file.stem, result))
        except UNREADABLE as problem:
            parts.append(missing(f"{file.name} cannot be shown: {problem!r}: scoresde evaluate writes it again"))
    for number, results in enumerate(found.values()):
        parts.append(_table(number, results))
    return "".join(parts) if len(parts) > 1 else parts[0] + missing("not computed yet: scoresde evaluate")


def _outdated(workdir: Workdir, result: dict[str, Any]) -> list[str]:
    """How the samples of a result are not those that are there, where its own warnings do not say so."""
    looked_at = result["set"]
    if "index" not in looked_at:
        return []
    try:
        index = SampleIndex.open(workdir.samples / looked_at["index"])
    except (OSError, ValueError):
        return [f"the samples {looked_at['index']} are not there as they were"]
    if (index.count, index.store.settings) != (looked_at["count"], looked_at["settings"]):
        return ["the samples have been drawn anew since: scoresde evaluate"]
    before = workdir.outdated(looked_at)
    said = any(before in warning for warning in result["warnings"])
    return [f"of samples that were drawn with {before}"] if before and not said else []


def _setting(result: dict[str, Any]) -> str:
    """What figures must share to stand in one table, the yardstick's own among them."""
    yardstick = " ".join(_row(result["yardstick"]["data"], result["yardstick"]))
    return (
        f"reference {result['reference']['said']}; extractor {result['extractor']} of {result['features']} numbers, digest "
        f"{result['extractor digest']}; k = {result['neighbours']}; yardstick {yardstick}"
    )


def _table(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    _, last = results[-1]
    rows = [_row(name, result) for name, result in results]
    rows.append(_row(f"yardstick: {last['yardstick']['data']}, not samples", last["yardstick"]))
    said = [f"{name}: {warning}" for name, result in results for warning in result["warnings"]]
    settings = _setting(last).partition("; yardstick")[0]
    return (
        table(f"evaluation-{number}", HEAD, rows, numbers=tuple(range(1, len(HEAD))))
        + note(f"{settings}. Figures of different numbers of samples do not compare.")
        + "".join(missing(warning) for warning in said)
    )


def _row(name: str, result: dict[str, Any]) -> list[str]:
    values = [result[key] for key in KEYS]
    return [name, str(result["count"]), *("" if value is None else f"{value:.4g}" for value in values)]
