"""Weights & Biases. Offline runs lie in the folder ``wandb`` of the run, and ``wandb sync`` sends them later."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scoresde._validation import check_choice
from scoresde.loggers.base import LoggedRun, Logger, RunStart, check_names, require

MODES = ("auto", "offline", "online")


@dataclass(frozen=True)
class WandbLogger(Logger):
    """Logs to Weights & Biases.

    Without an API key, the default mode writes offline files and contacts no server. No mode asks a question. Each start of a
    command writes its own offline folder, ``wandb/offline-run-*``. All folders of a run have the same id. ``wandb sync`` sends
    them.

    Args:
        project: The project.
        name: The name of the run. The name of the work folder unless given.
        entity: The user or team. The default of the account unless given.
        mode: "offline", "online", or "auto": online if ``WANDB_API_KEY`` or the netrc file has an API key, unless ``WANDB_MODE``
            says otherwise; offline without a key.
        tags: Tags of the run.

    Raises:
        ValueError: If ``mode`` is not known, or a name is empty.

    Example:
        >>> from scoresde.loggers import WandbLogger
        >>> WandbLogger("digits", mode="offline").mode
        'offline'
    """

    project: str = "scoresde"
    name: str | None = None
    entity: str | None = None
    mode: str = "auto"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names(project=self.project, name=self.name, entity=self.entity, tags=self.tags)
        check_choice("mode", self.mode, MODES)

    def check(self) -> None:
        require("wandb", "wandb")
        if self.chosen_mode == "online" and not has_key():
            raise ValueError(
                "mode='online' needs an API key of Weights & Biases: set WANDB_API_KEY, run wandb login, or give mode='offline'"
            )

    @property
    def chosen_mode(self) -> str:
        """The mode of a run that starts now: "online", "offline", or another value of ``WANDB_MODE``."""
        if self.mode != "auto":
            return self.mode
        return os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")

    def open(self, start: RunStart) -> LoggedRun:
        import wandb

        mode: Any = self.chosen_mode
        run = wandb.init(
            project=self.project, entity=self.entity, name=self.name or start.folder.resolve().name, id=start.id,
            resume="allow", mode=mode, dir=str(start.folder), config=dict(start.config), tags=list(self.tags) or None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        return _Run(run, wandb.Image)


class _Run(LoggedRun):
    def __init__(self, run: Any, image: Any) -> None:
        self.run, self.image = run, image

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        self.run.log({name: self.image(str(file)) for name, file in files.items()}, step=step)

    def close(self, completed: bool) -> None:
        self.run.finish(exit_code=0 if completed else 1)


def has_key() -> bool:
    """Whether the environment or the netrc file has an API key of Weights & Biases. The key itself is not returned."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    places = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in (Path(place).expanduser() for place in places if place):
        try:
            if netrc.netrc(str(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
