"""The report of a run. It can be written at any time: what is missing or damaged is named in its place."""

from __future__ import annotations

import csv
import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde._files import bytes_digest, read_plain, read_sealed, write_atomic
from scoresde.data import Columns, Quantized, Transform
from scoresde.experiment.config.condition_values import short
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import reverse_likelihood
from scoresde.experiment.config.summary import network_text, objective_rows, process_text
from scoresde.experiment.folder.initial import describe_source, source_of_run
from scoresde.experiment.folder.plots import events_shown, histogram_picture, marginals_picture
from scoresde.experiment.folder.shown_events import shown_events, shown_file
from scoresde.experiment.folder.tensor_file import CheckpointError
from scoresde.experiment.folder.workdir import Workdir, config_digest
from scoresde.experiment.reports.conditions import class_figure, condition_figures
from scoresde.experiment.reports.edits import edits_section
from scoresde.experiment.reports.evaluation import evaluation_section
from scoresde.experiment.reports.html import UNREADABLE, figure, note, page, problem_note, shown_figure, table
from scoresde.experiment.reports.predictions import prediction_section
from scoresde.experiment.reports.texts import text_table
from scoresde.experiment.reports.training import Metrics, progress, read_metrics, speed, training_section
from scoresde.experiment.results.likelihood_summary import LEVEL_BOUND
from scoresde.experiment.results.sample_index import (
    CONDITIONS_OF_SAMPLES,
    SampleIndex,
    describe_acceptance,
    describe_evidence,
)
from scoresde.jump import JumpModel
from scoresde.metrics import CANDIDATES, Baseline, gaussian_mixtures, pixel_histogram
from scoresde.product import ProductModel
from scoresde.score import ScoreModel, TargetModel

BASELINES_UP_TO = 2**24
"""Largest number of values in a training set for which other density models are fitted: the digits have 2^17, CIFAR-10 2^27."""
MARGINALS_OF = 2**16
"""Number of samples of a table whose columns are shown."""
MIXTURES_UP_TO = 2**29
"""Largest number of products in an iteration of a mixture's fit, events x components x dimensions (squared for full covariances).

It takes about a minute.
"""


def report(experiment: Experiment, workdir: Workdir) -> Path:
    """Write report.html to the work folder.

    Args:
        experiment: The experiment.
        workdir: Its work folder.

    Returns:
        The path of the report.

    Raises:
        WorkdirError: If the folder or its last checkpoint belongs to another config. A result that is damaged, or was
            changed after it was written, is no error: the report names it.
    """
    workdir.check(experiment)
    workdir.check_trained(experiment)
    metrics = read_metrics(workdir.metrics_file)
    if isinstance(experiment.model, TargetModel):
        results = [prediction_section(experiment, workdir)]
    else:
        results = [_likelihood(experiment, workdir), _samples(experiment, workdir), edits_section(workdir)]
        results.append(evaluation_section(workdir))
    sections = [
        _head(experiment, workdir, metrics),
        _configuration(experiment, workdir),
        *results,
        training_section(experiment, workdir, metrics),
        _timings(experiment, workdir, metrics),
        _settings(workdir),
        _environment(workdir),
    ]
    with workdir.lock("report", wait=True):
        workdir.remove_leftovers("report")
        write_atomic(workdir.report_file, page(f"scoresde: {workdir.path.name}", sections).encode())
    return workdir.report_file


def baselines(experiment: Experiment) -> tuple[list[Baseline], str]:
    """Other density models on the same split, and a text about those that are left out.

    There are none for data that is not discrete, or too large.
    """
    data, transform = experiment.data, experiment.data.transform
    if not isinstance(transform, Quantized):
        return [], ""
    n, d = len(data.train), math.prod(data.event_shape)
    if n * d > BASELINES_UP_TO:
        return [], f"No baselines: {n} training events with {d} numbers each are more than {BASELINES_UP_TO} numbers."
    raw, held_out = (d.events(torch.arange(len(d))) for d in (data.train, data.test))
    found = [pixel_histogram(raw, held_out, transform.levels)]
    work = {c: n * c[0] * (d * d if c[1] == "full" else d) for c in CANDIDATES}
    fitted = tuple(c for c in CANDIDATES if c[0] <= n and n > 1 and work[c] <= MIXTURES_UP_TO)
    left = [
        f"{c[0]} {c[1]} ({'too few events' if c[0] > n or n < 2 else 'large events'})"
        for c in CANDIDATES
        if c not in fitted
    ]
    if fitted:
        train, test = (d.encode(torch.arange(len(d)), seed=experiment.likelihood.seed) for d in (data.train, data.test))
        found.insert(0, gaussian_mixtures(train, test, transform.width, fitted))
    return found, f"Gaussian mixtures left out: {', '.join(left)}" if left else ""


