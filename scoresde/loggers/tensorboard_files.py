"""TensorBoard's event files, in the folder ``tensorboard`` of the run: ``tensorboard --logdir runs``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from scoresde.loggers.base import LoggedRun, Logger, RunStart, require


class TensorBoardLogger(Logger):
    """Writes the event files of TensorBoard to ``tensorboard/`` in the work folder.

    A resumed run drops the rows after its checkpoint. A config without a section ``loggers`` uses this logger if the package
    tensorboard is installed.

    Example:
        >>> from scoresde.loggers import TensorBoardLogger
        >>> TensorBoardLogger()
        TensorBoardLogger()
    """

    replaces: ClassVar[bool] = True

    def check(self) -> None:
        require("tensorboard", "tensorboard")

    def open(self, start: RunStart) -> LoggedRun:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(start.folder / "tensorboard"), purge_step=start.step + 1)
        if not start.step:
            board.add_text("config", f"```\n{json.dumps(start.config, indent=2, default=str)}\n```")
        return _Board(board)


def as_code(text: str) -> str:
    """A text that Markdown shows as it is: every line is indented by four spaces."""
    return "\n".join(f"    {line}" for line in text.splitlines())


class _Board(LoggedRun):
    def __init__(self, board: Any) -> None:
        self.board = board

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()

    def pictures(self, files: Mapping[str, Path], step: int) -> None:
        for name, file in files.items():
            self.board.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")
        self.board.flush()

    def texts(self, files: Mapping[str, Path], step: int) -> None:
        for name, file in files.items():
            self.board.add_text(name, as_code(file.read_text("utf-8")), step)
        self.board.flush()

    def close(self, completed: bool) -> None:
        self.board.close()
