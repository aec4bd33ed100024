"""The report's section that compares samples with data."""

from __future__ import annotations

from typing import Any

from scoresde._files import read_sealed
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.reports.html import UNREADABLE, note, problem_note, table
from scoresde.experiment.results.sample_index import SampleIndex

HEAD = ("samples", "number", "Frechet distance", "kernel distance", "+-", "precision", "recall")
KEYS = ("frechet distance", "kernel distance", "kernel distance error", "precision", "recall")


def evaluation_section(workdir: Workdir) -> str:
    """A table for each reference and extractor, with the baseline below the samples."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    parts = ["<h2>Samples compared with data</h2>"]
    for file in sorted(workdir.evaluation.glob("*.json")):
        try:
            result = read_sealed(file)
            _row(file.stem, result)
            result["warnings"] = [*result["warnings"], *_outdated(workdir, result)]
            found.setdefault(_setting(result), []).append((file.stem, result))
        except UNREADABLE as problem:
            parts.append(problem_note(f"{file.name} cannot be shown: {problem!r}. Run scoresde evaluate again."))
    for number, results in enumerate(found.values()):
        parts.append(_table(number, results))
    return "".join(parts) if len(parts) > 1 else parts[0] + problem_note("Not computed yet: run scoresde evaluate.")


def _outdated(workdir: Workdir, result: dict[str, Any]) -> list[str]:
    """Warnings if the samples of a result differ from the current ones, unless its own warnings say so."""
    evaluated = result["set"]
    if "index" not in evaluated:
        return []
    try:
        index = SampleIndex.open(workdir.samples / evaluated["index"])
    except (OSError, ValueError):
        return [f"the samples {evaluated['index']} were removed or changed"]
    if (index.count, index.store.settings) != (evaluated["count"], evaluated["settings"]):
        return ["the samples have been drawn again since: run scoresde evaluate"]
    before = workdir.outdated(evaluated)
    notes = any(before in warning for warning in result["warnings"])
    return [f"the samples were drawn with {before}"] if before and not notes else []


def _setting(result: dict[str, Any]) -> str:
    """What results must share to be in one table, including their baseline."""
    baseline = " ".join(_row(result["baseline"]["data"], result["baseline"]))
    return (
        f"reference {result['reference']['description']}; extractor {result['extractor']} with {result['features']} "
        "features, digest "
        f"{result['extractor digest']}; k = {result['neighbors']}; baseline {baseline}"
    )


def _table(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    _, last = results[-1]
    rows = [_row(name, result) for name, result in results]
    rows.append(_row(f"baseline: {last['baseline']['data']} instead of samples", last["baseline"]))
    notes = [f"{name}: {warning}" for name, result in results for warning in result["warnings"]]
    settings = _setting(last).partition("; baseline")[0]
    return (
        table(f"evaluation-{number}", HEAD, rows, numbers=tuple(range(1, len(HEAD))))
        + note(f"{settings}. Do not compare results with different numbers of samples.")
        + "".join(problem_note(warning) for warning in notes)
    )


def _row(name: str, result: dict[str, Any]) -> list[str]:
    values = [result[key] for key in KEYS]
    return [name, str(result["count"]), *("" if value is None else f"{value:.4g}" for value in values)]
