"""A tiny experiment with real digits and a small network, which takes seconds."""

from __future__ import annotations

import importlib
import io
import math
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from scoresde.cli import main

ROOT = Path(__file__).resolve().parents[2]

SMALL = {
    "training.steps": 6,
    "training.batch_size": 8,
    "training.checkpoint_every": 2,
    "training.log_every": 2,
    "network.channels": 8,
    "network.blocks": 1,
    "sampling.count": 5,
    "sampling.batch_size": 3,
    "samplers.predictor-corrector.steps": 3,
    "likelihood.limit": 5,
    "likelihood.batch_size": 3,
    "likelihood.solver": "{'name': 'ScipyODE', 'rtol': 0.05, 'atol': 0.05}",
}

TINY_LEVELS = {
    "network": "{'name': 'MLP', 'width': 16, 'depth': 1}", "network__channels": None, "network__blocks": None,
}  # fmt: skip
"""A very small network that predicts the probabilities of 17 levels, as configured."""
TINY = {**TINY_LEVELS, "model": "{'prediction': 'noise'}"}
"""A very small network that predicts noise, which takes less time."""


class Command:
    """The command line in a real process."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir

    def arguments(self, command, config="vp", **overrides):
        config_file = config if str(config).endswith(".py") else ROOT / "configs" / config / "digits.py"
        values = {**SMALL, **{k.replace("__", "."): v for k, v in overrides.items()}}
        flags = [f"--config.{k}={v}" for k, v in values.items() if v is not None]
        head = [sys.executable, "-m", "scoresde", command, "--config", str(config_file), "--workdir", str(self.workdir)]
        return head + flags

    def __call__(self, command, config="vp", *extra, **overrides):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        call = [*self.arguments(command, config, **overrides), *extra]
        return subprocess.run(call, capture_output=True, text=True, timeout=180, env=environment)


def called(*arguments):
    """``scoresde *arguments`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


class HereCommand(Command):
    """The command line in this process."""

    def __call__(self, command, config="vp", *extra, **overrides):
        return called(*self.arguments(command, config, **overrides)[3:], *extra)


class CopyCommand(HereCommand):
    """The command line in a copy of a folder, with its own settings. It asserts the exit code."""

    def __init__(self, folder, place, **settings):
        super().__init__(place / "run")
        self.settings = settings
        shutil.copytree(folder, self.workdir)

    def __call__(self, verb, *extra, code=0, **overrides):
        done = super().__call__(verb, "vp", *extra, **{**self.settings, **overrides})
        assert done.returncode == code, done.stdout + done.stderr
        return done


class Ended(NamedTuple):
    """A folder in which commands were run, and the output of the last one."""

    workdir: Path
    said: str


def ended(factory, *verbs, **settings):
    """A folder in which these commands were run, and the output of the last one."""
    command = HereCommand(factory.mktemp("trained") / "run")
    for verb in verbs:
        done = command(verb, **settings)
        assert done.returncode == 0, done.stderr
    return Ended(command.workdir, done.stdout)


@pytest.fixture(scope="session", autouse=True)
def baselines_once():
    """The baselines of a data set in a report are fitted once for all tests: a fit takes seconds."""
    report, known = importlib.import_module("scoresde.experiment.reports.report"), {}
    fitted = report.baselines

    def remembered(experiment):
        key = experiment.data.train.digest(), experiment.data.test.digest()
        if key not in known:
            known[key] = fitted(experiment)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "baselines", remembered)
        yield


@pytest.fixture(scope="session", autouse=True)
def curves_once():
    """Curves of a report with as many lines and the same finite points are drawn once: a report takes a second otherwise.

    Later ones get the picture of the first. The first of each kind, and ``curve_picture`` called by a test, are drawn.
    """
    training, known = importlib.import_module("scoresde.experiment.reports.training"), {}
    drawn = training.curve_picture

    def remembered(steps, lines):
        key = len(steps), tuple(tuple(math.isfinite(value) for value in values) for values in lines.values())
        if key not in known:
            known[key] = drawn(steps, lines)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "curve_picture", remembered)
        yield


@pytest.fixture
def here(tmp_path):
    return HereCommand(tmp_path / "run")


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path / "run")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A trained run with samples, a likelihood and an evaluation. Tests do not change it."""
    from tests.experiment.hub_common import FEW

    return ended(tmp_path_factory, "train", "sample", "likelihood", "evaluate", **FEW).workdir


@pytest.fixture(scope="session")
def edit_folder(tmp_path_factory):
    """A run that is hardly trained, pictures for `scoresde edit`, and a mask. Tests do not change it."""
    from tests.experiment.edit_common import make_run

    folder = tmp_path_factory.mktemp("edit")
    make_run(folder)
    return folder


@pytest.fixture
def place(edit_folder, tmp_path):
    """A copy of that folder."""
    shutil.copytree(edit_folder, tmp_path, dirs_exist_ok=True)
    return tmp_path
