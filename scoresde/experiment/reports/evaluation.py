"""The report's section that compares samples with data."""

from __future__ import annotations

from typing import Any

from scoresde._files import read_sealed
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.reports.html import UNREADABLE, note, problem_note, table
from scoresde.experiment.results.sample_classifier import KEYS as TRAINING_SETS
from scoresde.experiment.results.sample_classifier import accuracy, trained_on
from scoresde.experiment.results.sample_index import SampleIndex

HEAD = ("samples", "number", "of data", "Frechet distance", "kernel distance", "+-", "precision", "recall")
KEYS = ("frechet distance", "kernel distance", "kernel distance error", "precision", "recall")
RELATIVE = ("at equal numbers", "number", "of data", "Frechet", "ratio", "kernel", "+-", "ratio", "precision", "recall")
"""The columns of the table with the yardstick. Its ratios are the third and fourth of `_relative`."""
CLASSIFIED = ("classifier for", "condition", "trained on", "tested on", "accuracy", "+-")
"""The columns of the table of classifiers."""


def evaluation_section(workdir: Workdir) -> str:
    """Two tables for each reference and extractor: all samples with the baseline, and samples with the yardstick."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    parts = ["<h2>Samples compared with data</h2>"]
    for file in sorted(workdir.evaluation.glob("*.json")):
        try:
            result = read_sealed(file)
            _row(file.stem, result)
            _relative(file.stem, result)
            _accuracies(file.stem, result)
            result["warnings"] = [*result["warnings"], *_outdated(workdir, result)]
            found.setdefault(_setting(result), []).append((file.stem, result))
        except UNREADABLE as problem:
            parts.append(problem_note(f"{file.name} cannot be shown: {problem!r}. Run scoresde evaluate again."))
    for number, results in enumerate(found.values()):
        parts.append(_table(number, results) + _classifiers(number, results))
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
        f"{result['extractor digest'][:16]}; scaling of {result['scaling']}; k = {result['neighbors']}; baseline {baseline}"
    )


def _table(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    _, last = results[-1]
    rows = [_row(name, result) for name, result in results]
    rows.append(_row(f"baseline: {last['baseline']['data']} instead of samples", last["baseline"]))
    notes = [f"{name}: {warning}" for name, result in results for warning in result["warnings"]]
    settings = _setting(last).partition("; baseline")[0]
    return (
        table(f"evaluation-{number}", HEAD, rows, numbers=tuple(range(1, len(HEAD))))
        + "".join(note(f"{name}: {origin}") for name, result in results if (origin := _origin(result)))
        + note(
            f"{settings}. The Frechet distance, in squared units of the features, is biased upwards by a term that decreases "
            "with both numbers: compare only rows with equal numbers. The kernel distance is unbiased."
        )
        + _yardsticks(number, results)
        + "".join(problem_note(warning) for warning in notes)
    )


def _yardsticks(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    """The samples with as many events of a half of the data, both compared with the other half. Empty without a yardstick."""
    groups: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for name, result in results:
        if result["yardstick"] is not None:
            groups.setdefault(result["yardstick"]["count"], []).append((name, result))
    rows = []
    for group in groups.values():
        rows += [_relative(name, result) for name, result in group]
        scale = group[0][1]["yardstick"]
        rows.append(
            _with_ratios(f"yardstick: {scale['data']}", scale, {"frechet distance": 1.0, "kernel distance": 1.0})
        )
    if not rows:
        return ""
    return table(f"yardstick-{number}", RELATIVE, rows, numbers=tuple(range(1, len(RELATIVE)))) + note(
        "Here the samples, and equally many events of a half of the data, are compared with the other half, so all figures have "
        "the same bias. Figures are means over random halvings of the data: "
        f"{results[-1][1]['yardstick']['halvings']}. A ratio near 1 means that the metric does not distinguish the samples from "
        "data at this number. The ratio of kernel distances is that of the estimates over all pairs, which are not negative."
    )


def _classifiers(number: int, results: list[tuple[str, dict[str, Any]]]) -> str:
    """The accuracies of classifiers that were trained on samples. Empty if there are none."""
    rows = [row for name, result in results for row in _accuracies(name, result)]
    found = [one for _, result in results for one in result.get("classifiers", {}).values()]
    missing = [
        problem_note(f"{name}: no classifier of {condition} was trained on samples: {one['missing']}")
        for name, result in results
        for condition, one in result.get("classifiers", {}).items()
        if "missing" in one
    ]
    if not rows:
        return "".join(missing)
    origin = "; ".join(dict.fromkeys(f"{one['classifier']}, tested on {one['test']}" for one in found if "test" in one))
    return (
        table(f"classifiers-{number}", CLASSIFIED, rows, numbers=(3, 4, 5))
        + note(
            f"{origin}. A classifier that is trained on samples of the classes is tested on real events. The standard error is "
            "that of the choice of the test events, and not of the training events."
        )
        + "".join(missing)
    )


def _accuracies(name: str, result: dict[str, Any]) -> list[list[str]]:
    """The rows of a result in the table of classifiers. Results of earlier versions have none."""
    rows = []
    for condition, one in result.get("classifiers", {}).items():
        if "missing" in one:
            continue
        for key in TRAINING_SETS:
            value, _, error = accuracy(one[key]).partition(" +- ")
            rows.append([name, condition, trained_on(one, key), str(one[key]["count"]), value, error])
    return rows


def _relative(name: str, result: dict[str, Any]) -> list[str]:
    """The row of a result in the table of the yardstick. Empty without a yardstick."""
    return [] if result["yardstick"] is None else _with_ratios(name, result["at its size"], result["ratio"])


def _with_ratios(name: str, figures: dict[str, Any], ratios: dict[str, Any]) -> list[str]:
    row = _row(name, figures)
    one, other = (
        "" if (r := ratios[metric]) is None else f"{r:.3g}" for metric in ("frechet distance", "kernel distance")
    )
    return [*row[:4], one, *row[4:6], other, *row[6:]]


def _origin(result: dict[str, Any]) -> str:
    """The sampler of the samples. Empty for samples from a file."""
    origin = result["set"]
    if "sampler" not in origin:
        return ""
    return f"{origin['sampler']}, {origin['nfe']} evaluations, weights {origin['weights']} of {origin['checkpoint']}"


def _row(name: str, result: dict[str, Any]) -> list[str]:
    values, data = [result[key] for key in KEYS], result["reference count"]
    numbers = (str(result["count"]), "unknown" if data is None else str(data))
    formats = (".4g", ".4g", ".2g", ".3f", ".3f")
    figures = ("" if value is None else format(value, shape) for value, shape in zip(values, formats, strict=True))
    return [name, *numbers, *figures]
