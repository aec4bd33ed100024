"""Parses arguments: argparse sub-parsers for the flags, and --config.KEY=VALUE for any value of the config."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from scoresde._validation import shown, suggestion
from scoresde.command_line.errors import one_line
from scoresde.command_line.flags import COMMANDS, FLAGS, RUNS, flags_of
from scoresde.version import __version__

OVERRIDE, SOURCE = "--config.", "--source."
FLAGGED = ("improved_diffusion", "guided_diffusion")
"""Projects whose checkpoints have flags in place of a config."""
_EPILOG = """\
Any value of the config can be overridden: --config.training.steps=500 --config.sde.name=VESDE

exit codes:
  0    success
  1    check or inspect found a problem
  2    the command cannot be carried out; the reason is on standard error
  3    one of several processes died; the results of the others are saved
  130  interrupted by SIGINT, SIGTERM or SIGUSR1; all finished work is saved"""


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parse the arguments.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The options, and the overrides by dotted key. The process exits with code 2 and a message for unknown arguments.
    """
    parser = make_parser()
    plain, overrides, sources = _split(parser, arguments)
    command = _command(plain)
    if command is not None:
        plain.remove(command)
        if command not in COMMANDS:
            known = ", ".join(COMMANDS)
            parser.error(
                f"command {shown(command)} is not known: the commands are {known}{suggestion(command, COMMANDS)}"
            )
        plain.insert(0, command)
    elif not any(argument in ("-h", "--help", "--version") for argument in plain):
        parser.error(f"a command is missing: give {', '.join(COMMANDS)}")
    options = argparse.Namespace(data=None, place=None, runs=[], **{flag.attribute: None for flag in FLAGS})
    options, unknown = parser.parse_known_args(plain, options)
    own: Parser = options.parser
    if unknown:
        _refuse_unknown(own, options.command, unknown[0])
    if (
        options.command in RUNS
        and not options.runs
        and options.config is None
        and (options.workdir or options.init_from) is not None
    ):
        options.config = _config_of(own, options.workdir, options.init_from)
    options.source = sources
    _check_needed(own, options)
    _set_overrides(own, options, overrides)
    return options, overrides


