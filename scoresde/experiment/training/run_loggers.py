"""The loggers of a run, as the main process uses them.

    loggers/NAME.json      the id of the logged run, the last step whose row it got, and the last step whose pictures it got

The steps are written before the row is passed on, so a run that is killed in between and resumed from an older checkpoint logs no
step twice. A logger that raises an exception is left out for the rest of the command, with one warning.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from scoresde._files import read_sealed, write_sealed
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import to_json
from scoresde.experiment.folder.header import whole_number
from scoresde.experiment.folder.shown_events import TEXT
from scoresde.experiment.folder.workdir import Workdir
from scoresde.loggers import LoggedRun, Logger, RunStart


@dataclass(frozen=True)
class LoggedSteps:
    """The content of loggers/NAME.json."""

    id: str
    row: int = 0
    pictures: int = 0

    @classmethod
    def read(cls, file: Path) -> LoggedSteps | None:
        """The content of a file, or None if there is none. Raises ValueError if it is damaged."""
        try:
            content = read_sealed(file)
        except FileNotFoundError:
            return None
        if not isinstance(content.get("id"), str) or not content["id"].isalnum() or len(content["id"]) > 64:
            raise ValueError(f"{file} has no id of a logged run")
        return cls(content["id"], *(whole_number(name, content.get(name)) for name in ("row", "pictures")))


def check_loggers(loggers: Mapping[str, Logger]) -> None:
    """Raise ConfigError if a logger cannot be used, for example because its package is missing."""
    for name, logger in loggers.items():
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"loggers[{name!r}]={logger!r} is not a Logger: give a subclass of scoresde.loggers.Logger"
            )
        try:
            logger.check()
        except (ImportError, ValueError) as problem:
            raise ConfigError(f"config.loggers.{name}: {problem}") from problem


class RunLoggers:
    """The open loggers of a run.

    Args:
        loggers: Loggers by name.
        experiment: The experiment.
        workdir: The work folder.
        step: The step at which training continues.
    """

    def __init__(self, loggers: Mapping[str, Logger], experiment: Experiment, workdir: Workdir, step: int) -> None:
        self.workdir, self.step, self.config = workdir, step, json.loads(to_json(experiment.config))
        self._open: dict[str, tuple[Logger, LoggedRun]] = {}
        self._steps: dict[str, LoggedSteps] = {}
        for name, logger in loggers.items():
            self._guarded(name, partial(self._start, name, logger))

    def metrics(self, row: Mapping[str, float]) -> None:
        """Pass a row of metrics.csv to every logger that has not got its step."""
        step, values = int(row["step"]), {key: value for key, value in row.items() if key != "step"}
        for name, (logger, run) in list(self._open.items()):
            if logger.replaces or step > self._steps[name].row:
                self._pass(name, partial(run.metrics, values, step), row=step)

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        """Pass pictures or texts of a step to every logger that has not got them, and no later row."""
        texts = all(file.suffix == TEXT for file in files.values())
        for name, (logger, run) in list(self._open.items()):
            late = step <= self._steps[name].pictures or step < self._steps[name].row
            if files and (logger.replaces or not late):
                self._pass(name, partial(run.texts if texts else run.pictures, files, step), pictures=step)

    def close(self, completed: bool) -> None:
        """Close every logger."""
        for name, (_, run) in list(self._open.items()):
            self._guarded(name, partial(run.close, completed))
        self._open.clear()

    def _start(self, name: str, logger: Logger) -> None:
        file = self._file(name)
        try:
            known = LoggedSteps.read(file)
        except ValueError as problem:
            self.workdir.log(f"{self.workdir.path}: {problem}: logger {name} starts a new logged run")
            known = None
        self._steps[name] = known or LoggedSteps(secrets.token_hex(8))
        if known is None:
            write_sealed(file, asdict(self._steps[name]))
        start = RunStart(self.workdir.path, self.config, self._steps[name].id, self.step, known is not None)
        self._open[name] = logger, logger.open(start)

    def _pass(self, name: str, action: Callable[[], object], **reached: int) -> None:
        """Record what a logger gets, then pass it on."""
        self._steps[name] = replace(self._steps[name], **reached)  # type: ignore[arg-type]

        def both() -> None:
            write_sealed(self._file(name), asdict(self._steps[name]))
            action()

        self._guarded(name, both)

    def _guarded(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as problem:
            self._open.pop(name, None)
            first = next(iter(str(problem).strip().splitlines()), "")
            self.workdir.log(
                f"{self.workdir.path}: WARNING: logger {name} failed and is left out from here on, training continues: "
                f"{type(problem).__name__}: {first[:400]}"
            )

    def _file(self, name: str) -> Path:
        return self.workdir.path / "loggers" / f"{name}.json"


@contextmanager
def run_loggers(
    loggers: Mapping[str, Logger], experiment: Experiment, workdir: Workdir, step: int
) -> Iterator[RunLoggers]:
    """The open loggers of a run, which are closed at the end, however it comes about."""
    opened, completed = RunLoggers(loggers, experiment, workdir, step), False
    try:
        yield opened
        completed = True
    finally:
        opened.close(completed)
