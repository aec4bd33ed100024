"""The command line.

    scoresde train | sample | likelihood | evaluate | report [--config FILE] --workdir DIR [--config.KEY=VALUE ...]
    scoresde train --dry-run --config FILE [--config.KEY=VALUE ...]
    scoresde sample ... [--weights NAME] [--processes N]
    scoresde likelihood ... [--split NAME] [--draws N] [--tolerance BITS] [--weights NAME] [--processes N]
    scoresde evaluate ... [--samples PATH] [--processes N]
    scoresde inspect DATA [--output FILE] [--force] [--side PIXELS]
    scoresde check --config FILE [--config.KEY=VALUE ...]
    scoresde convert --from score_sde_pytorch CHECKPOINT --workdir DIR [--source-config FILE] [--source.KEY=VALUE ...]
                     [--config FILE] [--config.KEY=VALUE ...] [--expected FILE]

Without --config the first five take the config of the folder, its config.json.

Exit codes: 0 done; 1 a check that failed; 2 a request that cannot be met, said in one message on standard error; 3 one of
several processes died, and what the others finished is kept; 130 interrupted by SIGINT or SIGTERM, with all finished work saved;
anything else is a fault of scoresde's, with its traceback.
"""

from __future__ import annotations

import argparse
import dis
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde._validation import suggestion
from scoresde.version import __version__

COMMANDS = {
    "train": "train a model, or go on from its last checkpoint",
    "sample": "draw samples with every sampler of the config",
    "likelihood": "log-likelihood (bits/dim for discrete data) of a split",
    "evaluate": "samples beside data, by features: Frechet and kernel distance, precision and recall",
    "report": "write report.html of what the folder holds",
    "inspect": "look at data, and write a config that trains on it",
    "check": "hold the config's process to its own mathematics, without a folder",
    "convert": "make a work folder of another project's checkpoint",
}
RUNS = ("train", "sample", "likelihood", "evaluate", "report")
"""Commands in a work folder, whose own config they take where none is given."""
NEEDED = {"check": ("config",), "convert": ("workdir", "from"), "inspect": ("data",)}
"""What a command needs; the others a config and a folder."""
SECTION = {"sample": "sampling", "likelihood": "likelihood", "evaluate": "evaluation"}
"""The config's section of a command."""
LONGEST_LINE = 1500
"""Characters of a line of an error message."""
_OVERRIDE, _SOURCE = "--config.", "--source."


