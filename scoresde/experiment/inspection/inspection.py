"""From someone's data to a config that trains: look at all of it, say what is there, write down what follows and why."""

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
from scoresde.data.inspect_sources import Source, find
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.inspection.advice import Measured, Section, advise, data_section

SHOWN = 8
"""Events that are named where more have the same fault."""
_WIDTH = 116


def inspect(data: str, output: str | Path | None = None, *, side: int = 0, force: bool = False) -> tuple[str, bool]:
    """Look at data; write a config for it where ``output`` names a file.

    data: a folder, a file, or module:class, as `scoresde.data.inspect_sources` says. side: of the images of a folder; 0
    chooses it. force: replace a file that is there.

    Returns what there is to say, and whether the data can be trained on as it is: where not, nothing is written. Raises
    ValueError, FileNotFoundError or FileExistsError with what is allowed.
    """
    if output is not None:
        _check_output(Path(output), force)
    source = find(data, side)
    facts = survey(source)
    section, problems = data_section(source, facts), faults(source, facts)
    splits = _splits(section, problems)
    lines = describe(source, facts, splits.transform if splits else None)
    if problems or splits is None:
        said = [*lines, *(f"PROBLEM  {problem}" for problem in problems), "no config: mend this first"]
        return "\n".join(said), False
    measured = Measured(splits.transform, len(splits.train), *farthest(source, splits.transform))
    sections = advise(section, facts, measured)
    for section in sections:
        lines += [f"{section.key:12s} {json.dumps(section.value)}", *(f"{'':12s} - {why}" for why in section.reasons)]
    made = Experiment.from_config(ConfigDict({section.key: section.value for section in _whole(sections)}))
    count = sum(p.numel() for p in made.model.parameters())
    lines.append(f"parameters   {count:,}")
    if output is None:
        lines.append("nothing was written: --output FILE writes the config")
    else:
        write_atomic(Path(output), source_of(data, facts, splits.transform, sections).encode())
        lines.append(f"written to {output}: scoresde train --config {output} --workdir DIR")
    return "\n".join(lines), True


def _splits(section: Section, problems: list[str]) -> Splits | None:
    """The data set that the config builds, on which all else is measured; None where there are ``problems``, or one is added."""
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
        raise ValueError(f"--output {str(path)!r}: give a name that ends in .py, configs are Python files")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {str(path)!r}: give a file in a folder that is there")
    if path.exists() and not force:
        raise FileExistsError(f"--output {str(path)!r} is there already: give another name, or --force")


def describe(source: Source, facts: Facts, transform: Transform | None = None) -> list[str]:
    """What is there, a line for each fact. transform: of the data set that the config builds, where there is one."""
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
    notes = [f"{'note':12s} {note}" for note in (*source.notes, *_notes(facts, count))]
    return [f"{name:12s} {text}" for name, text in lines.items()] + notes


def _notes(facts: Facts, levels: int) -> list[str]:
    """What is no fault, and yet should be known."""
    shape, notes = facts.shape, []
    if facts.twins:
        notes.append("an event and its duplicate may fall on both sides of the split: test figures are then too good")
    if 0 < facts.levels < levels:
        notes.append(
            f"the largest value is {facts.high:g} of {levels - 1}: if these are labels or masks, save them as an array, which "
            f"has {facts.levels} levels"
        )
    if facts.constant:
        notes.append(f"{facts.constant} coordinates never vary: a density of them means little")
    if not levels and facts.spread > 10:
        notes.append(f"standard deviations of coordinates differ by {facts.spread:.3g} times: bring them to one first")
    if not levels and 0 < facts.distinct <= 256:
        notes.append("so few values: if these are bytes divided by 255, save the bytes; then bits/dim mean something")
    if len(shape) == 1 and shape[0] >= 16 and facts.smooth > 0.5:
        notes.append(
            f"neighbours correlate by {facts.smooth:.2f}: if it is a series, save a[:, None], of shape (n, 1, {shape[0]}), for a "
            "network that knows what is next to what"
        )
    if len(shape) == 2 and shape[0] > 4:
        notes.append(
            f"{shape} is taken for a series of {shape[0]} channels; of grey images save a[:, None], (n, 1, height, width)"
        )
    return notes


def faults(source: Source, facts: Facts) -> list[str]:
    """What must be mended before training, a line for each."""
    found = [*source.problems, *facts.broken]
    found = found[:SHOWN] + ([f"and {len(found) - SHOWN} more of this kind"] if len(found) > SHOWN else [])
    shape = facts.shape
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] > 4:
        found.append(f"channels come last in {shape}: save a.transpose(0, 3, 1, 2) in place of a")
    if facts.unfinite:
        found.append(f"{len(facts.unfinite)} events hold NaN or infinities: {_named(facts.unfinite)}")
    if facts.std == 0.0 or facts.count < 2:
        found.append(f"{facts.count} events, standard deviation {facts.std:g}: there is nothing to learn")
    elif facts.count < 5:
        found.append(f"{facts.count} events: too few to hold one in ten out for test")
    return found


def _named(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _whole(sections: list[Section]) -> list[Section]:
    head = [
        Section("seed", 0, ()),
        Section("device", "auto", ()),
        Section("threads", 0, ("CPU threads; 0 leaves torch's choice",)),
    ]
    return head + sections


def source_of(data: str, facts: Facts, transform: Transform, sections: list[Section]) -> str:
    """The config as Python source, its reasons as comments."""
    kind = "discrete" if isinstance(transform, Quantized) else "real"
    lines = [
        f'"""{facts.count} events of shape {facts.shape}, {kind} data, written by scoresde inspect.',
        "",
        'Every number is a first guess: change what you know better."""',
        "",
        f"# {_comment(data)}",
        "import ml_collections",
        "",
        "",
        "def get_config() -> ml_collections.ConfigDict:",
        "    return ml_collections.ConfigDict(",
        "        {",
    ]
    for section in _whole(sections):
        for why in section.reasons:
            lines += textwrap.wrap(
                _comment(why), _WIDTH, initial_indent=f"{'':12s}# ", subsequent_indent=f"{'':12s}#   "
            )
        lines += _literal(section.key, section.value, 12)
    return "\n".join([*lines, "        }", "    )", ""])


def _comment(text: str) -> str:
    """Text in one line: a file's name may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _literal(key: str, value: Any, indent: int) -> list[str]:
    """Lines of ``"key": value,``; a mapping over several where it is long."""
    if isinstance(value, str):
        text = (
            json.dumps(value) if value.isascii() else ascii(value)
        )  # JSON writes letters above U+FFFF as no Python string
        return [f"{' ' * indent}{json.dumps(key)}: {text},"]
    if not isinstance(value, dict):
        return [f"{' ' * indent}{json.dumps(key)}: {value!r},"]
    inner = [text for name, part in value.items() for text in _literal(name, part, indent + 4)]
    flat = " ".join(text.strip() for text in inner).rstrip(",")
    if len(flat) + indent + len(key) + 8 <= _WIDTH:
        return [f"{' ' * indent}{json.dumps(key)}: {{{flat}}},"]
    return [f"{' ' * indent}{json.dumps(key)}: {{", *inner, f"{' ' * indent}}},"]
