"""Exit codes and error messages. An expected error is reported in one line on standard error."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable

LONGEST = 1500
"""Largest number of characters of an error message."""


def exit_code(command: str, action: Callable[[], int]) -> int:
    """Run a command.

    Args:
        command: Its name, for messages.
        action: The command.

    Returns:
        The exit code. After an expected error it is 2 or 3, and a line is printed to standard error. Bugs are raised.
    """
    from scoresde import experiment
    from scoresde.solvers import SolverError

    expected = (
        experiment.ConfigError, experiment.CheckpointError, experiment.WorkdirError, SolverError, FloatingPointError, OSError,
        ValueError,
    )  # fmt: skip
    try:
        return action()
    except expected as problem:
        return _report(command, str(problem), 2)
    except experiment.WorkerError as problem:
        return _report(command, str(problem), 3)
    except TypeError as problem:
        if not _on_purpose(problem):
            raise
        return _report(command, str(problem), 2)
    except (MemoryError, RuntimeError) as problem:
        if not experiment.is_out_of_memory(problem):
            raise
        return _report(command, "out of memory: give a smaller batch_size or smaller sizes", 2)


def one_line(text: str) -> str:
    """The text in one line. The middle of a long text is left out, because a value in it can have any length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    joined = "".join(line + (" " if line.endswith((":", ",", ";", ".")) else "; ") for line in lines[:-1])
    joined += lines[-1] if lines else ""
    half = LONGEST // 2
    return f"{joined[:half]} ... {joined[-half:]}" if len(joined) > LONGEST else joined


def _report(command: str, text: str, code: int) -> int:
    print(one_line(f"scoresde {command}: {text}"), file=sys.stderr)
    return code


def _on_purpose(problem: BaseException) -> bool:
    """Whether an exception comes from a ``raise`` in scoresde, and not from a bug."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not place.tb_frame.f_globals.get("__name__", "").startswith("scoresde."):
        return False
    return place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