@dataclass(frozen=True)
class Flag:
    """A flag of some commands.

    owners: those commands. text: for the help. values: names of what it takes; none: a switch. kind: of a value.
    setting: it stands for the key of its name in the command's section of the config, where a path is no literal.
    repeated: it may be given several times.
    """

    name: str
    owners: tuple[str, ...]
    text: str
    values: tuple[str, ...] = ()
    kind: type = str
    setting: bool = False
    repeated: bool = False

    @property
    def place(self) -> str:
        """Its attribute among the options."""
        return self.name.replace("-", "_")

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Make it known."""
        text = f"{', '.join(self.owners)}: {self.text}" if len(self.owners) < len(RUNS) else self.text
        if not self.values:
            parser.add_argument(f"--{self.name}", action="store_true", default=None, help=text)
        elif self.repeated:
            parser.add_argument(f"--{self.name}", metavar=self.values[0], action="append", help=text)
        elif len(self.values) == 1:
            parser.add_argument(f"--{self.name}", metavar=self.values[0], type=self.kind, help=text)
        else:
            parser.add_argument(f"--{self.name}", metavar=self.values, nargs=len(self.values), help=text)


FLAGS = (
    Flag("config", (*RUNS, "check", "convert"), "Python file with get_config(); that of --workdir unless given", ("FILE",)),
    Flag(
        "trust", (*RUNS, "check", "convert"), "a module whose classes a folder's config.json may name; may be given several "
        "times", ("MODULE",), repeated=True,
    ),
    Flag("workdir", (*RUNS, "convert"), "the folder of this run: made by train or convert", ("DIR",)),
    Flag("dry-run", ("train",), "say memory and hours, measured; nothing is written"),
    Flag("processes", ("sample", "likelihood", "evaluate"), "local processes that share the work", ("N",), int),
    Flag(
        "weights", ("sample", "likelihood"), "ema, ema1, ..., model, or the width of a post-hoc average, as "
        "--config.sampling.weights and --config.likelihood.weights", ("NAME",), setting=True,
    ),
    Flag("split", ("likelihood",), "test or train, as --config.likelihood.split", ("NAME",), setting=True),
    Flag("draws", ("likelihood",), "dequantisations of each event, as --config.likelihood.draws", ("N",), setting=True),
    Flag(
        "tolerance", ("likelihood",), "of the default solver, bits/dim, as --config.likelihood.tolerance", ("BITS",),
        setting=True,
    ),
    Flag(
        "samples", ("evaluate",), "images or an array's file in place of the folder's own, as --config.evaluation.samples",
        ("PATH",), Path, setting=True,
    ),
    Flag("output", ("inspect",), "where the config is written", ("FILE",)),
    Flag("force", ("inspect",), "replace a file that is there"),
    Flag("side", ("inspect",), "side to which a folder's images are shrunk", ("PIXELS",), int),
    Flag("from", ("convert",), "whose checkpoint, and where", ("PROJECT", "FILE")),
    Flag("source-config", ("convert",), "that project's config, not executed; --source.KEY=VALUE corrects it", ("FILE",)),
    Flag("expected", ("convert",), ".npz file with x, labels, and out_raw or out_ema, to compare outputs with", ("FILE",)),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options, overrides = _parse(list(sys.argv[1:] if argv is None else argv))
    try:
        with _current_folder(options, overrides), _terminated():
            return _run(options, overrides)
    except KeyboardInterrupt:
        print(f"scoresde {options.command}: interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """A command, and what it refuses as an exit code."""
    from scoresde import experiment as room
    from scoresde.solvers import SolverError

    refusals = (
        room.ConfigError, room.CheckpointError, room.WorkdirError, SolverError, FloatingPointError, OSError, ValueError,
    )  # fmt: skip
    try:
        return _ACTIONS[options.command](options, overrides)
    except refusals as problem:
        print(_shortened(f"scoresde {options.command}: {problem}"), file=sys.stderr)
        return 2
    except room.WorkerError as problem:
        print(f"scoresde {options.command}: {problem}", file=sys.stderr)
        return 3
    except TypeError as problem:
        if not _on_purpose(problem):
            raise
        print(_shortened(f"scoresde {options.command}: {problem}"), file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as problem:
        if not room.out_of_memory(problem):
            raise
        print(f"scoresde {options.command}: out of memory: give a smaller batch_size or smaller sizes", file=sys.stderr)
        return 2


def _on_purpose(problem: BaseException) -> bool:
    """Whether an exception comes from a ``raise`` in scoresde, and is a refusal; not from a fault."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not place.tb_frame.f_globals.get("__name__", "").startswith("scoresde."):
        return False
    return place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _shortened(text: str) -> str:
    """The same with the middle of long lines left out: a value in them may have any length."""
    half = LONGEST_LINE // 2
    lines = (f"{line[:half]} ... {line[-half:]}" if len(line) > LONGEST_LINE else line for line in text.splitlines())
    return "\n".join(lines)


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> Any:
    from scoresde.experiment import apply_overrides, load_config

    config = load_config(options.config, options.trust or ())
    apply_overrides(config, overrides)
    return config


