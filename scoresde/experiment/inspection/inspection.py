"""`scoresde inspect`: reads data, describes it, and writes a config that trains on it, with reasons."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict

from scoresde._files import write_atomic
from scoresde._validation import check_number
from scoresde.data import Splits, Transform
from scoresde.data.inspect_facts import Facts, farthest, survey
from scoresde.data.inspect_source import Source
from scoresde.data.inspect_sources import find
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.experiment.config.experiment import Experiment, build_model
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.experiment.inspection.advice import Measured, advise, data_section
from scoresde.experiment.inspection.cost import Cost, as_bytes, as_time, weight_cost
from scoresde.experiment.inspection.description import describe, find_problems
from scoresde.experiment.inspection.plan import Plan, first_plan, fitting_plan, measured_plan
from scoresde.experiment.inspection.section import Section
from scoresde.experiment.training.fit_time import SHARE
from scoresde.experiment.training.prior_fit import check_prior

_WIDTH = 116
_NOTHING = "no config is written: fix the problems first"


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
        text: The description of the data, and of the config if there is one.
        usable: Whether the data can be used for training as it is.
        config: The suggested config; None if the data is not usable.
        source: The config as the Python source of a file, with the reasons as comments; empty if there is none.
    """

    text: str
    usable: bool
    config: ConfigDict | None = None
    source: str = ""

    def __str__(self) -> str:
        return self.text


def inspect(
    data: str,
    output: str | Path | None = None,
    *,
    side: int | Sequence[int] = 0,
    channels: str = "auto",
    fit_time: float | None = None,
    measure: bool = True,
    force: bool = False,
) -> Inspection:
    """Inspect data, suggest a config for it, and write the config if ``output`` is given.

    A few training steps of the suggested config are run on this machine, and the result states the time of a step and of
    the whole training.

    Args:
        data: A folder, a file, or ``module:class``, see ``scoresde.data.inspect_sources``.
        output: File for the config.
        side: Side of the images of a folder in pixels, or (height, width); 0 chooses it.
        channels: The axis of the channels in an array: "first", "last" or "none", as for `Arrays`. "auto" chooses it.
        fit_time: Time for training in seconds. Network, batch and number of steps are chosen so that training on this machine
            takes at most this time. None sets no limit.
        measure: Whether training steps are run.
        force: Whether an existing file is replaced.

    Returns:
        The description and the config. If the data is not usable, there is no config and nothing is written.

    Raises:
        ValueError: If the data, an argument or the name of the output is not valid.
        FileNotFoundError: If the data does not exist.
        FileExistsError: If the output exists, unless ``force``.
    """
    if output is not None:
        _check_output(Path(output), force)
    if fit_time is not None:
        check_number("fit_time", fit_time, above=0.0)
        if not measure:
            raise ValueError(
                f"fit_time={fit_time!r} with measure=False is not allowed: the time of a step must be measured"
            )
    source = find(data, side, channels)
    facts = survey(source)
    section, problems = data_section(source, facts), find_problems(source, facts)
    splits = _splits(section, problems)
    lines = describe(source, facts, splits.transform if splits else None)
    if splits is None:
        return _unusable(lines, problems)
    measured = _measured(source, facts, splits)
    try:
        suggested = _Suggestion(section, facts, measured)
        plan = suggested.plan(fit_time, measure)
    except (ConfigError, FloatingPointError) as problem:  # whatever `train` would refuse
        return _unusable(lines, [str(problem)])
    sections = suggested.sections(plan)
    for section in sections:
        lines += [
            f"{section.key:12s} {json.dumps(_shortened(section.value))}",
            *(f"{'':12s} - {why}" for why in section.reasons),
        ]
    lines += [f"{'warning':12s} {warning}" for warning in plan.warnings]
    lines += _needs(plan, plan.cost or weight_cost(suggested.experiment(plan)))
    text = config_source(data, facts, splits.transform, sections)
    if output is None:
        lines.append("nothing was written; --output FILE writes the config")
    else:
        write_atomic(Path(output), text.encode())
        lines.append(f"written to {output}; to train: scoresde train --config {output} --workdir DIR")
    return Inspection("\n".join(lines), True, suggested.config(plan), text)


def _measured(source: Source, facts: Facts, splits: Splits) -> Measured:
    """Measurements of the data. Tokens have no distance, and an epoch of them is a pass through the text."""
    if source.tokens:
        sizes = [len(part) for part in (splits.train, splits.test)]
        events = max(1, min(sizes[0], facts.count - sizes[1]))
        return Measured(splits.transform, events, 0.0, 0)
    return Measured(splits.transform, len(splits.train), *farthest(source, splits.transform))


