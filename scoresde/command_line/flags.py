"""The commands and their flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        text: Its purpose, for the list of commands.
        usage: Its arguments, for the first line of its help.
        needed: Names of its required arguments.
        section: The section of the config that its flags set.
    """

    text: str
    usage: str
    needed: tuple[str, ...] = ("config", "workdir")
    section: str = ""


RUNS = ("train", "sample", "likelihood", "evaluate", "report", "push")
"""Commands that work in a folder. Without --config they use the config of the folder."""
_RUN = "--workdir DIR [--config FILE] [--config.KEY=VALUE ...]"

COMMANDS = {
    "train": Command(
        "train a model, or continue from the last checkpoint",
        f"{_RUN}\n                      [--init-from RUN [--init-weights NAME]] [--dry-run | --fit-time TIME]",
    ),
    "sample": Command(
        "draw samples with every sampler of the config",
        f"{_RUN} [--weights NAME] [--condition NAME=VALUE] [--processes N]",
        section="sampling",
    ),
    "likelihood": Command(
        "compute the log-likelihood of a data set, in bits/dim if the data is discrete",
        f"{_RUN} [--split NAME] [--draws N] [--tolerance BITS] [--weights NAME] [--processes N]",
        section="likelihood",
    ),
    "evaluate": Command(
        "compare samples with data: Frechet and kernel distance, precision, recall. Classifiers and regressors: their accuracy",
        f"{_RUN} [--samples PATH] [--weights NAME] [--processes N]",
        section="evaluation",
    ),
    "report": Command(
        "write report.html with everything in the work folder, or compare runs",
        f"{_RUN}\n       scoresde report RUN RUN ... [--output FILE]",
    ),
    "push": Command(
        "publish the model of a run to a Hugging Face repository or a folder",
        f"PLACE {_RUN}\n                     [--weights NAME ...] [--with-state] [--license ID] [--tag TAG ...] "
        "[--public] [--overwrite]",
        needed=("place", "config", "workdir"),
    ),
    "pull": Command(
        "make a work folder from a published model",
        "PLACE --workdir DIR [--overwrite]",
        needed=("place", "workdir"),
    ),
    "inspect": Command(
        "describe data, and write a config that trains on it",
        "DATA [--output FILE] [--force] [--side PIXELS] [--channels WHERE] [--fit-time TIME | --no-measure]",
        needed=("data",),
    ),
    "check": Command(
        "test the process of a config, or one of another library, against its own equations",
        "--config FILE [--config.KEY=VALUE ...] | --process MODULE:NAME",
        needed=(),
    ),
    "convert": Command(
        "create a work folder from a checkpoint of another project",
        "--from PROJECT FILE --workdir DIR [--source-config FILE] [--source.KEY=VALUE ...]\n"
        "                        [--config FILE] [--config.KEY=VALUE ...] [--expected FILE]",
        needed=("workdir", "from"),
    ),
}


def whole_number(text: str) -> int:
    """The value of an integer flag."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not allowed: give a whole number") from None


def pixels(text: str) -> int | tuple[int, ...]:
    """The value of a flag that gives a side in pixels, or HEIGHTxWIDTH."""
    try:
        sides = tuple(map(int, text.split("x")))
    except ValueError:
        sides = ()
    if not 1 <= len(sides) <= 2:
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is not allowed: give a whole number, or HEIGHTxWIDTH such as 12x20"
        )
    return sides[0] if len(sides) == 1 else sides


def duration(text: str) -> float:
    """The seconds of a flag that gives a time: a number of seconds, or a number with the unit s, m, h or d."""
    value, unit = (text[:-1], text[-1]) if text and text[-1] in _UNITS else (text, "s")
    try:
        return float(value) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is not allowed: give a time such as 90, 90s, 10m or 2h"
        ) from None


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Flag:
    """A flag of some commands.

    Args:
        name: Its name without the dashes.
        owners: The commands that have it.
        text: Its purpose, for the help.
        values: Names of its values. A flag without values is a switch.
        kind: Type of its value.
        setting: Whether it sets the key of its name in the command's section of the config. A path is set as text.
        repeated: Whether it can be given several times.
    """

    name: str
    owners: tuple[str, ...]
    text: str
    values: tuple[str, ...] = ()
    kind: Callable[[str], Any] = str
    setting: bool = False
    repeated: bool = False

    @property
    def attribute(self) -> str:
        """Its attribute in the parsed options."""
        return self.name.replace("-", "_")

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the flag to a parser."""
        if not self.values:
            parser.add_argument(f"--{self.name}", action="store_true", default=None, help=self.text)
        elif self.repeated:
            parser.add_argument(f"--{self.name}", metavar=self.values[0], action="append", help=self.text)
        elif len(self.values) == 1:
            parser.add_argument(f"--{self.name}", metavar=self.values[0], type=self.kind, help=self.text)
        else:
            parser.add_argument(f"--{self.name}", metavar=self.values, nargs=len(self.values), help=self.text)


