"""The interface of loggers.

    Logger.check()          before training: is the package installed, are the settings possible?
    Logger.open(start)      a `LoggedRun`, when training starts or is resumed
    LoggedRun.metrics       a row of numbers
    LoggedRun.pictures      files of pictures
    LoggedRun.texts         files of texts
    LoggedRun.close         the end of the command

A logger holds settings only, so that it can be printed, compared and written in a config. What is open is a `LoggedRun`.

A run may be killed and resumed from a checkpoint that is older than the last logged row. The caller therefore stores the last
logged step in the work folder, and does not pass a row of that step or an earlier one again. A logger that can replace rows
has ``replaces = True`` and gets all rows after ``start.step``.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class RunStart:
    """The arguments of a logger when training starts or is resumed.

    Args:
        folder: The work folder.
        config: The config of the run, as nested dictionaries.
        id: An identifier of the logged run, 16 hex digits. It is stored in the work folder, and is the same after a restart.
        step: The step at which training continues; 0 at the start.
        resumed: Whether this logger has logged this run before.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    step: int = 0
    resumed: bool = False


class LoggedRun(ABC):
    """A run that is being logged. Its methods may raise: the run then continues without this logger."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers.

        Args:
            values: Numbers by name. A mean of no values is NaN.
            step: The training step. It increases from call to call.
        """

    def pictures(self, files: Mapping[str, Path], step: int) -> None:  # noqa: B027  (optional)
        """Log pictures of samples. Does nothing unless a subclass defines it.

        Args:
            files: PNG files by name.
            step: The training step.
        """

    def texts(self, files: Mapping[str, Path], step: int) -> None:  # noqa: B027  (optional)
        """Log texts of samples. Does nothing unless a subclass defines it.

        Args:
            files: Text files (UTF-8) by name.
            step: The training step.
        """

    def close(self, completed: bool) -> None:  # noqa: B027  (optional)
        """End the logged run for now. Does nothing unless a subclass defines it.

        Args:
            completed: Whether training has reached its last step. False if it was interrupted or failed.
        """


class Logger(ABC):
    """Base class of loggers. Only the main process of a run uses them."""

    replaces: ClassVar[bool] = False
    """Whether `open` drops the rows after ``start.step``, so that they can be logged again."""

    def check(self) -> None:  # noqa: B027  (optional)
        """Check, before training starts, that the logger can be used. Does nothing unless a subclass defines it.

        Raises:
            ImportError: If a package is missing. The message has the command that installs it.
            ValueError: If the settings cannot be used here.
        """

    @abstractmethod
    def open(self, start: RunStart) -> LoggedRun:
        """Start to log a run, or continue to log it.

        Args:
            start: The run.

        Returns:
            The run as it is logged.
        """


def require(package: str, extra: str) -> None:
    """Raise ImportError, with the command that installs it, if a package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"the package {package} is not installed: pip install 'scoresde[{extra}]'")


def check_names(**names: str | tuple[str, ...] | None) -> None:
    """Raise ValueError for an empty name, or a list with one."""
    for key, value in names.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise ValueError(f"{key}={value!r} is not allowed: give a name, or leave it out")