def make_parser() -> Parser:
    """The parser of the program, with a sub-parser for each command."""
    parser = Parser(
        prog="scoresde",
        description="Score-based generative models in continuous time.",
        usage="scoresde COMMAND [flags of the command] [--config.KEY=VALUE ...]",
        epilog="scoresde COMMAND --help shows the flags of a command.\n\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scoresde {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    for name, command in COMMANDS.items():
        text = command.text[0].upper() + command.text[1:] + "."
        if name in RUNS:
            text += "\nWithout --config, the config.json of the work folder is used."
        own = commands.add_parser(
            name,
            prog=f"scoresde {name}",
            help=command.text,
            description=text,
            usage=f"scoresde {name} {command.usage}",
            epilog=_EPILOG if name in FLAGS[0].owners else None,  # the commands with a config
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        own.set_defaults(parser=own)
        own.add_argument("--version", action="version", version=f"scoresde {__version__}", help=argparse.SUPPRESS)
        if "data" in command.needed:
            own.add_argument("data", nargs="?", metavar="DATA", help="a folder, the file of an array, or module:class")
        if "place" in command.needed:
            text = "a Hugging Face repository, hf://user/name (pull: @revision), or a folder"
            own.add_argument("place", nargs="?", metavar="PLACE", help=text)
        if name == "report":
            own.add_argument("runs", nargs="*", metavar="RUN", help="work folders to compare, two or more")
        for flag in flags_of(name):
            flag.add(own)
    return parser


def _split(parser: Parser, arguments: Sequence[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Split the arguments into those for argparse, overrides of the config, and overrides of another project's config."""
    plain: list[str] = []
    values: dict[str, dict[str, str]] = {OVERRIDE: {}, SOURCE: {}}
    rest = iter(arguments)
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
    return plain, values[OVERRIDE], values[SOURCE]


def _command(arguments: Sequence[str]) -> str | None:
    """The first argument that is neither a flag nor the value of a flag. Flags may precede the command."""
    counts = {f"--{flag.name}": len(flag.values) for flag in FLAGS}
    several = {f"--{flag.name}" for flag in FLAGS if flag.several}
    passed, open_ended = 0, False
    for argument in arguments:
        if argument.startswith("-") and not passed:
            passed, open_ended = counts.get(argument, 0), argument in several
        elif passed:
            passed -= 1
        elif not open_ended or argument in COMMANDS:
            return argument
    return None


def _refuse_unknown(parser: Parser, command: str, argument: str) -> NoReturn:
    """Exit with a message about an argument that the command does not have."""
    name = argument.split("=")[0]
    owners = [each for each in COMMANDS for flag in flags_of(each) if f"--{flag.name}" == name]
    if owners:
        parser.error(f"{name} is a flag of {_listed(owners)}, not of {command}")
    if not argument.startswith("-") and command == "report":
        parser.error(f"{shown(argument)} is not expected here: give all runs before the flags")
    if not argument.startswith("-"):
        parser.error(f"{shown(argument)} is not expected: {command} has no positional arguments")
    first, dot, rest = name.partition(".")
    if dot:
        near = get_close_matches(first, [OVERRIDE[:-1], SOURCE[:-1]], n=1, cutoff=0.75)
        meant = f"{near[0]}.{rest}" if near else OVERRIDE + name.lstrip("-")
        parser.error(f"{argument} is not known; did you mean '{meant}'?")
    flags = ["--help", "--version", *(f"--{flag.name}" for flag in flags_of(command))]
    parser.error(f"{argument} is not known{suggestion(name, flags)}")


def _listed(names: Sequence[str]) -> str:
    """The names with commas, and "and" before the last one."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _config_of(parser: Parser, workdir: str | None, source: str | None) -> str:
    """The config of a work folder, or of the run whose weights a new run starts from. Exits with code 2 if there is none."""
    places = [] if workdir is None else [Path(workdir)]
    if source is not None:
        places += [Path(source), Path(source).parent.parent]  # a work folder, or RUN/checkpoints/step-N
    file = next((place / "config.json" for place in places if (place / "config.json").is_file()), None)
    if file is None:
        there = {"--workdir": workdir, "--init-from": source}
        given = " and ".join(f"{flag} {value}" for flag, value in there.items() if value is not None)
        parser.error(f"--config is required: {given} contains no config.json")
    return str(file)


def _check_needed(parser: Parser, options: argparse.Namespace) -> None:
    """Exit if a required argument is missing."""
    command = options.command
    if options.runs:
        _check_runs(parser, options)
        return
    if command == "report" and options.output is not None:
        parser.error("--output is for several runs: give them as scoresde report RUN RUN ... --output FILE")
    needed = ("config",) if options.dry_run else COMMANDS[command].needed
    if missing := [name for name in needed if getattr(options, name) is None]:
        names = ", ".join(name.upper() if name in ("data", "place") else f"--{name}" for name in missing)
        parser.error(f"the following arguments are required by {command}: {names}")
    if command == "check" and options.config is None and options.process is None:
        parser.error("the following arguments are required by check: --config or --process")
    if options.config is not None and options.process is not None:
        parser.error("--config and --process exclude each other: give one of them")
    flagged = command == "convert" and getattr(options, "from")[0] in FLAGGED
    if command == "convert" and not flagged and options.config is None and options.source_config is None:
        parser.error("the following arguments are required by convert: --source-config or --config")
    if options.dry_run and options.fit_time is not None:
        parser.error("--dry-run and --fit-time exclude each other: give one of them")
    if options.no_measure and options.fit_time is not None:
        parser.error("--no-measure and --fit-time exclude each other: give one of them")
    if options.init_weights is not None and options.init_from is None:
        parser.error("--init-weights requires --init-from")
    if options.source and options.source_config is None and not flagged:
        parser.error(f"{SOURCE}{next(iter(options.source))} requires --source-config")


def _check_runs(parser: Parser, options: argparse.Namespace) -> None:
    """Exit unless the runs to compare are two or more, without flags of a single run."""
    for flag in ("workdir", "config", "trust"):
        if getattr(options, flag):
            parser.error(f"--{flag} is for the report of one run: give it without RUN, or the runs without it")
    if len(options.runs) < 2:
        parser.error(f"one run is given: give two or more, or --workdir {options.runs[0]} for its report")


def _named(parser: Parser, text: str) -> tuple[str, Any]:
    """The name and the value of ``--condition NAME=VALUE``. A value that is no Python literal is a text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier() and value):
        parser.error(f"--condition {shown(text)} is not allowed: give NAME=VALUE, e.g. label=3")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _set_overrides(parser: Parser, options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Add flags that set keys of the config to the overrides. Exit if the command has no config."""
    command = options.command
    for flag in flags_of(command):
        value = getattr(options, flag.attribute)
        if value is not None and flag.setting:
            key = f"{COMMANDS[command].section}.{flag.attribute}"
            if key in overrides:
                parser.error(f"--{flag.name} and --config.{key} set the same value: give one of them")
            overrides[key] = repr(value if flag.several else str(value)) if flag.several or flag.kind is Path else value
    if options.guidance is not None:
        if any(key in overrides for key in ("editing.guidance", "editing.guidance.name")):
            parser.error("--guidance and --config.editing.guidance.name set the same value: give one of them")
        overrides["editing.guidance.name"] = options.guidance
    if getattr(options, "condition", None):
        where = f"{COMMANDS[command].section}.condition"
        if any(key.startswith(where) for key in overrides):
            parser.error(f"--condition and --config.{where} set the same value: give one of them")
        named = [_named(parser, text) for text in options.condition]
        if twice := [name for k, (name, _) in enumerate(named) if name in dict(named[:k])]:
            parser.error(f"--condition gives {twice[0]} two values: give one, or a list for samples that differ")
        overrides[where] = repr(dict(named))
    if overrides and options.runs:
        parser.error(f"{OVERRIDE}{next(iter(overrides))} is for the report of one run")
    if overrides and options.process is not None:
        parser.error(f"{OVERRIDE}{next(iter(overrides))} needs --config: write a function that makes the process")
    if overrides and command not in FLAGS[0].owners:
        parser.error(f"{OVERRIDE}{next(iter(overrides))} is for commands with a config, not for {command}")
