"""One self-contained HTML page of a run, also of one that is unfinished: what is there is shown, what is not is said."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde._files import write_atomic
from scoresde.data import Quantized
from scoresde.experiment.checkpoint import list_checkpoints
from scoresde.experiment.experiment import Experiment
from scoresde.experiment.pictures import curve_picture, event_picture, histogram_picture
from scoresde.experiment.workdir import Workdir
from scoresde.metrics import Baseline, gaussian_mixtures, pixel_histogram

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5d9e0; }
table { border-collapse: collapse; margin: .6rem 0; } 
td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #d5d9e0; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.ours td { font-weight: 600; } code, pre { font-size: .85rem; } img { max-width: 100%; }
figure { display: inline-block; margin: .5rem 1.2rem .5rem 0; vertical-align: top; max-width: 20rem; }
figcaption { overflow-wrap: anywhere; font-size: .85rem; color: #555c68; }
figure.wide { max-width: 46rem; } .missing { color: #9a3412; } .note { color: #555c68; font-size: .9rem; }
"""


BASELINES_UP_TO = 2**24
"""Numbers in a training set up to which other density models are fitted to it: the digits have 2^17, CIFAR-10 2^27."""


def report(experiment: Experiment, workdir: Workdir) -> Path:
    """Write report.html into the work folder and return its path."""
    workdir.check(experiment)
    sections = [
        _head(experiment, workdir),
        _likelihood(experiment, workdir),
        _samples(experiment, workdir),
        _curve(workdir),
        _timings(workdir),
        _settings(workdir),
        _environment(workdir),
    ]
    title = html.escape(f"scoresde: {workdir.path.name}")
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<link rel='icon' href='data:,'><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    write_atomic(workdir.report_file, page.encode())
    return workdir.report_file


def baselines(experiment: Experiment) -> list[Baseline]:
    """Other density models on the same split; none for data that is not discrete, or large."""
    data, transform = experiment.data, experiment.data.transform
    if not isinstance(transform, Quantized) or math.prod(data.train.raw.shape) > BASELINES_UP_TO:
        return []
    train, test = (d.encode(torch.arange(len(d)), seed=experiment.likelihood.seed) for d in (data.train, data.test))
    return [
        gaussian_mixtures(train, test, transform.width),
        pixel_histogram(data.train.raw[:], data.test.raw[:], transform.levels),
    ]


def _head(experiment: Experiment, workdir: Workdir) -> str:
    done = list_checkpoints(workdir.checkpoints)
    state = f"last checkpoint {done[-1].name}" if done else "no checkpoint yet"
    return (
        f"<h1>{html.escape(workdir.path.name)}</h1><p class='note'>{html.escape(repr(experiment.sde))} &middot; "
        f"{html.escape(type(experiment.model.network).__name__)} &middot; {html.escape(repr(experiment.data.train))} "
        f"&middot; {state}</p>"
    )


def _likelihood(experiment: Experiment, workdir: Workdir) -> str:
    parts = ["<h2>Likelihood</h2>"]
    for file in sorted(workdir.likelihood.glob("*.json")):
        summary = json.loads(file.read_text())
        unit = "bits/dim" if "bits_per_dim" in summary else "nats"
        rows = []
        if unit == "bits/dim":
            rows.append(
                (
                    "this run, likelihood of its probability flow",
                    summary["bits_per_dim"],
                    summary["standard_error"] or math.nan,
                    True,
                )
            )
            if summary["split"] == "test":
                rows += [(b.name, b.bits_per_dim, b.standard_error, False) for b in baselines(experiment)]
        else:
            rows.append(("this run", summary["nats"], summary["nats_error"] or math.nan, True))
        cells = "".join(
            f"<tr{' class=ours' if ours else ''}><td>{html.escape(name)}</td><td class=n>{value:.3f}</td>"
            f"<td class=n>{error:.3f}</td></tr>"
            for name, value, error, ours in rows
        )
        parts.append(
            f"<table id='likelihood-{summary['split']}'><tr><th>model, {summary['events']} {summary['split']} events</th>"
            f"<th class=n>{unit}</th><th class=n>standard error</th></tr>{cells}</table>"
        )
        with open(file.with_suffix(".csv"), newline="") as table:
            key = "bits_per_dim" if unit == "bits/dim" else "nats"
            values = np.array([float(row[key]) for row in csv.DictReader(table) if row["failed"] == "0"])
        parts.append(_figure(histogram_picture(values, f"{unit} of an event"), "", wide=True))
        parts.append(
            f"{_failures(summary)}<p class='note'>The standard error is over events; it holds their differences, the "
            "dequantisation and the trace noise. Its parts, and the solver's own estimate: "
            f"{_listed(summary['parts of the error'])}. The density is that of the flow at t_min, with the prior at T, and is "
            f"not corrected for either; to first order the figure is too pessimistic by: {_listed(summary['known biases'])}. "
            f"{_sentence(summary)}</p>"
        )
    return "".join(parts) if len(parts) > 1 else parts[0] + _missing("not computed yet: scoresde likelihood")