def _head(experiment: Experiment, workdir: Workdir, metrics: Metrics) -> str:
    return f"<h1>{html.escape(workdir.path.name)}</h1>{progress(experiment, workdir, metrics)}"


def _configuration(experiment: Experiment, workdir: Workdir) -> str:
    config = experiment.training
    passes = config.steps * config.batch_size / len(experiment.data.train)
    rows = [
        ("data", f"{experiment.data.train.summary}; {len(experiment.data.test)} test events"),
        ("process", process_text(experiment)),
        ("network", network_text(experiment)),
        _meaning(experiment),
        *objective_rows(experiment),
        ("training", f"{config.steps:,} steps of batch size {config.batch_size}, {passes:,.1f} epochs; learning rate "
                     f"{config.learning_rate:g}, {config.schedule}, warm-up {config.warmup}; averages at "
                     f"{', '.join(f'{decay:g}' for decay in config.decays)}"),
        ("initial weights", _initial_weights(workdir)),
        *((f"sampler {name}", repr(sampler)) for name, sampler in experiment.samplers.items()),
    ]  # fmt: skip
    if not isinstance(experiment.model, TargetModel):
        method = experiment.likelihood.method
        how = _named(method or experiment.likelihood.divergence)
        if isinstance(experiment.model, JumpModel | ProductModel):
            how = reverse_likelihood(experiment.process, method).summary
        rows.append((
            "likelihood", f"{experiment.likelihood.split} split, draws per event: {experiment.likelihood.draws}, {how}",
        ))  # fmt: skip
    return "<h2>Configuration</h2>" + table("configuration", (), rows)


def _meaning(experiment: Experiment) -> tuple[str, str]:
    """What the output of the network means."""
    model = experiment.model
    if isinstance(model, ScoreModel | ProductModel):
        return "prediction", _named(model.prediction)
    targets = ", ".join(experiment.objective.targets)
    return "model", type(model).__name__ + (f" of {targets}" if targets else "")


def _initial_weights(workdir: Workdir) -> str:
    try:
        source = source_of_run(workdir)
    except CheckpointError:
        return "unknown: environment.json and the checkpoints cannot be read"
    return describe_source(source) if source else "random"


def _named(thing: object) -> str:
    """The repr of an object, or its class if the repr has an address."""
    text = repr(thing)
    return type(thing).__name__ if " at 0x" in text else text


def _facts(file: Path) -> dict[str, Any]:
    """The content of a result file. Empty if it is missing or has changed."""
    try:
        return read_sealed(file)
    except (OSError, ValueError):
        return {}


def _outdated(experiment: Experiment, workdir: Workdir, facts: dict[str, Any]) -> str:
    """The config or checkpoint of a result if it differs from the current one. Otherwise an empty string."""
    if facts.get("config digest") not in (None, config_digest(experiment)):
        return f"another config, digest {facts['config digest']}"
    return workdir.outdated(facts)


def _likelihood(experiment: Experiment, workdir: Workdir) -> str:
    parts = ["<h2>Likelihood</h2>"]
    for file in sorted(workdir.likelihood.glob("*.json")):
        try:
            parts.append(_one_likelihood(experiment, file))
            if before := _outdated(experiment, workdir, _facts(file)):
                parts.append(problem_note(f"{file.name}: computed with {before}. Run scoresde likelihood again."))
        except UNREADABLE as problem:
            parts.append(problem_note(f"{file.name} cannot be shown: {problem!r}. Run scoresde likelihood again."))
    return "".join(parts) if len(parts) > 1 else parts[0] + problem_note("Not computed yet: run scoresde likelihood.")