_CONFIGURED = (*RUNS, "check", "convert")
FLAGS = (
    Flag("config", _CONFIGURED, "a Python file with get_config(), or a config.json", ("FILE",)),
    Flag(
        "trust", _CONFIGURED, "a module whose classes the config.json of a work folder may name; can be repeated", ("MODULE",),
        repeated=True,
    ),
    Flag(
        "workdir", (*RUNS, "pull", "convert"), "the work folder of the run; train, pull and convert create it", ("DIR",),
    ),
    Flag("dry-run", ("train",), "measure a few steps and print the memory and time that the run needs; nothing is written"),
    Flag(
        "fit-time", ("train", "inspect"), "time for training, such as 90, 90s, 10m or 2h: a few steps are measured. train: set "
        "training.steps in the config of a new run to the number of steps that fits, at most the configured number. inspect: "
        "choose network, batch and steps that fit", ("TIME",), duration,
    ),
    Flag(
        "init-from", ("train",), "a work folder, or one of its checkpoints, whose weights a new run starts from; without "
        "--config, its config is used", ("RUN",),
    ),
    Flag(
        "init-weights", ("train",), "the weights of --init-from: ema (the default), ema1, ..., model, or the width of a post-hoc "
        "average", ("NAME",),
    ),
    Flag(
        "processes", ("sample", "likelihood", "evaluate"), "number of local processes that share the work", ("N",), whole_number,
    ),
    Flag(
        "weights", ("sample", "likelihood", "evaluate"), "the weights to use: model, ema, ema1, ..., or the width of a post-hoc "
        "average; the same as --config.sampling.weights, --config.likelihood.weights or --config.evaluation.weights. evaluate: "
        "for classifiers and regressors only", ("NAME",), setting=True,
    ),
    Flag(
        "condition", ("sample",), "a condition of all samples, e.g. label=3; can be repeated for other conditions; the same as "
        "--config.sampling.condition", ("NAME=VALUE",), repeated=True,
    ),
    Flag("split", ("likelihood",), "test or train; the same as --config.likelihood.split", ("NAME",), setting=True),
    Flag(
        "draws", ("likelihood",), "number of dequantizations of each event; the same as --config.likelihood.draws", ("N",),
        setting=True,
    ),
    Flag(
        "tolerance", ("likelihood",), "largest integration error in bits/dim, for the default solver; the same as "
        "--config.likelihood.tolerance", ("BITS",), setting=True,
    ),
    Flag(
        "samples", ("evaluate",), "a folder of images or the file of an array, used instead of the samples of the run; "
        "the same as --config.evaluation.samples", ("PATH",), Path, setting=True,
    ),
    Flag(
        "weights", ("push",), "the weights to publish: ema (the default), model, ema1, ..., or the width of a post-hoc average; "
        "can be repeated", ("NAME",), repeated=True,
    ),
    Flag("with-state", ("push",), "publish what training needs to continue as well: all weights and Adam's moments"),
    Flag("license", ("push",), "the identifier of the model's license, such as apache-2.0", ("ID",)),
    Flag("tag", ("push",), "a tag of the model card; can be repeated", ("TAG",), repeated=True),
    Flag("public", ("push",), "make a new repository visible to everyone; otherwise it is private"),
    Flag("overwrite", ("push", "pull"), "replace a published model, or a work folder with everything in it"),
    Flag(
        "process", ("check",), "a process in Python instead of one in a config: an object, or a class or function that makes it "
        "without arguments; also one of azula, deepinv, diffusers, flow_matching, sbi, torchcfm", ("MODULE:NAME",),
    ),
    Flag("output", ("inspect",), "file for the config; without it, nothing is written", ("FILE",)),
    Flag(
        "output", ("report",), "page that compares runs, and the same name with .json and .csv; comparison.html unless given",
        ("FILE",),
    ),
    Flag("force", ("inspect",), "replace the file if it exists"),
    Flag(
        "side", ("inspect",), "side in pixels to which the images of a folder are resized, or HEIGHTxWIDTH", ("PIXELS",), pixels,
    ),
    Flag(
        "channels", ("inspect",), "the axis of the channels in the events of an array: first, last, or none for gray images and "
        "series of one channel without such an axis; chosen by shape and values unless given", ("WHERE",),
    ),
    Flag("no-measure", ("inspect",), "do not run training steps to measure memory and time"),
    Flag("from", ("convert",), "the other project (score_sde_pytorch) and its checkpoint", ("PROJECT", "FILE")),
    Flag(
        "source-config", ("convert",), "the config of the other project, which is read but not executed; --source.KEY=VALUE "
        "overrides a value", ("FILE",),
    ),
    Flag(
        "expected", ("convert",), "an .npz file with x, labels, and out_raw or out_ema: reference outputs for the network",
        ("FILE",),
    ),
)  # fmt: skip


def flags_of(command: str) -> tuple[Flag, ...]:
    """The flags of a command."""
    return tuple(flag for flag in FLAGS if command in flag.owners)