def _shortened(value: Any) -> Any:
    """A section without long lists of nodes, for the screen."""
    if not isinstance(value, dict):
        return value
    return {
        key: f"{len(part)} {key}" if isinstance(part, list) and len(part) > 4 else part for key, part in value.items()
    }


def _unusable(lines: list[str], problems: list[str]) -> Inspection:
    return Inspection("\n".join([*lines, *(f"PROBLEM  {problem}" for problem in problems), _NOTHING]), False)


class _Suggestion:
    """The config for a plan, and its experiment. The data set is built once.

    Raises ConfigError if training would refuse the config.
    """

    def __init__(self, data: Section, facts: Facts, measured: Measured) -> None:
        self.data, self.facts, self.measured = data, facts, measured
        self.first = first_plan(facts, measured.train_events)
        self.made = Experiment.from_config(self.config(self.first))
        check_prior(self.made)

    def sections(self, plan: Plan) -> list[Section]:
        """All sections."""
        return advise(self.data, self.facts, self.measured, plan)

    def config(self, plan: Plan) -> ConfigDict:
        """The config of a plan."""
        return ConfigDict({section.key: section.value for section in _all_sections(self.sections(plan))})

    def experiment(self, plan: Plan) -> Experiment:
        """The experiment of a plan."""
        config = self.config(plan)
        model = self.made.model
        if plan.network.value != self.first.network.value:
            model = build_model(config.to_dict(), self.made.data, self.made.process, self.made.seed)
        training = TrainingConfig(**config.training.to_dict())
        return replace(self.made, config=config, model=model, training=training)

    def plan(self, fit_time: float | None, measure: bool) -> Plan:
        """The plan that fits into a time, or the first one."""
        if fit_time is not None:
            return fitting_plan(self.facts, self.measured.train_events, self.experiment, fit_time)
        return measured_plan(self.first, self.experiment) if measure else self.first


def _needs(plan: Plan, cost: Cost) -> list[str]:
    """Lines on parameters, memory and time."""
    memory = f"{as_bytes(cost.weights)} of weights; training: {as_bytes(cost.training)} for weights, gradients, Adam's moments "
    memory += "and averages"
    if cost.activations is not None:
        at_a_time = plan.micro_batch or plan.batch_size
        memory += f", and {as_bytes(cost.activations)} for the activations of {at_a_time} events"
    time = "not measured"
    if cost.seconds is not None:
        whole = plan.steps * cost.seconds / SHARE
        scaled = "" if cost.events == plan.batch_size else f", scaled from steps of {cost.events} events"
        time = (
            f"{cost.seconds:.3g} seconds a step ({cost.device}{scaled}), {as_time(whole)} for {plan.steps} steps, of which "
            f"{100 * (1 - SHARE):.0f} % for previews and checkpoints; --fit-time chooses a plan for another time"
        )
    lines = {"parameters": f"{cost.parameters:,}", "memory": memory, "time": time}
    return [f"{name:12s} {text}" for name, text in lines.items()]


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


def _all_sections(sections: list[Section]) -> list[Section]:
    head = [
        Section("seed", 0, ()),
        Section("device", "auto", ()),
        Section("threads", 0, ("CPU threads; 0 is PyTorch's choice",)),
    ]
    return head + sections


def config_source(data: str, facts: Facts, transform: Transform, sections: list[Section]) -> str:
    """The config as Python source, with the reasons as comments."""
    kind = "discrete" if transform.discrete else "real"
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


def _flat(node: dict[str, Any]) -> str:
    """The items of a mapping in one line."""
    inner = [text for name, part in node.items() for text in _literal(name, part, 0)]
    return " ".join(text.strip() for text in inner).rstrip(",")


def _literal(key: str, value: Any, indent: int) -> list[str]:
    """Lines of ``"key": value,``. A long mapping takes several lines."""
    if isinstance(value, str):
        # JSON writes letters above U+FFFF in a form that is not Python
        text = json.dumps(value) if value.isascii() else ascii(value)
        return [f"{' ' * indent}{json.dumps(key)}: {text},"]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        nodes = [f"{' ' * (indent + 4)}{{{_flat(node)}}}," for node in value]
        return [f"{' ' * indent}{json.dumps(key)}: [", *nodes, f"{' ' * indent}],"]
    if not isinstance(value, dict):
        return [f"{' ' * indent}{json.dumps(key)}: {value!r},"]
    inner = [text for name, part in value.items() for text in _literal(name, part, indent + 4)]
    flat = _flat(value)
    if len(flat) + indent + len(key) + 8 <= _WIDTH:
        return [f"{' ' * indent}{json.dumps(key)}: {{{flat}}},"]
    return [f"{' ' * indent}{json.dumps(key)}: {{", *inner, f"{' ' * indent}}},"]