def _one_likelihood(experiment: Experiment, file: Path) -> str:
    summary, lines = read_sealed(file), read_plain(file.with_suffix(".csv"))
    if summary["table digest"] != bytes_digest(lines):
        raise ValueError(f"{file.stem}.csv is not the table of this summary")
    discrete = "bits_per_dim" in summary
    unit, keys = (
        ("bits/dim", ("bits_per_dim", "standard_error")) if discrete else ("nats", ("nats_of_data", "nats_error"))
    )
    meaning = "bits/dim, lower is better" if discrete else "nats, log-density of the original data, higher is better"
    value, error = summary[keys[0]], summary[keys[1]]
    column, shift = ("bits_per_dim", 0.0) if discrete else ("nats", value - summary["nats"])
    others, left_out = baselines(experiment) if discrete and summary["split"] == "test" else ([], "")
    rows = [
        (
            f"this run, {_method(summary)}, weights {summary['weights']}",
            f"{value:.3f}",
            "unknown" if error is None else f"{error:.3f}",
        )
    ]
    every = len(experiment.data.test) if others else summary["events"]
    more = "" if every == summary["events"] else f", all {every} events"
    rows += [
        (
            b.name + more,
            f"{b.bits_per_dim:.3f}",
            "unknown" if math.isnan(b.standard_error) else f"{b.standard_error:.3f}",
        )
        for b in others
    ]
    simple = summary.get("baseline")
    if simple is not None and (more or simple["name"] not in [b.name for b in others]):
        error = simple["standard error"]
        rows.append((simple["name"], f"{simple['value']:.3f}", "unknown" if error is None else f"{error:.3f}"))
    if codecs := summary.get("codecs"):
        few = "" if codecs["images"] == summary["events"] else f", the first {codecs['images']} images"
        rows += [
            (one["name"] + few, f"{one['value']:.3f}", "" if (e := one["standard error"]) is None else f"{e:.3f}")
            for one in codecs["figures"]
        ]
    head = (f"model, {summary['events']} {summary['split']} events", unit, "standard error")
    table_rows = csv.DictReader(lines.decode().splitlines())
    values = np.array([float(row[column]) + shift for row in table_rows if row["failed"] == "0"])
    failed = f"{summary['failed']} of {summary['rows']} rows failed and are not included in the mean."
    return "".join([
        table(f"likelihood-{file.stem}", head, rows, numbers=(1, 2), ours=0),
        problem_note(f"Warning: {simple['worse']}.") if simple is not None and simple["worse"] else "",
        text_table(summary),
        note(left_out) if left_out else "",
        figure(histogram_picture(values, f"{unit} per event"), f"{len(values)} events and draws, {meaning}", "wide"),
        problem_note(failed) if summary["failed"] else "",
        note(
            f"The standard error includes the differences between events{_dequantization(summary)} and "
            f"{_meant(summary, unit)} " + _sentence(summary, experiment.data.transform)
        ),
    ])  # fmt: skip


def _dequantization(summary: dict[str, Any]) -> str:
    return ", the dequantization" if "dequantization" in summary["parts of the error"] else ""


def _method(summary: dict[str, Any]) -> str:
    if "method" not in summary:
        return "probability flow"
    by = f"a chain of {summary['solver']}" if _is_chain(summary) else f"{summary['bound by'][-1]}, {summary['solver']}"
    return f"at {'most' if summary['unit'] == 'bits/dim' else 'least'}, by {by}"


def _is_chain(summary: dict[str, Any]) -> bool:
    """Whether a bound is that of a chain of an SDE."""
    return "a chain" in summary["bound by"]


def _meant(summary: dict[str, Any], unit: str) -> str:
    """What the error consists of, and what the density is that of."""
    parts = _listed(summary["parts of the error"])
    if "method" in summary:
        bound = "an upper bound of the bits/dim" if unit == "bits/dim" else "a lower bound of the log-density"
        drawn, model = ("steps", "a reverse chain with these steps, which is another model than the probability flow")
        if not _is_chain(summary):
            drawn, model = "times", "the reverse process"
        return f"the noise of the states and the drawn {drawn}. Its parts, in {unit}: {parts}. The figure is {bound} of {model}."
    bound = ""
    if LEVEL_BOUND in summary.get("bound by", ()):
        bound = f" The figure is an upper bound of the bits/dim by {LEVEL_BOUND}: t_min does not bias it."
    return (
        f"the trace estimator. Its parts, and the solver's error estimate, in {unit}: {parts}. The density is that of the "
        f"probability flow at t_min with the prior at T, without a correction.{bound} {_biases(summary['known biases'], unit)}"
    )


def _biases(known: dict[str, Any], unit: str) -> str:
    if not known:
        return "The size of the two effects is not known, because the process has no closed-form kernel."
    figures = {name: value for name, value in known.items() if name != "events"}
    return (
        f"To first order this makes the result worse by, in {unit} at the first {known.get('events', 'few')} events: "
        f"{_listed(figures)}."
    )


def _listed(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'unknown' if value is None else f'{value:.3g}'}" for name, value in figures.items())


def _sentence(summary: dict[str, Any], transform: Transform) -> str:
    if isinstance(transform, Columns) and summary["transform"] == repr(transform):
        summary = {**summary, "transform": transform.summary}  # config.json lists the columns
    keys = ("draws", "solver", "divergence", "t_min", "transform", "data digest", "checkpoint", "weights", "seed")
    given = ("condition",) if "condition" in summary else ()
    return ", ".join(f"{k} {summary[k]}" for k in given + keys) + "."


