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


RUNS = ("train", "sample", "likelihood", "evaluate", "edit", "report", "push")
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
    "edit": Command(
        "edit or restore pictures and other files: fill in, sharpen, color, vary, or find what is not normal",
        f"{_RUN} --task NAME --input FILE [FILE ...] [--output DIR]\n"
        "                     [--mask FILE] [--factor N] [--t TIME] [--noise-std STD] [--guidance NAME] [--sampler NAME]\n"
        "                     [--samples N] [--condition NAME=VALUE] [--weights NAME] [--processes N]",
        section="editing",
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
        several: Whether it takes one value or more.
    """

    name: str
    owners: tuple[str, ...]
    text: str
    values: tuple[str, ...] = ()
    kind: Callable[[str], Any] = str
    setting: bool = False
    repeated: bool = False
    several: bool = False

    @property
    def attribute(self) -> str:
        """Its attribute in the parsed options."""
        return self.name.replace("-", "_")

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the flag to a parser."""
        if not self.values:
            parser.add_argument(f"--{self.name}", action="store_true", default=None, help=self.text)
        elif self.several:
            parser.add_argument(f"--{self.name}", metavar=self.values[0], nargs="+", action="extend", help=self.text)
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
        "processes", ("sample", "likelihood", "evaluate", "edit"), "number of local processes that share the work", ("N",),
        whole_number,
    ),
    Flag(
        "weights", ("sample", "likelihood", "evaluate", "edit"), "the weights to use: model, ema, ema1, ..., or the width of a "
        "post-hoc average; the same as --config.SECTION.weights with the section sampling, likelihood, evaluation or editing. "
        "evaluate: for classifiers and regressors only", ("NAME",), setting=True,
    ),
    Flag(
        "condition", ("sample", "edit"), "a condition of all samples, e.g. label=3; can be repeated for other conditions; the "
        "same as --config.sampling.condition or --config.editing.condition", ("NAME=VALUE",), repeated=True,
    ),
    Flag(
        "task", ("edit",), "edit and purify: add the noise of the time --t and remove it; anomaly_map: the distance between the "
        "input and the mean of such edits; inpaint: draw missing pixels or values; super_resolve: draw pictures of a higher "
        "resolution; colorize: color gray pictures", ("NAME",), setting=True,
    ),
    Flag(
        "input", ("edit",), "pictures, arrays (.npy) or tables (.csv, .parquet), folders of them, or patterns in quotes; sizes "
        "are those of the model, or smaller by a factor for super_resolve", ("FILE",), setting=True, several=True,
    ),
    Flag(
        "mask", ("edit",), "inpaint: a picture that is white where pixels are known and black where they are missing, or a "
        "folder with such a picture for each input; without it, transparent pixels, NaN and empty cells are missing", ("FILE",),
        Path, setting=True,
    ),
    Flag(
        "output", ("edit",), "a new folder for the results; edits/TASK-... in the work folder unless given", ("DIR",), Path,
        setting=True,
    ),
    Flag(
        "samples", ("edit",), "number of samples for each input, 4 unless given", ("N",), setting=True,
    ),
    Flag("sampler", ("edit",), "one of the samplers of the config; needed if there are several", ("NAME",), setting=True),
    Flag(
        "t", ("edit",), "edit, purify, anomaly_map: the time of the noise that is added, above 0 and below T: the larger, the "
        "less the results resemble the input", ("TIME",), setting=True,
    ),
    Flag(
        "factor", ("edit",), "super_resolve: lower the resolution of whole pictures by this factor first; smaller pictures need "
        "none", ("N",), setting=True,
    ),
    Flag(
        "noise-std", ("edit",), "inpaint, super_resolve, colorize: standard deviation of the noise in the input, in units of the "
        "data: levels for pictures, of which 8 bits have 256", ("STD",), setting=True,
    ),
    Flag(
        "guidance", ("edit",), "inpaint, super_resolve, colorize: TweedieMoments (the default), IsotropicMoments, which costs "
        "less, or DiffusionPosteriorSampling; --config.editing.guidance.KEY=VALUE sets its arguments", ("NAME",),
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
    Flag(
        "from", ("convert",), "the other project (score_sde_pytorch, improved_diffusion or guided_diffusion) and its checkpoint",
        ("PROJECT", "FILE"),
    ),
    Flag(
        "source-config", ("convert",), "the config of the other project, which is read but not executed; --source.KEY=VALUE "
        "overrides a value, or is a flag of improved_diffusion's scripts", ("FILE",),
    ),
    Flag(
        "expected", ("convert",), "an .npz file with x, labels, and out_raw or out_ema: reference outputs for the network",
        ("FILE",),
    ),
)  # fmt: skip


def flags_of(command: str) -> tuple[Flag, ...]:
    """The flags of a command."""
    return tuple(flag for flag in FLAGS if command in flag.owners)
