"""Commands, their flags and their help. tests/experiment/test_command_line.py runs whole commands."""

from __future__ import annotations

import re

import pytest

from scoresde.cli import main
from scoresde.command_line.errors import LONGEST, one_line
from scoresde.command_line.flags import COMMANDS, FLAGS, RUNS, flags_of
from scoresde.command_line.parsing import parse


def said(capsys, *arguments):
    """(exit code, standard output, standard error) of a command that ends while its arguments are read."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    found = capsys.readouterr()
    return ended.value.code, found.out, found.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_its_own_flags(capsys, command):
    code, out, err = said(capsys, command, "--help")
    own = {f"--{flag.name}" for flag in flags_of(command)}
    listed = {line.split()[0].rstrip(",") for line in out.splitlines() if line.startswith("  --")}
    assert code == 0 and err == "" and listed == own
    assert out.startswith(f"usage: scoresde {command} ") and ("--config.KEY=VALUE" in out) == (
        command not in ("inspect", "pull")
    )


def test_help_of_the_program_lists_the_commands(capsys):
    code, out, _ = said(capsys, "--help")
    assert code == 0 and all(f"\n    {name}" in out for name in COMMANDS) and "--weights" not in out
    assert said(capsys, "--help", "sample") == said(capsys, "sample", "--help")
    assert said(capsys, "--version")[1] == said(capsys, "train", "--version")[1]


REFUSED = {
    "": "scoresde: a command is missing: give train, sample,",
    "trian": "scoresde: command 'trian' is not known: the commands are train, sample, .* did you mean 'train'",
    "sample --weigths=ema": "scoresde sample: --weigths=ema is not known; did you mean '--weights'",
    "sample --weigths ema": "scoresde sample: --weigths is not known; did you mean '--weights'",
    "sample --drawz=2": "scoresde sample: --drawz=2 is not known (?!.*did you mean)",
    "sample --draws=2": "--draws is a flag of likelihood, not of sample",
    "train --weights=ema": "--weights is a flag of sample, likelihood, evaluate, edit and push, not of train",
    "sample --training.steps=3": "--training.steps=3 is not known; did you mean '--config.training.steps'",
    "sample --confg.seed=1": "--confg.seed=1 is not known; did you mean '--config.seed'",
    "convert --sorce.a=1": "--sorce.a=1 is not known; did you mean '--source.a'",
    "sample here": "'here' is not expected: sample has no positional arguments",
    "sample": "the following arguments are required by sample: --config, --workdir",
    "check": "the following arguments are required by check: --config",
    "inspect": "the following arguments are required by inspect: DATA",
    "inspect x --config.seed=1": "--config.seed is for commands with a config, not for inspect",
    "sample --config": "argument --config: expected one argument",
    "sample --config.seed": "--config.seed needs a value: --config.seed=VALUE",
    "sample --processes=two": "argument --processes: 'two' is not allowed: give a whole number",
    "train --fit-time=long": "argument --fit-time: 'long' is not allowed: give a time such as 90, 90s, 10m or 2h",
    "inspect x --no-measure --fit-time=9": "--no-measure and --fit-time exclude each other: give one of them",
    "inspect x --fit-time=1w": "argument --fit-time: '1w' is not allowed: give a time such as 90, 90s, 10m or 2h",
    "train --config=a --dry-run --fit-time=9": "--dry-run and --fit-time exclude each other: give one of them",
    "sample --workdir nowhere": "--config is required: --workdir nowhere contains no config.json",
    "likelihood --config=a --workdir=b --draws=1 --config.likelihood.draws=2": "set the same value: give one",
    "convert --config=a --workdir=b --from=c": "argument --from: expected 2 arguments",
    "convert --config=a --workdir=b --from c d --source.x=1": "--source.x requires --source-config",
}


@pytest.mark.parametrize("line", REFUSED)
def test_an_error_is_one_line_and_code_2(capsys, line):
    code, out, err = said(capsys, *line.split())
    assert code == 2 and out == "" and err.count("\n") == 1 and err.endswith(" --help)\n")
    assert re.search(REFUSED[line], err), err


def test_flags_may_come_before_the_command():
    for line in (
        "likelihood --workdir train --config c --split train",
        "--workdir train likelihood --config c --split train",
        "--split train --workdir train --config c likelihood",
    ):
        options, overrides = parse(line.split())
        assert (options.command, options.workdir, options.config) == ("likelihood", "train", "c")
        assert overrides == {"likelihood.split": "train"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1e-9", 1e-9), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800)]
)
def test_times(text, seconds):
    for command in ("inspect x.npy", "train --workdir=w --config=c"):
        options, _ = parse([*command.split(), f"--fit-time={text}"])
        assert options.fit_time == pytest.approx(seconds)


def test_options_that_a_command_does_not_have_are_none():
    options, overrides = parse(["inspect", "x.npy", "--side", "8"])
    assert (options.data, options.side, options.trust, options.config, options.dry_run) == (
        "x.npy",
        8,
        None,
        None,
        None,
    )
    assert overrides == {}
    options, overrides = parse(["check", "--config=c", "--trust", "a", "--trust=b", "--config.sde.name", "VESDE"])
    assert options.trust == ["a", "b"] and overrides == {"sde.name": "VESDE"}


def test_settings_of_a_path_are_text():
    assert parse(["evaluate", "--config=c", "--workdir=w", "--samples", "1"])[1] == {"evaluation.samples": "'1'"}


def test_a_flag_takes_several_values_until_the_next_flag_or_command():
    for line in (
        "edit --config c --workdir w --input a.png b.png --task edit",
        "--input a.png b.png edit --config c --workdir w --task edit",
        "edit --config c --workdir w --input a.png --task edit --input b.png",
    ):
        options, overrides = parse(line.split())
        assert options.command == "edit" and options.workdir == "w"
        assert overrides == {"editing.input": "['a.png', 'b.png']", "editing.task": "edit"}


def test_conditions_and_guidance_belong_to_the_section_of_the_command():
    line = "edit --config c --workdir w --condition label=3 --guidance IsotropicMoments --noise-std 2"
    assert parse(line.split())[1] == {
        "editing.condition": "{'label': 3}", "editing.guidance.name": "IsotropicMoments", "editing.noise_std": "2",
    }  # fmt: skip


def test_every_flag_has_owners_and_every_command_its_usage():
    for flag in FLAGS:
        assert set(flag.owners) <= set(COMMANDS), flag
    for name, command in COMMANDS.items():
        words = command.usage.replace("[", " ").replace("]", " ").split()
        flags = {word for word in words if word.startswith("--") and "." not in word}
        assert flags | {"--trust"} >= {f"--{flag.name}" for flag in flags_of(name)} >= flags, name
    assert set(RUNS) < set(COMMANDS)


def test_long_and_broken_lines_become_one():
    assert one_line("it differs:\n  a: 1 -> 2\n  b: 3 -> 4\n") == "it differs: a: 1 -> 2; b: 3 -> 4"
    assert len(one_line("x" * 10_000)) == LONGEST + 5 and one_line("") == ""
