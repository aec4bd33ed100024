"""The page that compares runs: one table of all runs, details of likelihoods and evaluations, and one plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scoresde.experiment.folder.run_plots import Bar, runs_picture
from scoresde.experiment.reports.html import figure, note, page, problem_note, table
from scoresde.experiment.reports.predictions import figure_name
from scoresde.experiment.reports.run_summary import RunSummary

if TYPE_CHECKING:
    from scoresde.experiment.reports.run_comparison import PairedDifference

LONGEST = 40
"""Largest number of characters of a value in a table. The JSON file has all of it."""
COLUMNS = 4
"""Largest number of settings that are columns of the first table. More have a table of their own, with a row for each."""


def run_page(
    runs: Sequence[RunSummary],
    keys: Mapping[str, Sequence[Any]],
    differences: Sequence[PairedDifference],
    notes: Sequence[str],
    gaps: Sequence[PairedDifference] = (),
) -> str:
    """The page as HTML."""
    first = runs[0].name
    return page(
        f"scoresde: comparison of {len(runs)} runs",
        [
            "<style>body { max-width: 80rem; }</style>",
            f"<h1>Comparison of {len(runs)} runs</h1>",
            "".join(problem_note(text) for text in notes),
            "<h2>Runs</h2>",
            _scrolled(_runs(runs, keys if len(keys) <= COLUMNS else {}, differences)),
            note(
                f"{_listed(keys)} An empty cell is the default. Errors are standard errors. Differences are "
                f"paired over the events that the run and {first} have in common. A Frechet ratio is a multiple of the "
                "yardstick, the distance between halves of the data, at the number of samples after @."
            ),
            *_settings(runs, keys),
            *_plots(runs),
            *_likelihoods(runs, differences),
            *_gaps(gaps),
            *_evaluations(runs),
            *_predictions(runs),
        ],
    )


def _runs(
    runs: Sequence[RunSummary], keys: Mapping[str, Sequence[Any]], differences: Sequence[PairedDifference]
) -> str:
    """The table with one row for each run."""
    titles = list(dict.fromkeys((title, found.unit) for run in runs for title, found in run.likelihoods.items()))
    samples = list(dict.fromkeys(name for run in runs for name in run.evaluations))
    last = [key.rpartition(".")[2] for key in keys]
    short = (name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True))
    head = ["run", *short, "parameters", "steps", "training, s", "last loss"]
    for title, unit in titles:
        head += [f"{title}, {unit}", f"minus {runs[0].name}"]
    head += [f"{name}, Frechet ratio" for name in samples]
    rows = []
    for number, run in enumerate(runs):
        row = [run.name, *(_cell(values[number]) for values in keys.values())]
        row += [_whole(run.parameters), _whole(run.steps), _figure(run.seconds, ".1f"), _figure(run.loss, ".4g")]
        for title, unit in titles:
            found = run.likelihoods.get(title)
            row.append("" if found is None or found.unit != unit else _with_error(found.value, found.standard_error))
            pair = next((p for p in differences if (p.run, p.likelihood, p.unit) == (run.name, title, unit)), None)
            row.append("" if pair is None else _difference(pair))
        for name in samples:
            result = run.evaluations.get(name)
            ratio = None if result is None else result["ratio"]["frechet distance"]
            row.append("" if result is None or ratio is None else f"{ratio:.3g} @ {result['yardstick']['count']}")
        rows.append(row)
    return table("runs", head, rows, numbers=tuple(range(1 + len(keys), len(head))))


def _listed(keys: Mapping[str, Sequence[Any]]) -> str:
    """The settings that differ, or where they are listed."""
    if len(keys) > COLUMNS:
        return "Settings that differ are in the next table."
    return f"Settings that differ: {', '.join(keys) or 'none'}."


def _settings(runs: Sequence[RunSummary], keys: Mapping[str, Sequence[Any]]) -> list[str]:
    """A table of the settings that differ, if they are too many for columns."""
    if len(keys) <= COLUMNS:
        return []
    rows = [(key, *(_cell(value) for value in values)) for key, values in keys.items()]
    return ["<h2>Settings that differ</h2>", _scrolled(table("settings", ("key", *(run.name for run in runs)), rows))]


def _plots(runs: Sequence[RunSummary]) -> list[str]:
    """The losses of all runs, and the likelihood that most of them have."""
    losses = {run.name: (run.metrics.get("step", []), run.metrics.get("loss", [])) for run in runs}
    units = [(title, found.unit) for run in runs for title, found in run.likelihoods.items()]
    bars: dict[str, Bar] = {}
    label = ""
    if units:
        title, unit = max(dict.fromkeys(units), key=units.count)
        for run in runs:
            found = run.likelihoods.get(title)
            if found is not None and found.unit == unit:
                bars[run.name] = found.value, found.standard_error
        better = "lower is better" if unit == "bits/dim" else "higher is better"
        label = f"{title}: {unit}, {better}\nbars: one standard error on each side"
    return ["<h2>Training losses and likelihoods</h2>", figure(runs_picture(losses, bars, label), "", "full")]


def _likelihoods(runs: Sequence[RunSummary], differences: Sequence[PairedDifference]) -> list[str]:
    head = ("run", "likelihood", "events", "mean", "standard error", "unit", "difference", "+-", "on events", "")
    rows = []
    for run in runs:
        for title, found in run.likelihoods.items():
            pair = next((p for p in differences if (p.run, p.likelihood) == (run.name, title)), None)
            error = _figure(found.standard_error, ".2g")
            row = [run.name, title, str(len(found.events)), f"{found.value:.4f}", error, found.unit]
            if pair is not None:
                row += [f"{pair.mean:+.4f}", _figure(pair.standard_error, ".2g"), str(pair.events), pair.verdict]
            rows.append([*row, *[""] * (len(head) - len(row))])
    if not rows:
        return []
    bounds = {what for run in runs for found in run.likelihoods.values() for what in found.facts.get("bound by", [])}
    worse = [
        f"{run.name}, {title}: {facts['worse']}"
        for run in runs
        for title, found in run.likelihoods.items()
        if (facts := found.facts.get("baseline")) is not None and facts["worse"]
    ]
    return [
        "<h2>Likelihoods</h2>",
        _scrolled(table("likelihoods", head, rows, numbers=(2, 3, 4, 6, 7, 8))),
        note(
            f"A difference is that of the run and {runs[0].name}. It is better or worse if it is larger than two standard errors."
            + (f" The likelihoods are bounds by {', '.join(sorted(bounds))}." if bounds else "")
        ),
        *(problem_note(text) for text in worse),
    ]


def _gaps(gaps: Sequence[PairedDifference]) -> list[str]:
    """A table of bounds and flows, if a run has both."""
    if not gaps:
        return []
    head = ("run", "bound", "bound minus flow", "standard error", "events", "unit")
    rows = [
        [gap.run, gap.likelihood, f"{gap.mean:+.4f}", _figure(gap.standard_error, ".2g"), str(gap.events), gap.unit]
        for gap in gaps
    ]
    return [
        "<h2>Bounds and probability flows</h2>",
        _scrolled(table("gaps", head, rows, numbers=(2, 3, 4))),
        note(
            "Mean differences between the bound of a chain and the likelihood of the probability flow of the same network, on "
            "the same events. The chain is another model than the flow."
        ),
    ]


def _evaluations(runs: Sequence[RunSummary]) -> list[str]:
    numbers = ("number", "of data", "Frechet", "ratio", "kernel", "+-", "ratio", "precision", "recall")
    head = ("run", "samples", *numbers, "sampler")
    rows = []
    for run in runs:
        for name, result in run.evaluations.items():
            ratios = result["ratio"]
            rows.append([
                run.name, name, _whole(result["count"]), _whole(result["reference count"]),
                _figure(result["frechet distance"], ".4g"), _figure(ratios["frechet distance"], ".3g"),
                _figure(result["kernel distance"], ".4g"), _figure(result["kernel distance error"], ".2g"),
                _figure(ratios["kernel distance"], ".3g"), _figure(result["precision"], ".3f"), _figure(result["recall"], ".3f"),
                str(result["set"].get("sampler", "")).partition("(")[0],
            ])  # fmt: skip
    if not rows:
        return []
    settings = {
        f"{result['reference']['description']}; {result['scaling']}"
        for run in runs
        for result in run.evaluations.values()
    }
    return [
        "<h2>Samples compared with data</h2>",
        _scrolled(table("evaluations", head, rows, numbers=tuple(range(2, 11)))),
        note(f"Reference and scaling: {'; '.join(sorted(settings))}. Ratios are multiples of the yardstick."),
    ]


def _predictions(runs: Sequence[RunSummary]) -> list[str]:
    """Classifiers and regressors at the lowest, the middle and the highest noise level."""
    rows = []
    for run in runs:
        for title, found in run.predictions.items():
            levels, name = found["levels"], figure_name(found)
            chosen = [levels[0], levels[len(levels) // 2], levels[-1]]
            figures = [
                f"{row[name]:.4f} ± {row[f'{name} error']:.2g} at {row['noise to signal']:.3g}" for row in chosen
            ]
            rows.append([run.name, title, f"{name} of {found['target']}", *figures, f"{found['mean nll']:.4f}"])
    if not rows:
        return []
    head = ("run", "split", "figure", "lowest noise / signal", "middle", "highest", "mean -log p, nats")
    return [
        "<h2>Predictions by noise level</h2>",
        _scrolled(table("predictions", head, rows, numbers=(3, 4, 5, 6))),
        note(
            "The mean is over the noise levels of each run, which depend on its training times: compare it only if they agree."
        ),
    ]


def _scrolled(content: str) -> str:
    """A table that scrolls if it is wider than the page."""
    return f"<div class='scroll'>{content}</div>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _figure(value: float | None, shape: str) -> str:
    return "" if value is None else format(value, shape)


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _difference(pair: PairedDifference) -> str:
    return f"{pair.mean:+.4f}" + ("" if pair.standard_error is None else f" ± {pair.standard_error:.4f}")
