"""Runs side by side: settings that differ, likelihoods with paired differences, evaluations, training.

The difference of two likelihoods is paired if both runs have rows for the same events of the same data. With d_i the
difference of the values of event i,

    mean d = 1/n sum_i d_i          standard error^2 = sum_i (d_i - mean d)^2 / (n (n - 1)).

The differences between events are the same for both runs and cancel, so this error is often much smaller than those of the two
likelihoods. The dequantization cancels in part if both have the same seed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde._files import write_atomic
from scoresde._validation import shown
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.reports.predictions import figure_name
from scoresde.experiment.reports.run_page import run_page
from scoresde.experiment.reports.run_summary import RunLikelihood, RunSummary, read_run
from scoresde.version import __version__

OBJECTIVE = ("sde.", "model.", "objective.", "data.")
"""Sections on which the meaning of the training loss depends."""
LISTED = 6
"""Largest number of keys in a note."""
SETTING = ("extractor", "extractor digest", "scaling", "neighbors")
"""What evaluations must share to be compared, in addition to the reference."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference between the likelihoods of two runs on the same events.

    Attributes:
        run: The name of the run.
        other: The name of the run that is subtracted.
        likelihood: The name of the likelihood, such as "test".
        mean: The mean of run - other, in ``unit``.
        standard_error: Its standard error. None for one event.
        events: The number of events.
        unit: "bits/dim", where a negative difference is better, or "nats", where a positive one is.
    """

    run: str
    other: str
    likelihood: str
    mean: float
    standard_error: float | None
    events: int
    unit: str

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "not distinguishable" within two standard errors."""
        if self.standard_error is None or abs(self.mean) <= 2.0 * self.standard_error:
            return "not distinguishable"
        return "better" if (self.mean < 0.0) == (self.unit == "bits/dim") else "worse"


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side.

    Attributes:
        runs: The runs, in the given order.
        keys: For each dotted key of the config in which they differ, the value of each run; None where the key is absent.
        differences: Paired differences of likelihoods from the first run.
        notes: What a reader of the tables must know.
        gaps: Paired differences of the bound of a chain from the likelihood of the probability flow of the same run.
    """

    runs: tuple[RunSummary, ...]
    keys: dict[str, tuple[Any, ...]]
    differences: tuple[PairedDifference, ...]
    notes: tuple[str, ...]
    gaps: tuple[PairedDifference, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary for each run, with the same keys: the rows of the CSV file. None is not known."""
        found = [self._record(number, run) for number, run in enumerate(self.runs)]
        names = list(dict.fromkeys(name for record in found for name in record))
        return [{name: record.get(name) for name in names} for record in found]

    def _record(self, number: int, run: RunSummary) -> dict[str, Any]:
        record: dict[str, Any] = {"run": run.name, **{key: values[number] for key, values in self.keys.items()}}
        record |= {
            "parameters": run.parameters,
            "steps": run.steps,
            "seconds of training": run.seconds,
            "last loss": run.loss,
        }
        for title, found in run.likelihoods.items():
            record |= {f"{title} {found.unit}": found.value, f"{title} standard error": found.standard_error}
            record[f"{title} events"] = len(found.events)
        names = [(pair, f"{pair.likelihood} minus {pair.other}") for pair in self.differences]
        names += [(pair, f"{pair.likelihood} minus {flow_of(pair.likelihood)}") for pair in self.gaps]
        for pair, start in names:
            if pair.run == run.name:
                record |= {
                    start: pair.mean,
                    f"{start} standard error": pair.standard_error,
                    f"{start} events": pair.events,
                }
        for name, result in run.evaluations.items():
            record |= {
                f"{name} {metric}": result[metric] for metric in ("frechet distance", "kernel distance", "count")
            }
            record |= {f"{name} {metric}, times the yardstick": ratio for metric, ratio in result["ratio"].items()}
        for title, predicted in run.predictions.items():
            name = figure_name(predicted)
            record |= {
                f"{title} mean nll": predicted["mean nll"],
                f"{title} {name} at the lowest noise": predicted["levels"][0][name],
            }
        return record

    def to_json(self) -> str:
        """The records, the keys that differ, the paired differences and the notes as JSON."""
        content = {
            "scoresde": __version__,
            "runs": [{"path": str(run.path), **record} for run, record in zip(self.runs, self.records(), strict=True)],
            "differing keys": list(self.keys),
            "paired differences": [{**vars(pair), "verdict": pair.verdict} for pair in self.differences],
            "bounds minus flows": [{**vars(pair), "verdict": pair.verdict} for pair in self.gaps],
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2, default=str) + "\n"

    def to_csv(self) -> str:
        """The records as CSV."""
        text, records = io.StringIO(), self.records()
        writer = csv.DictWriter(text, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def save(self, output: str | Path) -> tuple[Path, Path, Path]:
        """Write a page with tables and a plot, and the same figures as JSON and CSV next to it.

        Args:
            output: The page, a name that ends in .html.

        Returns:
            The page, the JSON file and the CSV file.

        Raises:
            ValueError: If the name has another ending, or if a file of this name is not such a page.
        """
        page = Path(output)
        check_output(page)
        files = page, page.with_suffix(".json"), page.with_suffix(".csv")
        contents = (
            run_page(self.runs, self.keys, self.differences, self.notes, self.gaps),
            self.to_json(),
            self.to_csv(),
        )
        for file, content in zip(files, contents, strict=True):
            write_atomic(file, content.encode())
        return files

    def __str__(self) -> str:
        lines = [_line(record) for record in self.records()]
        return "\n".join([*lines, *(f"WARNING: {text}" for text in self.notes)])


def compare_runs(runs: Sequence[str | Path | Workdir], output: str | Path | None = None) -> RunComparison:
    """Compare runs: settings, likelihoods, evaluations, training time and losses.

    Only files of the folders are read. Nothing is built from the configs, and no result is computed.

    Args:
        runs: Two or more work folders. Likelihoods are subtracted from that of the first one.
        output: A page to write, which ends in .html; a JSON and a CSV file are written next to it. None writes nothing.

    Returns:
        The comparison. Its ``notes`` say so if the runs are of different data.

    Raises:
        ValueError: For fewer than two runs, a run that is given twice, or an ``output`` that is not allowed.
        WorkdirError: If a folder contains no run.

    Example:
        >>> from scoresde.experiment import compare_runs
        >>> compare_runs(["runs/a"])
        Traceback (most recent call last):
            ...
        ValueError: runs=['runs/a'] is not allowed: give two or more work folders
    """
    if output is not None:
        check_output(Path(output))
    paths = [run.path if isinstance(run, Workdir) else Path(run) for run in runs]
    if len(paths) < 2:
        raise ValueError(f"runs={[str(path) for path in paths]} is not allowed: give two or more work folders")
    places = [path.resolve() for path in paths]
    if twice := [str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{twice[0]} is given twice: give different work folders")
    short = [place.name for place in places]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    read = tuple(read_run(path, name) for path, name in zip(paths, names, strict=True))
    every = sorted({key for run in read for key in run.config})
    values = {key: tuple(run.config.get(key) for run in read) for key in every}
    keys = {key: found for key, found in values.items() if any(value != found[0] for value in found)}
    pairs = tuple(pair for run in read[1:] for pair in _pairs(run, read[0]))
    gaps = tuple(gap for run in read for gap in _gaps(run))
    made = RunComparison(read, keys, pairs, tuple(_notes(read, keys)), gaps)
    if output is not None:
        made.save(output)
    return made


def check_output(page: Path) -> None:
    """Raise ValueError if a page of this name may not be written."""
    if page.suffix != ".html":
        raise ValueError(f"output={str(page)!r} is not allowed: give a name that ends in .html")
    if page.exists() and b"<title>scoresde: comparison" not in page.read_bytes()[:500]:
        raise ValueError(f"output={str(page)!r} exists and is not a comparison of runs: give another name")
    # the page is the first file that is written
    for file in [] if page.exists() else (page.with_suffix(".json"), page.with_suffix(".csv")):
        if file.exists():
            raise ValueError(f"output={str(page)!r} is not allowed, because {file} exists: give another name")


def _pairs(run: RunSummary, other: RunSummary) -> list[PairedDifference]:
    """The paired differences of the likelihoods that both runs have for the same events of the same data."""
    pairs = ((title, mine, other.likelihoods.get(title)) for title, mine in run.likelihoods.items())
    made = [_pair(run.name, other.name, title, mine, theirs) for title, mine, theirs in pairs]
    return [pair for pair in made if pair is not None]


def _gaps(run: RunSummary) -> list[PairedDifference]:
    """The paired differences of the bounds of a run and the likelihoods of its probability flow."""
    pairs = ((title, mine, run.likelihoods.get(flow_of(title))) for title, mine in run.likelihoods.items())
    made = [_pair(run.name, run.name, title, mine, theirs) for title, mine, theirs in pairs if flow_of(title) != title]
    return [pair for pair in made if pair is not None]


def flow_of(title: str) -> str:
    """The name of the likelihood of the probability flow for the name of a bound: "test@model" for "test-bound@model"."""
    split, at, weights = title.partition("@")
    return split.removesuffix("-bound") + at + weights


def _pair(
    run: str, other: str, title: str, mine: RunLikelihood, theirs: RunLikelihood | None
) -> PairedDifference | None:
    """The paired difference of two likelihoods. None without common events of the same data."""
    if theirs is None or not _same_data(mine, theirs):
        return None
    both = sorted(mine.events.keys() & theirs.events.keys())
    if not both:
        return None
    apart = [mine.events[index] - theirs.events[index] for index in both]
    n, mean = len(apart), math.fsum(apart) / len(apart)
    error = math.sqrt(math.fsum((d - mean) ** 2 for d in apart) / (n * (n - 1))) if n > 1 else None
    return PairedDifference(run, other, title, mean, error, n, mine.unit)


def _same_data(mine: RunLikelihood, theirs: RunLikelihood) -> bool:
    return mine.unit == theirs.unit and all(mine.facts[key] == theirs.facts[key] for key in ("split", "data digest"))


def _notes(runs: Sequence[RunSummary], keys: dict[str, tuple[Any, ...]]) -> list[str]:
    found = []
    first = runs[0]
    if unknown := [run.name for run in runs if not run.data]:
        found.append(f"the digest of the data is not known for {', '.join(unknown)}: it may be other data")
    if others := [run.name for run in runs if run.data and first.data and run.data != first.data]:
        found.append(
            f"DIFFERENT DATA: {', '.join(others)}: not the data of {first.name}. Losses, likelihoods and evaluations of "
            "different data cannot be compared"
        )
    if changed := [key for key in keys if f"{key}.".startswith(OBJECTIVE)]:
        more = f" and {len(changed) - LISTED} more keys" if changed[LISTED:] else ""
        found.append(f"training losses cannot be compared, because they differ in {', '.join(changed[:LISTED])}{more}")
    for title in dict.fromkeys(title for run in runs for title in run.likelihoods):
        sets = [run.likelihoods[title] for run in runs if title in run.likelihoods]
        if any(found_here.events.keys() != sets[0].events.keys() for found_here in sets):
            found.append(f"likelihoods of {title} are of different events: only paired differences use the same ones")
    for name in dict.fromkeys(name for run in runs for name in run.evaluations):
        results = [run.evaluations[name] for run in runs if name in run.evaluations]
        settings = [[result["reference"]["description"], *(result[key] for key in SETTING)] for result in results]
        if any(setting != settings[0] for setting in settings):
            found.append(
                f"evaluations of {name} differ in the reference, the extractor, the scaling or k: do not compare them"
            )
        elif len({(result["count"], result["reference count"]) for result in results}) > 1:
            found.append(
                f"evaluations of {name} are of different numbers of samples: Frechet distances cannot be compared"
            )
    return found + [f"{run.name}: {problem}" for run in runs for problem in run.problems]


def _line(record: dict[str, Any]) -> str:
    """A record in one line, without the facts that are not known."""
    parts = []
    for name, value in record.items():
        if value is None or name == "run" or name.endswith(("standard error", " events", " count")):
            continue
        error = record.get(f"{name.removesuffix(' bits/dim').removesuffix(' nats')} standard error")
        text = f"{value:.5g}" if isinstance(value, float) else shown(value)
        parts.append(f"{name} {text}" + ("" if error is None else f" +- {error:.2g}"))
    return f"{record['run']}: {' | '.join(parts)}"
