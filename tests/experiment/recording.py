"""A logger that records its calls, in memory and in a file that other processes can read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from scoresde.loggers import LoggedRun, Logger

CALLS: list[tuple] = []
"""Every call of this process, such as ("row", step, values)."""


@dataclass(frozen=True)
class Recorder(Logger):
    """Records calls. ``fails`` is the call that raises; ``file`` gets a line for each process that opens the logger."""

    fails: str = ""
    file: str = ""

    def open(self, start):
        if self.file:
            with open(self.file, "a") as file:
                file.write(json.dumps([os.environ.get("RANK", "0"), start.step]) + "\n")
        CALLS.append(("open", start.id, start.step, start.resumed, start.config))
        if self.fails == "open":
            raise OSError("no server\nsecond line")
        return Recording(self.fails)


class Recording(LoggedRun):
    def __init__(self, fails):
        self.fails = fails

    def metrics(self, values, step):
        CALLS.append(("row", step, dict(values)))
        if self.fails == "metrics":
            raise RuntimeError("quota exceeded")

    def pictures(self, files, step):
        CALLS.append(("pictures", step, {name: file.read_bytes()[:4] for name, file in files.items()}))

    def texts(self, files, step):
        CALLS.append(("texts", step, {name: file.read_text("utf-8") for name, file in files.items()}))

    def close(self, completed):
        CALLS.append(("close", completed))
        if self.fails == "close":
            raise ValueError("cannot close")
