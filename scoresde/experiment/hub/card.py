"""The model card of a published model: README.md with the figures of the work folder and their provenance.

A figure is shown only if its file lies in the work folder, has not been changed since it was written, and belongs to the
published checkpoint and weights. Each has its error where the file has one, the number of events, the command, the date and the
version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde._files import bytes_digest, read_plain, read_sealed
from scoresde.experiment.config.condition_values import short
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import process_of
from scoresde.experiment.config.summary import network_text, objective_rows, process_text
from scoresde.experiment.config.trust import untrusted
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.shown_events import TEXT, shown_file
from scoresde.experiment.folder.workdir import Workdir, config_digest
from scoresde.experiment.jobs.likelihood import describe
from scoresde.experiment.reports.html import UNREADABLE, visible
from scoresde.experiment.reports.predictions import figure_head, figure_rows
from scoresde.experiment.results.sample_index import CONDITIONS_OF_SAMPLES, describe_acceptance, describe_evidence
from scoresde.jump import JumpModel
from scoresde.product import ProductModel
from scoresde.score import TargetModel

TAGS = ("scoresde", "score-based-model", "diffusion", "density-estimation")
TARGET_TAGS = ("scoresde", "diffusion", "guidance")
"""The tags of a classifier or regressor."""
LONGEST_TEXT = 2000
"""Largest number of characters of a text in the card. The file has all of it."""
_SPECIAL = re.compile(r"([\\`*_\[\]<>|!~#])")


@dataclass(frozen=True)
class Published:
    """What is published.

    Args:
        place: The place, as text.
        digests: The digest of the published weights, by name.
        state: Whether the training state is published too.
        license: Identifier of the license.
        tags: Further tags.
        checkpoint: The checkpoint.
    """

    place: str
    digests: Mapping[str, str]
    state: bool
    license: str | None
    tags: tuple[str, ...]
    checkpoint: Checkpoint


def model_card(experiment: Experiment, workdir: Workdir, published: Published) -> tuple[dict[str, Path], str]:
    """The files of the results that the card shows, by their names in the published folder, and the text of the card."""
    files: dict[str, Path] = {}
    parts = [
        _head(experiment, published), _title(experiment, workdir, published), _use(experiment, published),
        _model(experiment, published),
        _likelihood(experiment, workdir, published, files), _samples(experiment, workdir, published, files),
        _evaluation(workdir, published, files), _predictions(workdir, published, files), _provenance(workdir),
        _contents(published),
    ]  # fmt: skip
    return files, "\n".join(part for part in parts if part)


def _head(experiment: Experiment, published: Published) -> str:
    ours = TARGET_TAGS if isinstance(experiment.model, TargetModel) else TAGS
    lines = [
        "library_name: scoresde",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in dict.fromkeys((*ours, *published.tags))),
    ]
    if published.license:
        lines.insert(0, f"license: {published.license}")
    return "\n".join(["---", *lines, "---", ""])


def _title(experiment: Experiment, workdir: Workdir, published: Published) -> str:
    version = _environment(workdir).get("scoresde", "of an unknown version")
    return (
        f"# {plain(workdir.path.resolve().name)}\n\nA {_kind(experiment)} {plain(experiment.data.train.name)} under "
        f"{plain(repr(process_of(experiment.model)))}, at training step {published.checkpoint.step:,}, trained with "
        f"scoresde {plain(str(version))}.\n"
    )


def _kind(experiment: Experiment) -> str:
    """What is published, in words."""
    if isinstance(experiment.model, TargetModel):
        return f"{type(experiment.model).__name__} of {plain(experiment.objective.targets[0])} for noisy data of"
    if isinstance(experiment.model, JumpModel | ProductModel):
        return "generative model of"
    return "score-based generative model of"


def _use(experiment: Experiment, published: Published) -> str:
    modules = sorted({module for *_, module in untrusted(experiment.config.to_dict())})
    flags, given = "".join(f" --trust {module}" for module in modules), f", trust={modules!r}" if modules else ""
    verbs: tuple[str, ...] = ("sample", "likelihood")
    name = "score"
    meaning = "`score(x, t)` is the gradient of the log-density at time t"
    if isinstance(experiment.model, TargetModel):
        name, verbs = "model", ("evaluate",)
        meaning = "`model.log_prob(x, t, target)` is log p(target given x_t) in nats"
    if isinstance(experiment.model, JumpModel):
        name, meaning = "model", "`model(x, t)` is the logits of p(x_0 | x_t) for each coordinate"
    if isinstance(experiment.model, ProductModel):
        name, meaning = (
            "model",
            "`model(x, t)` is the score of real coordinates, and the logits of p(x_0 | x_t) of the others",
        )
    commands = "\n    ".join(f"scoresde {verb} --workdir model{flags}" for verb in verbs)
    needs = (
        f" The config names classes or functions of {', '.join(modules)}, which is not part of it." if modules else ""
    )
    return f"""## Use