def _failures(summary: dict[str, Any]) -> str:
    failed, rows = summary["failed"], summary["rows"]
    return _missing(f"{failed} of {rows} rows failed and are not in the mean") if failed else ""


def _listed(figures: dict[str, Any]) -> str:
    shown = (f"{name} {'unknown' if value is None else f'{value:.3g}'}" for name, value in figures.items())
    return html.escape(", ".join(shown))


def _sentence(summary: dict[str, Any]) -> str:
    keys = ("draws", "solver", "divergence", "t_min", "transform", "data digest", "checkpoint", "weights", "seed")
    return html.escape(", ".join(f"{k} {summary[k]}" for k in keys)) + "."


def _samples(experiment: Experiment, workdir: Workdir) -> str:
    data = experiment.data.test
    parts = ["<h2>Samples</h2>"]
    raw = data.raw[: min(64, len(data))]
    parts.append(_figure(event_picture(raw, data.transform), "held-out data, not samples"))
    files = sorted(workdir.samples.glob("*.json"))
    for file in files:
        facts = json.loads(file.read_text())
        caption = (
            f"{file.stem}: {facts['nfe']} evaluations, {facts['seconds']} s for {facts['count']}. {facts['sampler']}"
        )
        parts.append(_figure(file.with_suffix(".png").read_bytes(), caption))
    return "".join(parts) + ("" if files else _missing("not drawn yet: scoresde sample"))


def _curve(workdir: Workdir) -> str:
    rows = _metrics(workdir)
    if not rows:
        return "<h2>Training</h2>" + _missing("no step logged yet: scoresde train")
    steps, losses = [int(r["step"]) for r in rows], [float(r["loss"]) for r in rows]
    return "<h2>Training</h2>" + _figure(curve_picture(steps, losses), "loss, mean since the last point", wide=True)


def _timings(workdir: Workdir) -> str:
    rows = [("training", float(r[-1]["seconds"]), f"{r[-1]['step']} steps") for r in [_metrics(workdir)] if r]
    for file in sorted(workdir.samples.glob("*.json")):
        facts = json.loads(file.read_text())
        rows.append(
            (f"samples, {file.stem}", facts["seconds"], f"{facts['count']} samples, {facts['nfe']} evaluations")
        )
    for file in sorted(workdir.likelihood.glob("*.json")):
        facts = json.loads(file.read_text())
        rows.append(
            (
                f"likelihood, {file.stem}",
                facts["seconds"],
                f"{facts['events']} events, {facts['mean nfe']:.0f} evaluations",
            )
        )
    cells = "".join(
        f"<tr><td>{html.escape(n)}</td><td class=n>{s:.1f}</td><td>{html.escape(w)}</td></tr>" for n, s, w in rows
    )
    return (
        f"<h2>Timings</h2><table id='timings'><tr><th>part</th><th class=n>seconds</th><th>for</th></tr>{cells}</table>"
    )


def _settings(workdir: Workdir) -> str:
    return f"<h2>Settings</h2><pre id='settings'>{html.escape(workdir.config_file.read_text())}</pre>"


def _environment(workdir: Workdir) -> str:
    file = workdir.path / "environment.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in content.items())
    return f"<h2>Environment</h2><table id='environment'>{cells}</table>"


def _metrics(workdir: Workdir) -> list[dict[str, str]]:
    if not workdir.metrics_file.exists():
        return []
    with open(workdir.metrics_file, newline="") as file:
        return list(csv.DictReader(file))


def _figure(picture: bytes, caption: str, wide: bool = False) -> str:
    data = base64.b64encode(picture).decode()
    alt = html.escape(caption or "figure")
    return (
        f"<figure{' class=wide' if wide else ''}><img alt='{alt}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _missing(text: str) -> str:
    return f"<p class='missing'>{html.escape(text)}</p>"
