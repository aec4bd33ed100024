"""What a comparison of runs needs from one run, read from the files of its folder.

Nothing is built from the config, so a run whose config names classes of another project can be compared too, and the data is not
read. A result that is missing or damaged is named in ``problems``.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoresde._files import bytes_digest, read_plain, read_sealed
from scoresde.experiment.config.loader import flat, read_config
from scoresde.experiment.folder.checkpoint import list_checkpoints, step_of
from scoresde.experiment.folder.workdir import Workdir, WorkdirError
from scoresde.experiment.reports.html import UNREADABLE
from scoresde.experiment.reports.predictions import figure_rows
from scoresde.experiment.reports.training import Metrics, read_metrics


@dataclass(frozen=True)
class RunLikelihood:
    """A likelihood of a run.

    Attributes:
        facts: Its summary, the content of likelihood/NAME.json.
        events: The mean over draws of each event by its index, in ``unit``. Failed rows are left out.
    """

    facts: dict[str, Any]
    events: dict[int, float]

    @property
    def unit(self) -> str:
        """ "bits/dim", where lower is better, or "nats", where higher is better."""
        return str(self.facts["unit"])

    @property
    def value(self) -> float:
        """The mean over events."""
        return float(self.facts["bits_per_dim" if self.unit == "bits/dim" else "nats_of_data"])

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean. None if it is not known."""
        found = self.facts["standard_error" if self.unit == "bits/dim" else "nats_error"]
        return None if found is None else float(found)


@dataclass(frozen=True)
class RunSummary:
    """The settings and results of a run.

    Attributes:
        name: The name in tables.
        path: The work folder.
        config: The values of its config by dotted keys.
        data: Digests of its data by split. Empty if they are not known.
        parameters: The number of parameters of the model. None if it is not known.
        steps: The number of training steps so far.
        planned: ``training.steps`` of the config. None for the default.
        metrics: The columns of metrics.csv.
        likelihoods: Likelihoods by the name of their file, such as "test" or "test@model".
        evaluations: The content of evaluation/NAME.json by name.
        problems: What is missing, damaged or out of date.
        predictions: The content of evaluation/predictions/NAME.json by name, for classifiers and regressors.
    """

    name: str
    path: Path
    config: dict[str, Any]
    data: dict[str, str]
    parameters: int | None
    steps: int
    planned: int | None
    metrics: Metrics
    likelihoods: dict[str, RunLikelihood]
    evaluations: dict[str, dict[str, Any]]
    problems: tuple[str, ...]
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Seconds of training until the last row of metrics.csv. None if they are not known."""
        return _last(self.metrics, "seconds")

    @property
    def loss(self) -> float | None:
        """The mean loss of the last row of metrics.csv. None if it is not known."""
        return _last(self.metrics, "loss")


def read_run(path: str | Path, name: str) -> RunSummary:
    """Read a run.

    Args:
        path: The work folder.
        name: Its name in tables.

    Returns:
        The settings and results of the run.

    Raises:
        WorkdirError: If the folder contains no run.
        ConfigError: If its config.json is damaged.
    """
    workdir = Workdir(path)
    if not workdir.config_file.is_file():
        raise WorkdirError(f"{path} contains no run (no config.json): give work folders of scoresde train")
    config = flat(read_config(read_plain(workdir.config_file).decode(errors="replace")))
    problems: list[str] = []
    facts: dict[str, Any] = {}
    try:
        facts = read_sealed(workdir.path / "environment.json")
    except (OSError, ValueError) as problem:
        problems.append(f"environment.json cannot be read: {problem}")
    digests, metrics = facts.get("data digest"), read_metrics(workdir.metrics_file)
    reached = [int(metrics["step"][-1])] if metrics else []
    reached += [step_of(file) for file in list_checkpoints(workdir.checkpoints)[-1:]]
    likelihoods: dict[str, RunLikelihood] = {}
    evaluations: dict[str, dict[str, Any]] = {}
    for file in sorted(workdir.likelihood.glob("*.json")):
        try:
            likelihoods[file.stem] = found = _likelihood(file)
            problems += _outdated(workdir, f"likelihood of {file.stem}", found.facts)
        except UNREADABLE as problem:
            likelihoods.pop(file.stem, None)
            problems.append(f"likelihood/{file.name} cannot be read: {problem!r}")
    for file in sorted(workdir.evaluation.glob("*.json")):
        try:
            result = read_sealed(file)
            # keys that the tables need
            [
                result[key]
                for key in ("frechet distance", "kernel distance", "ratio", "count", "reference count", "scaling")
            ]
            problems += _outdated(workdir, f"evaluation of {file.stem}", result["set"])
            evaluations[file.stem] = result
        except UNREADABLE as problem:
            problems.append(f"evaluation/{file.name} cannot be read: {problem!r}: run scoresde evaluate again")
    predictions: dict[str, dict[str, Any]] = {}
    for file in sorted((workdir.evaluation / "predictions").glob("*.json")):
        try:
            result = read_sealed(file)
            figure_rows(result)
            problems += _outdated(workdir, f"predictions of {file.stem}", result)
            predictions[file.stem] = result
        except UNREADABLE as problem:
            problems.append(
                f"evaluation/predictions/{file.name} cannot be read: {problem!r}: run scoresde evaluate again"
            )
    steps, planned = max(reached, default=0), config.get("training.steps")
    if planned is not None and steps < planned:
        problems.append(f"trained to step {steps} of {planned}")
    return RunSummary(
        name, workdir.path, config, dict(digests) if isinstance(digests, dict) else {}, facts.get("parameters"), steps, planned,
        metrics, likelihoods, evaluations, tuple(problems), predictions,
    )  # fmt: skip


def _likelihood(file: Path) -> RunLikelihood:
    facts, lines = read_sealed(file), read_plain(file.with_suffix(".csv"))
    if facts["table digest"] != bytes_digest(lines):
        raise ValueError(f"{file.stem}.csv is not the table of this summary")
    discrete = facts["unit"] == "bits/dim"
    column, shift = ("bits_per_dim", 0.0) if discrete else ("nats", facts["nats_of_data"] - facts["nats"])
    draws: dict[int, list[float]] = {}
    for row in csv.DictReader(lines.decode().splitlines()):
        if row["failed"] == "0":
            draws.setdefault(int(row["index"]), []).append(float(row[column]) + shift)
    found = RunLikelihood(facts, {index: math.fsum(values) / len(values) for index, values in draws.items()})
    if not math.isfinite(found.value):
        raise ValueError(f"its mean is {found.value}")
    return found


def _outdated(workdir: Workdir, what: str, facts: dict[str, Any]) -> list[str]:
    """A line if a result comes from an earlier checkpoint."""
    before = workdir.outdated(facts) if "checkpoint" in facts else ""
    return [f"{what}: computed with {before}"] if before else []


def _last(metrics: Metrics, column: str) -> float | None:
    values = [value for value in metrics.get(column, []) if math.isfinite(value)]
    return values[-1] if values else None
