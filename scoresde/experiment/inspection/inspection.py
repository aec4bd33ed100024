"""`scoresde inspect`: reads data, describes it, and writes a config that trains on it, with reasons."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict

from scoresde._files import write_atomic
from scoresde.data import Quantized, Splits, Transform
from scoresde.data.inspect_facts import MOST_LEVELS, Facts, farthest, survey
from scoresde.data.inspect_source import Source
from scoresde.data.inspect_sources import find
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.inspection.advice import Measured, Section, advise, data_section

SHOWN = 8
"""Number of events that are named if more have the same problem."""
_WIDTH = 116


def inspect(data: str, output: str | Path | None = None, *, side: int = 0, force: bool = False) -> tuple[str, bool]:
    """Inspect data, and write a config for it if ``output`` is given.

    Args:
        data: A folder, a file, or ``module:class``, see ``scoresde.data.inspect_sources``.
        output: File for the config.
        side: Side of the images of a folder in pixels; 0 chooses it.
        force: Whether an existing file is replaced.

    Returns:
        The description, and whether the data can be used for training as it is. If not, nothing is written.

    Raises:
        ValueError: If the data or the name of the output is not valid.
        FileNotFoundError: If the data does not exist.
        FileExistsError: If the output exists, unless ``force``.
    """
    if output is not None:
        _check_output(Path(output), force)
    source = find(data, side)
    facts = survey(source)
    section, problems = data_section(source, facts), find_problems(source, facts)
    splits = _splits(section, problems)
    lines = describe(source, facts, splits.transform if splits else None)
    if problems or splits is None:
        report = [
            *lines,
            *(f"PROBLEM  {problem}" for problem in problems),
            "no config is written: fix the problems first",
        ]
        return "\n".join(report), False
    measured = Measured(splits.transform, len(splits.train), *farthest(source, splits.transform))
    sections = advise(section, facts, measured)
    for section in sections:
        lines += [f"{section.key:12s} {json.dumps(section.value)}", *(f"{'':12s} - {why}" for why in section.reasons)]
    made = Experiment.from_config(ConfigDict({section.key: section.value for section in _all_sections(sections)}))
    count = sum(p.numel() for p in made.model.parameters())
    lines.append(f"parameters   {count:,}")
    if output is None:
        lines.append("nothing was written; --output FILE writes the config")
    else:
        write_atomic(Path(output), config_source(data, facts, splits.transform, sections).encode())
        lines.append(f"written to {output}; to train: scoresde train --config {output} --workdir DIR")
    return "\n".join(lines), True


def _splits(section: Section, problems: list[str]) -> Splits | None:
    """The data set that the config builds, for the measurements. None if there are ``problems``, or if one is added."""
    if problems:
        return None
    try:
        splits = build(section.value, "data", Splits)
        splits.train.check_dtype(torch.float32)
    except (ConfigError, ValueError, OSError) as problem:
        problems.append(str(problem))
        return None
    return splits


def _check_output(path: Path, force: bool) -> None:
    if path.suffix != ".py":
        raise ValueError(f"--output {str(path)!r}: give a name that ends in .py, because configs are Python files")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {str(path)!r}: give a file in an existing folder")
    if path.exists() and not force:
        raise FileExistsError(f"--output {str(path)!r} exists already: give another name, or --force")


def describe(source: Source, facts: Facts, transform: Transform | None = None) -> list[str]:
    """One line for each property of the data.

    ``transform`` is that of the data set that the config builds, if there is one.
    """
    distinct = f"{facts.distinct} different values" if facts.distinct else f"over {MOST_LEVELS} different values"
    count = transform.levels if isinstance(transform, Quantized) else facts.levels if transform is None else 0
    levels = f"{count} levels" if count else "no levels: real numbers"
    twins = _named(f"{b} = {a}" for a, b in facts.duplicates)
    lines = {
        "found": source.what,
        "events": f"{facts.count} of shape {facts.shape}, {facts.dtype}",
        "range": f"{facts.low:g} to {facts.high:g}, mean {facts.mean:.4g}, standard deviation {facts.std:.4g}",
        "values": f"{distinct}, {levels}",
        "duplicates": f"{facts.twins} exact" + (f": {twins}" if twins else ""),
        "not finite": str(len(facts.unfinite)),
        "broken": str(len(facts.broken) + len(source.problems)),
    }
    notes = [f"{'warning':12s} {warning}" for warning in source.warnings]
    notes += [f"{'note':12s} {note}" for note in (*source.notes, *_notes(facts, count))]
    return [f"{name:12s} {text}" for name, text in lines.items()] + notes


def _notes(facts: Facts, levels: int) -> list[str]:
    """Properties that are not problems but should be known."""
    shape, notes = facts.shape, []
    if facts.twins:
        notes.append("an event and its duplicate may be in different splits: test results are then too good")
    if 0 < facts.levels < levels:
        notes.append(
            f"the largest value is {facts.high:g} of {levels - 1}: if these are labels or masks, save them as an array, which "
            f"has {facts.levels} levels"
        )
    if facts.constant:
        notes.append(f"{facts.constant} coordinates are constant: their density means little")
    if not levels and facts.spread > 10:
        notes.append(
            f"the standard deviations of the coordinates differ by a factor of {facts.spread:.3g}: standardize them first"
        )
    if not levels and 0 < facts.distinct <= 256:
        notes.append(
            "there are few different values: if they are bytes divided by 255, save the bytes, so that bits/dim are meaningful"
        )
    if len(shape) == 1 and shape[0] >= 16 and facts.smooth > 0.5:
        notes.append(
            f"neighboring coordinates have a correlation of {facts.smooth:.2f}: for a series, save a[:, None], of "
            f"shape (n, 1, {shape[0]}), "
            "so that the network is a convolutional one"
        )
    if len(shape) == 2 and shape[0] > 4:
        notes.append(
            f"{shape} is read as a series of {shape[0]} channels; for gray images save a[:, None], (n, 1, height, width)"
        )
    return notes


def find_problems(source: Source, facts: Facts) -> list[str]:
    """Problems that must be fixed before training, one line for each."""
    found = [*source.problems, *facts.broken]
    found = found[:SHOWN] + ([f"and {len(found) - SHOWN} more of this kind"] if len(found) > SHOWN else [])
    shape = facts.shape
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] > 4:
        found.append(f"the channels are last in {shape}: save a.transpose(0, 3, 1, 2) instead of a")
    if facts.unfinite:
        found.append(f"{len(facts.unfinite)} events have NaN or infinities: {_named(facts.unfinite)}")
    if facts.std == 0.0 or facts.count < 2:
        found.append(f"{facts.count} events, standard deviation {facts.std:g}: there is nothing to learn")
    elif facts.count < 5:
        found.append(f"{facts.count} events: too few to hold out one in ten for testing")
    return found


def _named(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _all_sections(sections: list[Section]) -> list[Section]:
    head = [
        Section("seed", 0, ()),
        Section("device", "auto", ()),
        Section("threads", 0, ("CPU threads; 0 is PyTorch's choice",)),
    ]
    return head + sections


def config_source(data: str, facts: Facts, transform: Transform, sections: list[Section]) -> str:
    """The config as Python source, with the reasons as comments."""
    kind = "discrete" if isinstance(transform, Quantized) else "real"
    lines = [
        f'"""{facts.count} events of shape {facts.shape}, {kind} data, written by scoresde inspect.',
        "",
        'Every number is a first guess. Change it if you have better information."""',
        "",
        f"# {_comment(data)}",
        "import ml_collections",
        "",
        "",
        "def get_config() -> ml_collections.ConfigDict:",
        "    return ml_collections.ConfigDict(",
        "        {",
    ]
    for section in _all_sections(sections):
        for why in section.reasons:
            lines += textwrap.wrap(
                _comment(why), _WIDTH, initial_indent=f"{'':12s}# ", subsequent_indent=f"{'':12s}#   "
            )
        lines += _literal(section.key, section.value, 12)
    return "\n".join([*lines, "        }", "    )", ""])


def _comment(text: str) -> str:
    """Text in one line of printable characters, since a file name may contain any character."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _literal(key: str, value: Any, indent: int) -> list[str]:
    """Lines of ``"key": value,``. A long mapping takes several lines."""
    if isinstance(value, str):
        # JSON writes letters above U+FFFF in a form that is not Python
        text = json.dumps(value) if value.isascii() else ascii(value)
        return [f"{' ' * indent}{json.dumps(key)}: {text},"]
    if not isinstance(value, dict):
        return [f"{' ' * indent}{json.dumps(key)}: {value!r},"]
    inner = [text for name, part in value.items() for text in _literal(name, part, indent + 4)]
    flat = " ".join(text.strip() for text in inner).rstrip(",")
    if len(flat) + indent + len(key) + 8 <= _WIDTH:
        return [f"{' ' * indent}{json.dumps(key)}: {{{flat}}},"]
    return [f"{' ' * indent}{json.dumps(key)}: {{", *inner, f"{' ' * indent}}},"]
