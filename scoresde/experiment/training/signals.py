"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 3.0
"""Seconds during which several signals count as one.

Both the terminal and torchrun forward a signal to the processes.
"""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a run to stop. Schedulers send SIGTERM, or SIGUSR1 where a job asks for it before its time limit."""


@contextmanager
def catch_signals(world: int = 1) -> Iterator[Callable[[], bool]]:
    """Catch SIGINT, SIGTERM and SIGUSR1, and yield a function that tells whether one was received.

    The first signal is only recorded. A second one raises KeyboardInterrupt at once. ``world`` is the number of
    processes of the run.
    """
    noted: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted and (world == 1 or time.monotonic() - noted[0] > GRACE):
            raise KeyboardInterrupt
        noted.append(time.monotonic())

    # only the main thread may set handlers; in other threads Python's handlers remain
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in STOPPING} if main else {}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
