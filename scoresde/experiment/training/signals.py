"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 3.0
"""Seconds in which a launcher's processes take signals for one: the terminal and torchrun both pass it on."""


@contextmanager
def catch_signals(world: int = 1) -> Iterator[Callable[[], bool]]:
    """While inside, the first SIGINT or SIGTERM is only noted, and the function that is given says whether there was one; a
    second one raises KeyboardInterrupt at once. world: processes of the run."""
    noted: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted and (world == 1 or time.monotonic() - noted[0] > GRACE):
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    # only the main thread may set handlers; elsewhere Python's own stay
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