With scoresde installed:

    scoresde pull {published.place} --workdir model
    {commands}

In Python:

    from scoresde.experiment import Experiment, Workdir, load_config
    experiment = Experiment.from_config(load_config("model/config.json"{given}))
    {name}, checkpoint = Workdir("model").model(experiment, {next(iter(published.digests))!r})

{meaning}. `pull` compares every file with its checksum. It executes nothing.{needs}
"""


def _model(experiment: Experiment, published: Published) -> str:
    config = experiment.training
    rows = [
        ("data", f"{experiment.data.train.name}, {len(experiment.data.train)} training events of shape "
                 f"{tuple(experiment.data.event_shape)}, {len(experiment.data.test)} test events"),
        ("process", process_text(experiment)),
        ("network", network_text(experiment)),
        *objective_rows(experiment),
        ("training", f"{published.checkpoint.step:,} steps of batch size {config.batch_size}, learning rate "
                     f"{config.learning_rate:g}, {config.schedule}"),
        ("weights in this model", ", ".join(published.digests) + (" and the training state" if published.state else "")),
    ]  # fmt: skip
    return "## Model\n\n" + table(("", ""), rows)


def _likelihood(experiment: Experiment, workdir: Workdir, published: Published, files: dict[str, Path]) -> str:
    rows, notes = [], []
    for file, facts in _results(workdir.likelihood):
        try:
            ours = facts["config digest"] == config_digest(experiment)
            ours = ours and facts["checkpoint digest"] == published.digests.get(facts["weights"])
            lines = read_plain(file.with_suffix(".csv"))
            if not ours or facts["table digest"] != bytes_digest(lines):
                continue
            rows.append((describe(facts), facts["weights"], f"{facts['draws']}", *_origin(facts)))
            parts = _listed(facts["parts of the error"])
            notes.append(
                f"{plain(file.stem)}: {plain(facts['solver'])}, {plain(facts['divergence'])}, t_min {facts['t_min']}, "
                f"{facts['failed']} of {facts['rows']} rows failed. Parts of the error: {parts}. "
                + (
                    f"A bound by {plain(facts['bound by'][-1])}."
                    if "method" in facts
                    else f"Known biases: {_listed(facts['known biases']) or 'not known for this process'}."
                )
            )
        except UNREADABLE:
            continue
        files |= {f"likelihood/{file.name}": file, f"likelihood/{file.stem}.csv": file.with_suffix(".csv")}
    if not rows:
        return ""
    head = ("mean +- standard error", "weights", "draws per event", "date", "version", "command")
    about = "Likelihoods of the probability flow, or bounds where steps of a chain are named. "
    about += "The standard error includes the differences between events.\n"
    return "\n".join(["## Likelihood", "", about, table(head, rows), *(f"- {note}" for note in notes), ""])


def _samples(experiment: Experiment, workdir: Workdir, published: Published, files: dict[str, Path]) -> str:
    parts: list[str] = []
    for file, facts in _results(workdir.samples):
        picture = shown_file(file, facts)
        try:
            if not _belongs(facts, published) or facts["config digest"] != config_digest(experiment):
                continue
            content = read_plain(picture)
            if facts["picture digest"] != bytes_digest(content):
                continue
            number, drawn = (
                f"{len(parts)}{picture.suffix}",
                f"{facts['count']} samples, {facts['nfe']} evaluations, weights {facts['weights']}"
                + "".join(f", {key} {plain(short(facts[key]))}" for key in CONDITIONS_OF_SAMPLES if key in facts)
                + "".join(f", {found}" for found in (describe_acceptance(facts), describe_evidence(facts)) if found),
            )
            parts.append(
                f"{_shown(number, content)}\n\n{plain(file.stem)}: {plain(facts['sampler'])}, {drawn}, seed "
                f"{facts['seed']}; {plain('; '.join(_origin(facts)))}\n"
            )
        except UNREADABLE:
            continue
        files[f"pictures/samples-{number}"] = picture
    return "\n".join(["## Samples", "", *parts]) if parts else ""


def _shown(number: str, content: bytes) -> str:
    """A picture of samples, or the beginning of their text as a block of code."""
    if not number.endswith(TEXT):
        return f"![Samples](pictures/samples-{number})"
    text = visible(content.decode("utf-8", "replace"))
    block = "\n".join(f"    {line}" for line in text[:LONGEST_TEXT].splitlines())
    return f"[Samples](pictures/samples-{number}), the beginning:\n\n{block}"


def _evaluation(workdir: Workdir, published: Published, files: dict[str, Path]) -> str:
    rows, notes = [], []
    for file, facts in _results(workdir.evaluation):
        try:
            if not _belongs(facts["set"], published):
                continue
            rows += [
                _comparison(file.stem, facts, _origin(facts)),
                _comparison("baseline: new data", facts["baseline"]),
            ]
            notes += [f"{plain(file.stem)}: {plain(warning)}" for warning in facts["warnings"]]
            notes.append(
                f"{plain(file.stem)}: reference {plain(facts['reference']['description'])}, extractor {plain(facts['extractor'])}"
            )
        except UNREADABLE:
            continue
        files[f"evaluation/{file.name}"] = file
    if not rows:
        return ""
    head = (
        "samples", "number", "of data", "Frechet distance", "times the yardstick", "kernel distance", "precision", "recall",
        "date", "version", "command",
    )  # fmt: skip
    return "\n".join(["## Samples compared with data", "", table(head, rows), *(f"- {note}" for note in notes), ""])


def _predictions(workdir: Workdir, published: Published, files: dict[str, Path]) -> str:
    """The figures of a classifier or regressor by noise level."""
    parts: list[str] = []
    for file, facts in _results(workdir.evaluation / "predictions"):
        try:
            lines = read_plain(file.with_suffix(".csv"))
            ours = facts["checkpoint digest"] == published.digests.get(facts["weights"])
            if not ours or facts["table digest"] != bytes_digest(lines):
                continue
            about = (
                f"{facts['events']} {facts['split']} events, weights {facts['weights']}; {'; '.join(_origin(facts))}"
            )
            parts += [table(figure_head(facts), figure_rows(facts)), f"- {plain(file.stem)}: {plain(about)}", ""]
        except UNREADABLE:
            continue
        files |= {f"evaluation/predictions/{one.name}": one for one in (file, file.with_suffix(".csv"))}
    return "\n".join(["## Predictions by noise level", "", *parts]) if parts else ""


def _comparison(name: str, facts: Mapping[str, Any], origin: Sequence[str] = ("", "", "")) -> tuple[str, ...]:
    kernel, error = facts["kernel distance"], facts["kernel distance error"]
    return (
        name, str(facts["count"]), str(facts["reference count"]), _figure(facts["frechet distance"]),
        _figure(facts.get("ratio", {}).get("frechet distance")),
        _figure(kernel) + ("" if error is None else f" +- {error:.2g}"), _figure(facts["precision"]), _figure(facts["recall"]),
        *origin,
    )  # fmt: skip


def _provenance(workdir: Workdir) -> str:
    content = _environment(workdir)
    rows = [(key, str(value)) for key, value in content.items()]
    return "## Training environment\n\n" + table(("", ""), rows) if rows else ""


def _environment(workdir: Workdir) -> dict[str, Any]:
    """The content of environment.json. Empty if it is missing or has changed."""
    try:
        return read_sealed(workdir.path / "environment.json")
    except (OSError, ValueError):
        return {}


def _contents(published: Published) -> str:
    license = f"License: {published.license}." if published.license else "No license is stated."
    state = "is" if published.state else "is not"
    return (
        "## Files\n\n`manifest.json` lists every file with its SHA-256. The weights are safetensors, and the config is JSON: "
        f"neither contains code. The training state {state} included. {license}\n"
    )


def _results(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The result files of a folder that have not been changed."""
    for file in sorted(folder.glob("*.json")):
        try:
            yield file, read_sealed(file)
        except (OSError, ValueError):
            continue


def _belongs(facts: Mapping[str, Any], published: Published) -> bool:
    """Whether samples were drawn with the published weights of the published step."""
    settings = facts.get("settings")
    digest = settings.get("checkpoint digest") if isinstance(settings, dict) else None
    expected = published.digests.get(str(facts.get("weights")))
    return (
        expected is not None
        and digest in (None, expected)
        and facts.get("checkpoint") == published.checkpoint.path.name
    )


def _origin(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    """Date, version and command of a result."""
    return (
        str(facts.get("date", "date not recorded")), f"scoresde {facts.get('scoresde', '(version not recorded)')}",
        str(facts.get("command", "command not recorded")),
    )  # fmt: skip


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _listed(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'unknown' if value is None else f'{value:.3g}'}" for name, value in figures.items())


def plain(text: str) -> str:
    """A text in one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join(
            "| " + " | ".join(cell if k == 1 else plain(cell) for cell in line) + " |" for k, line in enumerate(lines)
        )
        + "\n"
    )
