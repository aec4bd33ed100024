"""The report's section on samples beside data."""

from __future__ import annotations

import json
from typing import Any

from scoresde.experiment.page import missing, note, table
from scoresde.experiment.workdir import Workdir

HEAD = ("samples", "number", "Frechet distance", "kernel distance", "+-", "precision", "recall")
KEYS = ("count", "frechet distance", "kernel distance", "kernel distance error", "precision", "recall")


def evaluation(workdir: Workdir) -> str:
    """A table for each reference and extractor, the yardstick under the samples."""
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    parts = ["<h2>Samples beside data</h2>"]
    for file in sorted(workdir.evaluation.glob("*.json")):
        try:
            result = json.loads(file.read_text())
            found.setdefault(_setting(result), []).append((file.stem, result))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            parts.append(missing(f"{file.name} cannot be shown: {type(problem).__name__}: {problem}"))
    for number, results in enumerate(found.values()):
        parts.append(_table(number, results))
    return "".join(parts) if len(parts) > 1 else parts[0] + missing("not computed yet: scoresde evaluate")


def _setting(result: dict[str, Any]) -> tuple[str, str]:
    """What figures must share to stand in one table; and that all columns are there."""
    _row("", result), _row("", result["yardstick"])
    reference = f"reference {result['reference']['said']}; yardstick {result['yardstick']['data']}"
    return (
        reference,
        f"extractor {result['extractor']} of {result['features']} numbers, digest {result['extractor digest']}",
    )


def _table(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    _, last = results[-1]
    yardstick = last["yardstick"]
    rows = [_row(name, result) for name, result in results]
    rows.append(_row(f"yardstick: {yardstick['data']}, not samples", yardstick))
    said = [f"{name}: {warning}" for name, result in results for warning in result["warnings"]]
    settings = f"{'; '.join(_setting(last))}; k = {last['neighbours']}. Figures of different numbers do not compare."
    return (
        table(f"evaluation-{number}", HEAD, rows, numbers=tuple(range(1, len(HEAD))))
        + note(settings)
        + "".join(missing(warning) for warning in said)
    )


def _row(name: str, result: dict[str, Any]) -> list[str]:
    values = [result[key] for key in KEYS[1:]]
    return [name, str(result["count"]), *("" if value is None else f"{value:.4g}" for value in values)]