def _samples(experiment: Experiment, workdir: Workdir) -> str:
    data = experiment.data.test
    parts = ["<h2>Samples</h2>"]
    raw = data.raw[: min(events_shown(data.event_shape, data.transform), len(data))]
    wide = "wide" if isinstance(data.transform, Columns) else "half"
    shown = shown_events(experiment.data, raw)
    parts += [shown_figure(*shown, "test data, for comparison", wide), condition_figures(experiment)]
    for name in sorted({file.stem for file in workdir.samples.glob("*.json")} | set(experiment.samplers)):
        try:
            parts.append(_sample_figure(experiment, workdir, name))
            continue
        except FileNotFoundError:
            pass
        except UNREADABLE as problem:
            parts.append(problem_note(f"{name} cannot be shown: {problem}. Run scoresde sample again."))
        there = len(list(workdir.samples.glob(f"{name}/shards-*/*.npz")))
        status = f"{there} batches are drawn, not finished" if there else "not drawn yet"
        parts.append(problem_note(f"{name}: {status}. Run scoresde sample."))
    return "".join(parts)


def _sample_figure(experiment: Experiment, workdir: Workdir, name: str) -> str:
    """The samples of a sampler with their picture or text. Raises FileNotFoundError if they do not exist."""
    index = workdir.samples / f"{name}.json"
    facts = read_sealed(index)
    file = shown_file(index, facts)
    picture = read_plain(file)
    if facts["picture digest"] != bytes_digest(picture):
        raise ValueError(f"{file.name} is not the {'picture' if file.suffix == '.png' else 'text'} of these samples")
    took = f"{facts.get('count')} samples, {facts.get('nfe')} evaluations, {facts.get('seconds')} s"
    other = (
        ""
        if facts.get("sampler") == repr(experiment.samplers.get(name.partition("@")[0]))
        else f", by {facts.get('sampler')}"
    )
    given = "".join(f", {key} {short(facts[key])}" for key in CONDITIONS_OF_SAMPLES if key in facts)
    for found in filter(None, (describe_acceptance(facts), describe_evidence(facts))):
        given += f", {found}"
    text, data = f"{name}: {took}, weights {facts.get('weights')}{other}{given}", experiment.data
    if isinstance(data.transform, Columns):
        opened = SampleIndex.open(index)
        shards = [opened.read(entry).raw for entry in opened.entries if entry.first < MARGINALS_OF]
        drawn = torch.from_numpy(np.concatenate(shards)[: opened.count])
        tables = {"test data": data.test.events(torch.arange(len(data.test))), name: drawn}
        picture, text = marginals_picture(tables, data.transform), f"{text}; columns of the table"
    shown = shown_figure(file.suffix, picture, text, "wide" if isinstance(data.transform, Columns) else "half")
    shown += class_figure(experiment, index)
    before = _outdated(experiment, workdir, facts)
    return shown + (problem_note(f"{name}: drawn with {before}. Run scoresde sample again.") if before else "")


def _timings(experiment: Experiment, workdir: Workdir, metrics: Metrics) -> str:
    rows = []
    if metrics:
        rates = [rate for rate in metrics.get("images_per_second") or speed(experiment, metrics) if math.isfinite(rate)]
        rate = f", {np.median(rates):,.0f} events a second (median)" if rates else ""
        seconds = metrics.get("seconds", [math.nan])[-1]
        rows.append(("training", f"{seconds:.1f}", f"{metrics['step'][-1]:.0f} steps{rate}"))
    for folder, unit, evaluations in ((workdir.samples, "count", "nfe"), (workdir.likelihood, "events", "mean nfe")):
        for file in sorted(folder.glob("*.json")):
            facts = _facts(file)
            try:
                what = (
                    f"{facts[unit]} {'samples' if unit == 'count' else 'events'}, {facts[evaluations]:.0f} evaluations"
                )
            except UNREADABLE:
                what = "cannot be read"
            rows.append((f"{folder.name}, {file.stem}", str(facts.get("seconds", "")), what))
    return "<h2>Timings</h2>" + table("timings", ("part", "seconds", "for"), rows, numbers=(1,))


def _settings(workdir: Workdir) -> str:
    content = html.escape(workdir.config_file.read_text())
    return f"<h2>Settings</h2><details><summary>config.json</summary><pre id='settings'>{content}</pre></details>"


def _environment(workdir: Workdir) -> str:
    content, status = {}, ""
    try:
        content = read_sealed(workdir.path / "environment.json")
    except (OSError, ValueError) as problem:
        status = problem_note(f"environment.json is missing or cannot be read: {problem}")
    return "<h2>Environment</h2>" + status + table("environment", (), [(k, str(v)) for k, v in content.items()])
