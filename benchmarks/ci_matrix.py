"""Runs lint, types and the default tests with each Python and the oldest and newest torch that are found on this machine.

    python benchmarks/ci_matrix.py [--pythons 3.10 3.11 3.12 3.13] [--torch oldest newest] [--quick]

Each combination gets a new virtual environment in a temporary folder. "oldest" installs the lowest version of torch that
setup.cfg allows, and "newest" the versions of constraints.txt. If a Python is not installed, or the package index does not
have a version, the row says so. ``--quick`` imports the package, checks the types, and runs the tests of the processes
and losses only.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
QUICK = ("tests/sde/test_processes.py", "tests/losses", "tests/test_imports.py")


def oldest_torch() -> str:
    """The lowest version of torch that setup.cfg allows."""
    found = re.search(r"^\s+torch>=(\S+)", (HERE / "setup.cfg").read_text(), re.M)
    assert found is not None
    return found[1]


def called(*command: str | Path) -> str:
    """An empty text if a command succeeds, or else the last line of its output."""
    done = subprocess.run([str(part) for part in command], cwd=HERE, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")


def result(python: str, torch: str, quick: bool) -> str:
    """What became of one combination, in one line."""
    interpreter = shutil.which(f"python{python}")
    if interpreter is None or called(interpreter, "--version"):  # a pyenv shim without its Python
        return "not run: this Python is not installed"
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        own = environment / "bin" / "python"
        constraints = Path(folder) / "constraints.txt"
        text = (HERE / "constraints.txt").read_text()
        if torch == "oldest":  # numpy and the others as pip finds them for this torch
            text = f"torch=={oldest_torch()}.*\n"
        constraints.write_text(text)
        if problem := called(interpreter, "-m", "venv", environment):
            return f"no environment: {problem}"
        pip = (own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        if problem := called(*pip, "-c", constraints, "-e", ".[dev]"):
            return f"not installed: {problem}"
        version = subprocess.run(
            [str(own), "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
        )
        for name, command in (
            ("import", (own, "-c", "import scoresde")),
            ("mypy", (own, "-m", "mypy")),
            ("tests", (own, "-m", "pytest", "-q", *(QUICK if quick else ()))),
        ):
            if (name != "mypy" or torch == "newest") and (problem := called(*command)):
                return f"torch {version.stdout.strip()}: {name} failed: {problem}"
        return f"torch {version.stdout.strip()}: passed"


def main() -> None:
    """Print a row for each combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    parser.add_argument("--torch", nargs="+", default=("oldest", "newest"), choices=("oldest", "newest"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for python in options.pythons:
        for torch in options.torch:
            print(f"| {python} | {torch} | {result(python, torch, options.quick)} |", flush=True)


if __name__ == "__main__":
    main()
