"""Trackio: a project on this machine, shown by ``trackio show``, or in a Hugging Face Space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde.loggers.base import LoggedRun, Logger, RunStart, check_names, require


@dataclass(frozen=True)
class TrackioLogger(Logger):
    """Logs to trackio.

    Trackio stores its projects in its own folder (``TRACKIO_DIR``), not in the work folder. It finds a run by its name, so
    the first 8 digits of the run's id are added to the name.

    Args:
        project: The project.
        name: The name of the run. The name of the work folder unless given.
        space: A Hugging Face Space such as "user/name" that gets the metrics. Without it, they stay on this machine.

    Raises:
        ValueError: If a name is empty.

    Example:
        >>> from scoresde.loggers import TrackioLogger
        >>> TrackioLogger("digits")
        TrackioLogger(project='digits', name=None, space=None)
    """

    project: str = "scoresde"
    name: str | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        check_names(project=self.project, name=self.name, space=self.space)

    def check(self) -> None:
        require("trackio", "trackio")

    def open(self, start: RunStart) -> LoggedRun:
        import trackio

        run = trackio.init(
            project=self.project, name=f"{self.name or start.folder.resolve().name}-{start.id[:8]}", config=dict(start.config),
            space_id=self.space, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        return _Run(run, trackio.Image)


class _Run(LoggedRun):
    def __init__(self, run: Any, image: Any) -> None:
        self.run, self.image = run, image

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        self.run.log({name: self.image(str(file)) for name, file in files.items()}, step=step)

    def close(self, completed: bool) -> None:
        self.run.finish()
