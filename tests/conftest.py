"""Shared by all tests: one thread, the worst deviations from the parity data, listed at the end of the run."""

from __future__ import annotations

import pytest
import torch

from tests.params import mark_long_cells, say_markers

torch.set_num_threads(1)

_WORST: dict[str, float] = {}


@pytest.fixture
def worst():
    """``worst(group, error)`` keeps the largest error of a group for the summary."""

    def note(group: str, error: float) -> None:
        _WORST[group] = max(_WORST.get(group, 0.0), error)

    return note


def pytest_configure(config):
    say_markers(config.option.markexpr)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Before pytest selects by markers."""
    mark_long_cells(items)


def pytest_sessionfinish(session):
    """Under pytest-xdist a worker hands its figures to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worst"] = dict(_WORST)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for group, value in getattr(node, "workeroutput", {}).get("worst", {}).items():
        _WORST[group] = max(_WORST.get(group, 0.0), value)


def pytest_terminal_summary(terminalreporter):
    if _WORST:
        terminalreporter.write_sep("-", "worst deviation from parity data and closed forms")
        for group, error in sorted(_WORST.items()):
            terminalreporter.write_line(f"{group:60s} {error:.2e}")
