"""The command line.

    scoresde train | sample | likelihood | evaluate | edit | report [--config FILE] --workdir DIR [--config.KEY=VALUE ...]
    scoresde train ... [--init-from RUN [--init-weights NAME]] [--fit-time TIME]
    scoresde train --dry-run --config FILE [--config.KEY=VALUE ...]
    scoresde sample ... [--weights NAME] [--processes N]
    scoresde likelihood ... [--split NAME] [--draws N] [--tolerance BITS] [--weights NAME] [--processes N]
    scoresde evaluate ... [--samples PATH] [--weights NAME] [--processes N]
    scoresde edit ... --task NAME --input FILE [FILE ...] [--output DIR] [--mask FILE] [--factor N] [--t TIME] [--noise-std STD]
                  [--guidance NAME] [--sampler NAME] [--samples N] [--condition NAME=VALUE] [--weights NAME] [--processes N]
    scoresde report RUN RUN ... [--output FILE]
    scoresde push PLACE --workdir DIR [--weights NAME ...] [--with-state] [--license ID] [--tag TAG ...] [--public] [--overwrite]
    scoresde pull PLACE --workdir DIR [--overwrite]
    scoresde inspect DATA [--output FILE] [--force] [--side PIXELS] [--channels WHERE] [--fit-time TIME | --no-measure]
    scoresde check --config FILE [--config.KEY=VALUE ...]
    scoresde check --process MODULE:NAME
    scoresde convert --from score_sde_pytorch CHECKPOINT --workdir DIR [--source-config FILE] [--source.KEY=VALUE ...]
                     [--config FILE] [--config.KEY=VALUE ...] [--expected FILE]

Without --config, the first six commands and push use the config.json of the work folder. `scoresde COMMAND --help` shows the
flags of a command.

Exit codes: 0 success; 1 a check failed; 2 the command cannot be carried out, with the reason in one line on standard
error; 3 one of several processes died, and the results of the others are saved; 130 interrupted by SIGINT, SIGTERM or SIGUSR1,
with all finished work saved. Any other code is a bug in scoresde, with a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scoresde.command_line.errors import exit_code
from scoresde.command_line.flags import RUNS
from scoresde.command_line.parsing import parse
from scoresde.command_line.process import current_folder, interruptible

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from scoresde.experiment import Experiment, Workdir


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments. Those of the process unless given.

    Returns:
        The exit code.
    """
    options, overrides = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        with current_folder(options, overrides), interruptible():
            return exit_code(options.command, lambda: _ACTIONS[options.command](options, overrides))
    except KeyboardInterrupt:
        print(f"scoresde {options.command}: interrupted", file=sys.stderr)
        return 130


def _config(options: argparse.Namespace, overrides: dict[str, str]) -> Any:
    from scoresde.experiment import apply_overrides, load_config

    config = load_config(options.config, options.trust or ())
    apply_overrides(config, overrides)
    return config


def _compare(options: argparse.Namespace) -> int:
    """Compare runs, and write the page."""
    from scoresde.experiment import compare_runs

    output = options.output or "comparison.html"
    print(compare_runs(options.runs, output))
    print(output)
    return 0


def _work(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Run a command in a work folder."""
    from scoresde import experiment

    if options.runs:
        return _compare(options)
    config = _config(options, overrides)
    made = experiment.Experiment.from_config(config)
    start = {
        "init_from": options.init_from,
        "init_weights": "ema" if options.init_weights is None else options.init_weights,
    }
    if options.dry_run:
        needs = experiment.dry_run(made, **start)
        print(needs or "", end="\n" if needs else "")
        return 0
    workdir = experiment.Workdir(options.workdir)
    if options.fit_time is not None:
        made = _fitted(made, config, workdir, options.fit_time)
    shared = {
        "sample": experiment.sample,
        "likelihood": experiment.likelihood,
        "evaluate": experiment.evaluate,
        "edit": experiment.edit_files,
    }
    if options.command == "train":
        experiment.train(made, workdir, **start)
    elif options.command == "report":
        print(experiment.report(made, workdir))
    elif options.command == "push":
        experiment.push(
            made, workdir, options.place, weights=options.weights or ("ema",), state=bool(options.with_state),
            license=options.license, tags=options.tag or (), public=bool(options.public), overwrite=bool(options.overwrite),
        )  # fmt: skip
    else:
        shared[options.command](made, workdir, processes=1 if options.processes is None else options.processes)
    return 0


def _fitted(made: Experiment, config: ConfigDict, workdir: Workdir, seconds: float) -> Experiment:
    """The experiment with the number of steps that fits into a time. An existing run keeps its number of steps."""
    from scoresde.experiment import apply_overrides, steps_within
    from scoresde.experiment.config.loader import read_config

    if workdir.config_file.exists():
        # read as data: the config may name classes that only --trust allows
        kept = read_config(workdir.config_file.read_text()).get("training", {})
        steps = kept.get("steps", type(made.training)().steps)
        print(f"{workdir.path}: this run already has training.steps={steps}")
    else:
        steps = steps_within(made, seconds)
        print(
            f"{workdir.path}: {steps} training steps take about {seconds:g} s here; config.json stores training.steps={steps}"
        )
    apply_overrides(config, {"training.steps": str(steps)})
    return type(made).from_config(config)


def _pull(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from scoresde.experiment import pull

    pull(options.place, options.workdir, overwrite=bool(options.overwrite))
    return 0


def _inspect(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from scoresde.experiment import inspect

    found = inspect(
        options.data, options.output, side=options.side or 0, channels=options.channels or "auto",
        fit_time=options.fit_time, measure=not options.no_measure, force=bool(options.force),
    )  # fmt: skip
    print(found)
    return 0 if found.usable else 1


def _check(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from scoresde.command_line.named import named_process
    from scoresde.experiment import check
    from scoresde.jump import JumpProcess
    from scoresde.jump import check as check_jumps
    from scoresde.product import ProductProcess
    from scoresde.product import check as check_product
    from scoresde.sde import check as check_process

    if options.process is None:
        report = check(_config(options, overrides))
    else:
        process = named_process(options.process)
        if isinstance(process, ProductProcess):
            report = check_product(process)
        else:
            report = check_jumps(process) if isinstance(process, JumpProcess) else check_process(process)
    print(report)
    return 0 if report.passed else 1


def _convert(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from ml_collections import ConfigDict

    from scoresde._validation import check_choice
    from scoresde.experiment import Experiment, apply_overrides
    from scoresde.interop.convert import PROJECT, convert, is_source, source_of
    from scoresde.interop.flagged import convert_flagged, flagged_config
    from scoresde.interop.improved_diffusion import RESCALED

    project, file = getattr(options, "from")
    check_choice("--from", project, (PROJECT, *RESCALED))
    if project in RESCALED:
        for name in ("source_config", "expected"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for score_sde_pytorch: {project} has flags, --source.KEY=VALUE"
                )
        if options.config is None:
            config = ConfigDict(flagged_config(project, file, options.source))
            apply_overrides(config, overrides)
        elif options.source:
            raise ValueError("--source.KEY=VALUE and --config exclude each other: give one of them")
        else:
            config = _config(options, overrides)
        print(convert_flagged(file, Experiment.from_config(config), options.workdir))
        return 0
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
    **dict.fromkeys(RUNS, _work), "inspect": _inspect, "check": _check, "convert": _convert, "pull": _pull,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
