"""Extractors that tests name in configs."""

from __future__ import annotations

import os
import time

from scoresde.metrics import Coordinates


class Slow(Coordinates):
    """Sleeps for each batch, so that there is time for a kill. The environment sets the time."""

    def features(self, raw):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().features(raw)


class Stopping(Coordinates):
    """Is interrupted at one of its batches; `after` counts down."""

    after = -1

    def features(self, raw):
        Stopping.after -= 1
        if Stopping.after == 0:
            raise KeyboardInterrupt
        return super().features(raw)


class Dropping(Coordinates):
    """A planted fault: drops the last event of a batch."""

    def features(self, raw):
        return super().features(raw)[:-1]


class Levels(Coordinates):
    """The values of the data, without the transform."""

    scaling = "data"


class Neither(Coordinates):
    """A planted fault: a scaling that does not exist."""

    scaling = "bytes"
