"""The command line.

    scoresde train | sample | likelihood | evaluate | report [--config FILE] --workdir DIR [--config.KEY=VALUE ...]
    scoresde train --dry-run --config FILE [--config.KEY=VALUE ...]
    scoresde sample ... [--weights NAME] [--processes N]
    scoresde likelihood ... [--split NAME] [--draws N] [--tolerance BITS] [--weights NAME] [--processes N]
    scoresde evaluate ... [--samples PATH] [--processes N]
    scoresde inspect DATA [--output FILE] [--force] [--side PIXELS]
    scoresde check --config FILE [--config.KEY=VALUE ...]
    scoresde convert --from score_sde_pytorch CHECKPOINT --config FILE --workdir DIR [--config.KEY=VALUE ...]

Without --config these four take the config of the folder, its config.json.

Exit codes: 0 done; 1 a check that failed; 2 a request that cannot be met, said in one message on standard error; 3 one of
several processes died, and what the others finished is kept; 130 interrupted, with all finished work saved; anything else is a
fault of scoresde's, with its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
_OVERRIDE = "--config."
SHORT = {
    "split": "likelihood: test or train, as --config.likelihood.split",
    "draws": "likelihood: dequantisations of each event, as --config.likelihood.draws",
    "tolerance": "likelihood: of the default solver, bits/dim, as --config.likelihood.tolerance",
    "weights": "sample, likelihood: ema, ema1, ..., model, or the width of a post-hoc average, as --config.sampling.weights",
    "samples": "evaluate: images or an array's file in place of the folder's own, as --config.evaluation.samples",
}
"""Short flags for keys of the config."""
SECTION = {"likelihood": "likelihood", "sample": "sampling", "evaluate": "evaluation"}
"""Whose keys they are."""
RUNS = ("train", "sample", "likelihood", "evaluate", "report")
"""Commands in a work folder, whose own config they take where none is given."""
NEEDED = {"check": ("config",), "convert": ("config", "workdir", "from"), "inspect": ("data",)}
"""What a command needs; the others a config and a folder."""
OWNERS = {
    **dict.fromkeys(SHORT, ("likelihood",)),
    "weights": ("likelihood", "sample"),
    "samples": ("evaluate",),
    "processes": ("likelihood", "sample", "evaluate"),
    "dry_run": ("train",),
    "from": ("convert",),
    **dict.fromkeys(("data", "output", "force", "side"), ("inspect",)),
    "config": (*RUNS, "check", "convert"),
    "workdir": (*RUNS, "convert"),
}
"""Flags that belong to some commands only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, overrides = _parse(arguments)
    with _current_folder():
        return _run(options, overrides)


@contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder on Python's path, for "module:Class" in a config; last, so that it hides nothing."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(folder)
        sys.path.reverse()


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """A command, and what it refuses as an exit code."""
    from scoresde import experiment as room
    from scoresde.solvers import SolverError

    refusals = (
        room.ConfigError, room.CheckpointError, room.WorkdirError, SolverError, FloatingPointError, OSError, ValueError,
    )  # fmt: skip
    try:
        if options.command == "inspect":
            said, good = room.inspect(options.data, options.output, side=options.side or 0, force=bool(options.force))
            print(said)
            return 0 if good else 1
        config = room.load_config(options.config)
        room.apply_overrides(config, overrides)
        if options.command == "check":
            report = room.check(config)
            print(report)
            return 0 if report.passed else 1
        if options.command == "convert":
            from scoresde.interop.convert import convert

            project, file = getattr(options, "from")
            print(convert(project, file, room.Experiment.from_config(config), options.workdir))
            return 0
        if options.dry_run:
            needs = room.dry_run(room.Experiment.from_config(config))
            print(needs or "", end="\n" if needs else "")
            return 0
        made, workdir = room.Experiment.from_config(config), room.Workdir(options.workdir)
        processes = 1 if options.processes is None else options.processes
        if options.command == "train":
            room.train(made, workdir)
        elif options.command == "sample":
            room.sample(made, workdir, processes=processes)
        elif options.command == "likelihood":
            room.likelihood(made, workdir, processes=processes)
        elif options.command == "evaluate":
            room.assess(made, workdir, processes=processes)
        else:
            print(room.report(made, workdir))
    except refusals as problem:
        print(f"scoresde {options.command}: {problem}", file=sys.stderr)
        return 2
    except room.WorkerError as problem:
        print(f"scoresde {options.command}: {problem}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"scoresde {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and the overrides by dotted key. Exits with code 2 and a message for what is not known."""
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
    parser.add_argument(
        "--config", metavar="FILE", help="Python file with get_config(); that of --workdir unless given"
    )
    parser.add_argument("--workdir", metavar="DIR", help="the folder of this run: made by train or convert")
    for flag, text in SHORT.items():
        parser.add_argument(
            f"--{flag}",
            metavar={"split": "NAME", "draws": "N", "samples": "PATH", "weights": "NAME"}.get(flag, "BITS"),
            help=text,
        )
    parser.add_argument(
        "--dry-run", action="store_true", default=None, help="train: say memory and hours, measured; nothing is written"
    )
    parser.add_argument(
        "--processes", metavar="N", type=int, help="sample, likelihood, evaluate: local processes that share the work"
    )
    parser.add_argument("--output", metavar="FILE", help="inspect: where the config is written")
    parser.add_argument("--force", action="store_true", default=None, help="inspect: replace a file that is there")
    parser.add_argument(
        "--side", metavar="PIXELS", type=int, help="inspect: side to which a folder's images are shrunk"
    )
    parser.add_argument("--from", nargs=2, metavar=("PROJECT", "FILE"), help="convert: whose checkpoint, and where")
    plain, overrides, rest = [], {}, iter(arguments)
    for argument in rest:
        if not argument.startswith(_OVERRIDE):
            plain.append(argument)
            continue
        key, equals, value = argument.removeprefix(_OVERRIDE).partition("=")
        if not equals:
            following = next(rest, None)
            if following is None:
                parser.error(f"{argument} needs a value: {argument}=VALUE")
            value = following
        overrides[key] = value
    options, unknown = parser.parse_known_args(plain)
    if unknown:
        flags = ["--help", "--version", *(_shown(name) for name in vars(options) if name not in ("command", "data"))]
        parser.error(f"{unknown[0]} is not known{suggestion(unknown[0].split('=')[0], flags)}")
    _check_flags(parser, options, overrides)
    return options, overrides


def _config_of(parser: argparse.ArgumentParser, workdir: str) -> str:
    """The config that a work folder keeps; without one, exits with code 2."""
    file = Path(workdir) / "config.json"
    if not file.is_file():
        parser.error(f"--config is needed: --workdir {workdir} holds no config.json to go by")
    return str(file)


def _shown(flag: str) -> str:
    return "DATA" if flag == "data" else f"--{flag.replace('_', '-')}"


def _check_flags(parser: argparse.ArgumentParser, options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Flags that a command needs, and those of other commands; short ones are put among the overrides."""
    command = options.command
    if command in RUNS and options.config is None and options.workdir is not None:
        options.config = _config_of(parser, options.workdir)
    needed = ("config",) if options.dry_run else NEEDED.get(command, ("config", "workdir"))
    missing = [flag for flag in needed if getattr(options, flag) is None]
    if missing:
        shown = ", ".join(map(_shown, missing))
        parser.error(f"the following arguments are required by {command}: {shown}")
    for flag, owners in OWNERS.items():
        if getattr(options, flag) is not None and command not in owners:
            parser.error(f"{_shown(flag)} belongs to {' and '.join(owners)}, not to {command}")
    if overrides and command not in OWNERS["config"]:
        parser.error(f"{_OVERRIDE}{next(iter(overrides))} is for commands with a config, not for {command}")
    for flag in SHORT:
        if (value := getattr(options, flag)) is None:
            continue
        key = f"{SECTION[command]}.{flag}"
        if key in overrides:
            parser.error(f"--{flag} and --config.{key} say the same: give one")
        overrides[key] = value


if __name__ == "__main__":
    sys.exit(main())
