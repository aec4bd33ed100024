"""Changes of the process while a command runs: the import path, and signal handlers."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def current_folder(options: argparse.Namespace, overrides: Mapping[str, str]) -> Iterator[None]:
    """Add the current folder to the end of Python's path if the user names code: a Python config, or "module:Class".

    A command that only reads the config of a work folder does not get it, so nothing is imported from a folder of
    unknown origin.
    """
    code = options.config is not None and Path(options.config).suffix != ".json"
    if not (
        code
        or options.trust
        or options.process
        or any(":" in value for value in (options.data or "", *overrides.values()))
    ):
        yield
        return
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(folder)
        sys.path.reverse()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 interrupt like SIGINT, because schedulers send them.

    SIGINT works even if a shell made the process, a background job, ignore it. Training has its own handlers, which finish the
    step first.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
