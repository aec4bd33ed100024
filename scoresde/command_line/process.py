"""What a command changes in its process while it runs: the import path, and the handlers of signals."""

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
    """The current folder at the end of Python's path, where the user names code: a config in Python, or "module:Class".

    A command that only reads the config of a folder does not get it, so that nothing is imported from a folder of
    others.
    """
    code = options.config is not None and Path(options.config).suffix != ".json"
    if not (code or options.trust or any(":" in value for value in (options.data or "", *overrides.values()))):
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
    """Inside, SIGTERM interrupts as SIGINT does, since schedulers send it, and SIGINT does so where a shell has a background job ignore it.

    Training finishes its step first, by handlers of its own.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # only the main thread may set handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