def _work(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """A command in a work folder."""
    from scoresde import experiment as room

    made = room.Experiment.from_config(_config(options, overrides))
    if options.dry_run:
        needs = room.dry_run(made)
        print(needs or "", end="\n" if needs else "")
        return 0
    workdir = room.Workdir(options.workdir)
    shared = {"sample": room.sample, "likelihood": room.likelihood, "evaluate": room.assess}
    if options.command == "train":
        room.train(made, workdir)
    elif options.command == "report":
        print(room.report(made, workdir))
    else:
        shared[options.command](made, workdir, processes=1 if options.processes is None else options.processes)
    return 0


def _inspect(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from scoresde.experiment import inspect

    said, good = inspect(options.data, options.output, side=options.side or 0, force=bool(options.force))
    print(said)
    return 0 if good else 1


def _check(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from scoresde.experiment import check

    report = check(_config(options, overrides))
    print(report)
    return 0 if report.passed else 1


def _convert(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from ml_collections import ConfigDict

    from scoresde.experiment import Experiment, apply_overrides
    from scoresde.interop.convert import convert, is_source, source_of

    project, file = getattr(options, "from")
    source = None if options.source_config is None else source_of(options.source_config, options.source)
    if source is None and is_source(options.config):
        raise ValueError(f"--config {options.config} is a config of {project}: give it as --source-config")
    if options.config is None and source is not None:
        config = ConfigDict(source.config)
        apply_overrides(config, overrides)
    else:
        config = _config(options, overrides)
    made = Experiment.from_config(config)
    print(convert(project, file, made, options.workdir, source=source, expected=options.expected))
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace, dict[str, str]], int]] = {
    **dict.fromkeys(RUNS, _work), "inspect": _inspect, "check": _check, "convert": _convert,
}  # fmt: skip


@contextmanager
def _current_folder(options: argparse.Namespace, overrides: dict[str, str]) -> Iterator[None]:
    """The current folder on Python's path, for "module:Class" where the user names one; last, so that it hides nothing.

    A command that reads a folder's config alone does without, so that no import is looked for in a folder of others.
    """
    code = options.config is not None and Path(options.config).suffix != ".json"
    if not (code or options.trust or any(":" in value for value in (options.data or "", *overrides.values()))):
        yield
        return
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(folder)
        sys.path.reverse()


@contextmanager
def _terminated() -> Iterator[None]:
    """Inside, SIGTERM interrupts as SIGINT does, since schedulers send it, and SIGINT does where a shell has a background job
    ignore it. Training finishes its step first, by handlers of its own."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and the overrides by dotted key. Exits with code 2 and a message for what is not known."""
    parser = _parser()
    plain, rest = [], iter(arguments)
    values: dict[str, dict[str, str]] = {_OVERRIDE: {}, _SOURCE: {}}
    for argument in rest:
        prefix = next((p for p in values if argument.startswith(p)), "")
        if not prefix:
            plain.append(argument)
            continue
        key, equals, value = argument.removeprefix(prefix).partition("=")
        if not equals:
            following = next(rest, None)
            if following is None:
                parser.error(f"{argument} needs a value: {argument}=VALUE")
            value = following
        values[prefix][key] = value
    options, unknown = parser.parse_known_args(plain)
    if unknown:
        flags = ["--help", "--version", *(f"--{flag.name}" for flag in FLAGS)]
        parser.error(f"{unknown[0]} is not known{suggestion(unknown[0].split('=')[0], flags)}")
    if options.command in RUNS and options.config is None and options.workdir is not None:
        options.config = _config_of(parser, options.workdir)
    overrides, options.source = values[_OVERRIDE], values[_SOURCE]
    _check_flags(parser, options, overrides)
    return options, overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scoresde",
        description="Score-based generative models in continuous time.\n\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
        usage="scoresde COMMAND [--config FILE] [--workdir DIR] [--config.KEY=VALUE ...] [flags of the command]",
        epilog="Any value of the config can be set: --config.training.steps=500 --config.sde.name=VESDE",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scoresde {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those above")
    parser.add_argument("data", nargs="?", metavar="DATA", help="inspect: a folder, an array's file, or module:class")
    for flag in FLAGS:
        flag.add(parser)
    return parser


def _config_of(parser: argparse.ArgumentParser, workdir: str) -> str:
    """The config that a work folder keeps; without one, exits with code 2."""
    file = Path(workdir) / "config.json"
    if not file.is_file():
        parser.error(f"--config is needed: --workdir {workdir} holds no config.json to go by")
    return str(file)


def _check_flags(parser: argparse.ArgumentParser, options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Flags that a command needs, and those of other commands; settings are put among the overrides."""
    command = options.command
    needed = ("config",) if options.dry_run else NEEDED.get(command, ("config", "workdir"))
    if missing := [name for name in needed if getattr(options, name) is None]:
        shown = ", ".join("DATA" if name == "data" else f"--{name}" for name in missing)
        parser.error(f"the following arguments are required by {command}: {shown}")
    if command == "convert" and options.config is None and options.source_config is None:
        parser.error("the following arguments are required by convert: --source-config or --config")
    if options.source and options.source_config is None:
        parser.error(f"{_SOURCE}{next(iter(options.source))} corrects a --source-config, and none is given")
    if options.data is not None and command != "inspect":
        parser.error(f"DATA belongs to inspect, not to {command}")
    for flag in FLAGS:
        value = getattr(options, flag.place)
        if value is not None and command not in flag.owners:
            parser.error(f"--{flag.name} belongs to {' and '.join(flag.owners)}, not to {command}")
        if value is not None and flag.setting:
            key = f"{SECTION[command]}.{flag.name}"
            if key in overrides:
                parser.error(f"--{flag.name} and --config.{key} say the same: give one")
            overrides[key] = repr(str(value)) if flag.kind is Path else value
    if overrides and command not in FLAGS[0].owners:
        parser.error(f"{_OVERRIDE}{next(iter(overrides))} is for commands with a config, not for {command}")


if __name__ == "__main__":
    sys.exit(main())
