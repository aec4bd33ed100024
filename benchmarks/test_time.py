"""CPU time of the tests: seconds for each folder of tests/, files above the budget of 10 s, and the slowest test functions.

    .venv/bin/python benchmarks/test_time.py                           # the default suite, in one process
    .venv/bin/python benchmarks/test_time.py tests/sde --slowest 40    # any arguments of pytest

The figures are user CPU seconds of the process and of the children that it waited for, so they hardly depend on
what else the machine runs. Fixtures count towards the first test that needs them. `collection` is the import of
torch and of the test files. `--json FILE` keeps the seconds of every test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE_SECONDS = 10.0
"""Budget of a new test file, stated in CONTRIBUTING.md."""


def user_seconds() -> float:
    """User CPU time so far, of this process and of its finished children."""
    now = os.times()
    return now.user + now.children_user


class TestTimes:
    """A pytest plugin that measures each test together with its fixtures."""

    __test__ = False

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.collection = 0.0

    def pytest_collection_finish(self) -> None:
        self.collection = user_seconds()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        start = user_seconds()
        yield
        self.seconds[item.nodeid] = user_seconds() - start


def totals(seconds: dict[str, float], key) -> list[tuple[str, float, int]]:
    """Name, sum of seconds and number of tests of each group, slowest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in seconds.items():
        groups[key(name)].append(value)
    return sorted(((name, sum(values), len(values)) for name, values in groups.items()), key=lambda row: -row[1])


def folder_of(nodeid: str) -> str:
    """The folder of a test."""
    return str(Path(nodeid.partition("::")[0]).parent)


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def print_table(title: str, rows: list[tuple[str, float, int]]) -> None:
    """Seconds, number of tests and name, one group a line."""
    print(f"\n{'seconds':>9} {'tests':>6}  {title}")
    for name, value, count in rows:
        print(f"{value:9.1f} {count:6d}  {name}")


def main(arguments: list[str]) -> int:
    """Run pytest in this process and print the tables; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--slowest", type=int, default=25, help="how many test functions to list")
    parser.add_argument("--json", type=Path, help="file for the seconds of every test")
    options, rest = parser.parse_known_args(arguments)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    times = TestTimes()
    code = pytest.main(["-q", *rest], plugins=[times])
    if options.json:
        options.json.write_text(json.dumps(times.seconds, indent=0))
    print_table("folder", [*totals(times.seconds, folder_of), ("collection", times.collection, 0)])
    print(f"{user_seconds():9.1f} {len(times.seconds):6d}  everything")
    slow = [row for row in totals(times.seconds, file_of) if row[1] > FILE_SECONDS]
    print_table(f"file of more than {FILE_SECONDS:g} s", slow)
    print_table(
        "test function, all its parameters",
        totals(times.seconds, lambda name: name.partition("[")[0])[: options.slowest],
    )
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
