"""The architecture: an import goes down only, strings live on the upper floors, no file of the project names a machine."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import scoresde.sde

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scoresde"

FLOORS = [
    {"_validation", "_files", "_representation", "version"},
    {"_kinds"},
    {"_arguments"},
    {"conditions"},
    {
        "noise",
        "filters",
        "noise_distributions",
        "solvers",
        "networks",
        "data",
        "metrics",
        "ema",
        "loggers",
        "operators",
    },
    {"sde"},
    {"score", "distributions"},
    {"losses", "samplers", "likelihood", "guidance"},
    {"tasks", "schedules", "jump"},
    {"product"},
    {"interop", "experiment"},
    {"command_line"},
    {"cli"},
    {"__main__"},
]
# rooms of one floor that may not know each other; the others may
STRANGERS = {"losses", "samplers", "likelihood", "guidance", "networks", "metrics", "loggers"}
# the transform of quantized data and the keyed noise lie at the bottom of their floor
NEIGHBORS = {
    ("solvers", "noise"),
    ("filters", "noise"),
    ("data", "noise"),
    ("data", "operators"),
    ("operators", "noise"),
    ("noise_distributions", "noise"),
    ("metrics", "noise"),
    ("distributions", "score"),
    ("interop", "experiment"),
}


# the parts of a package, lowest first: a part imports lower ones, and parts of its own level only where named
SUB_PACKAGES = {
    "sde": [
        {"base", "autodiff", "linalg"},
        {"linear", "nonlinear", "scores"},
        {"scalar"},
        {"processes", "gaussian_flow"},
        {"checks"},
    ],
    "score": [
        {"labels", "level_decoder", "predictions", "conditional"},
        {"kernels"},
        {"base"},
        {"origin", "model", "quantized", "subspace", "classifier"},
        {"energy", "features", "denoising", "step_terms"},
        {"data_variance"},
        {"learned_variance"},
    ],
    "distributions": [{"linear_gaussian", "data_variance"}, {"mixture"}, {"empirical"}],
    "jump": [
        {"keep", "states", "ratio_sums"},
        {"forward"},
        {"base"},
        {"replacing", "matrix", "grids", "confidences", "models", "oracles", "known", "counted", "importance"},
        {"markov"},
        {"sampler", "guidance"},
        {"stepwise", "exact", "unmasking", "corrected", "bounds"},
        {"checks", "objectives", "likelihood"},
        {"score_entropy"},
    ],
    "product": [{"process"}, {"models", "mixture", "sampler", "bounds"}, {"objectives", "likelihood", "checks"}],
    "schedules": [
        {"dynamic_programming", "levels"},
        {"costs"},
        {"chain_bound", "step_network"},
        {"step_grid"},
        {"bddm"},
    ],
    "samplers": [
        {"arguments", "grids", "hooks", "instants", "populations"},
        {"base", "discretization"},
        {"grid_sampler"},
        {"exponential"},
        {"predictor_corrector", "adaptive"},
        {"fitted", "reverse_kernels"},
        {"particles"},
        {"checks"},
    ],
    "experiment": [{"config"}, {"folder"}, {"training", "results"}, {"jobs", "inspection"}, {"reports"}, {"hub"}],
}
WITHIN = {("samplers", "grids", "arguments")}
# what a part may not import though it lies lower
APART = {("experiment", "inspection", "folder")}


def floor_of(room):
    return next((k for k, rooms in enumerate(FLOORS) if room in rooms), None)


def room_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_rooms(tree):
    """Rooms of scoresde that a module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "scoresde":
                names = [f"scoresde.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("scoresde."):
                yield name.split(".")[1]


def upward(source, room):
    """Imports of ``source``, a file of ``room``, that do not go down."""
    for other in imported_rooms(ast.parse(source)):
        if other == room:
            continue
        here, there = floor_of(room), floor_of(other)
        if there is None or there > here or (there == here and ((room, other) not in NEIGHBORS or other in STRANGERS)):
            yield other


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(path)
    assert floor_of(room) is not None, f"{room} has no floor: give it one here and in docs/architecture.md"
    assert list(upward(path.read_text(), room)) == []


def part_of(path):
    """The part of its package that a file belongs to; None for the package's own __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return None if len(parts) < 2 or parts[1] == "__init__" else parts[1]


def upward_parts(source, package, part):
    """Imports of ``source``, a file of ``part``, of parts of the same package that do not lie lower, but for types."""
    level = {name: k for k, names in enumerate(SUB_PACKAGES[package]) for name in names}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"scoresde.{package}."):
            other = node.module.split(".")[2]
            if other == part or (package, part, other) in WITHIN:
                continue
            if level[other] >= level[part] or (package, part, other) in APART:
                yield other


IN_PARTS = [p for p in FILES if room_of(p) in SUB_PACKAGES and part_of(p)]


@pytest.mark.parametrize("path", IN_PARTS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_within_a_package_go_down(path):
    package, part = room_of(path), part_of(path)
    assert any(part in level for level in SUB_PACKAGES[package]), (
        f"{package}.{part} has no level: give it one in SUB_PACKAGES"
    )
    assert list(upward_parts(path.read_text(), package, part)) == []


def test_an_upward_import_within_a_package_is_seen():
    assert list(upward_parts("from scoresde.experiment.jobs.job import run_job", "experiment", "folder")) == ["jobs"]
    assert list(upward_parts("from scoresde.sde.processes.vp import VPSDE", "sde", "scalar")) == ["processes"]
    assert list(upward_parts("from scoresde.experiment.config.loader import load_config", "experiment", "jobs")) == []


FOLDERS = sorted(p.parent for p in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_no_module_is_hidden_by_a_name_of_its_package(folder):
    """`scoresde.metrics.crps` cannot be both a module and a function."""
    name = ".".join(folder.relative_to(PACKAGE.parent).parts)
    package = importlib.import_module(name)
    for module in [p.stem for p in folder.glob("*.py") if p.stem != "__init__"] + [
        p.parent.name for p in folder.glob("*/__init__.py")
    ]:
        value = getattr(package, module, None)
        assert value is None or inspect.ismodule(value), f"{name}.{module} is a module, and {value!r}"


def test_an_upward_import_is_seen():
    assert list(upward("from scoresde.samplers import Sampler", "sde")) == ["samplers"]
    assert list(upward("def f():\n    import scoresde.experiment.training.loop", "losses")) == ["experiment"]
    assert list(upward("from scoresde.samplers import walk", "losses")) == ["samplers"]
    assert list(upward("from scoresde import cli", "samplers")) == ["cli"]
    assert list(upward("from scoresde.sde import VPSDE", "samplers")) == []


# every process that a user can make; the abstract bases may be named
PROCESSES = {
    name
    for name in scoresde.sde.__all__
    if inspect.isclass(thing := getattr(scoresde.sde, name)) and issubclass(thing, scoresde.sde.SDE)
} - {"SDE", "LinearSDE", "ScalarSDE", "ScheduleSDE", "ModewiseSDE", "LogSNRSDE", "Chain"}


@pytest.mark.parametrize("room", ["losses", "samplers", "likelihood"])
def test_no_process_is_named_above_its_floor(room):
    """Docstrings may; code may not."""
    for path in (PACKAGE / room).rglob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        imported = {
            a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) for a in n.names
        }
        assert not PROCESSES & (names | imported), path


def test_no_fixed_event_rank():
    for path in FILES:
        assert "None, None, None" not in path.read_text(), f"{path} assumes images"


# the two readers of foreign pickles, each with the one form that executes nothing; hostile files are tried on them in
# tests/test_data.py and tests/interop
READERS = {
    "data/formats.py": {"from pickle import Unpickler, UnpicklingError": 1, "def find_class": 1},
    "interop/reference_file.py": {r"torch\.load\([^()]*weights_only=True\)": 1},
}


def test_no_pickle_is_read():
    for path in FILES:
        source = path.read_text()
        for form, times in READERS.get(path.relative_to(PACKAGE).as_posix(), {}).items():
            source, found = re.subn(form, "", source)
            assert found == times, (path, form)
        assert not re.search(r"\b(pickle|torch\.load|joblib\.load|allow_pickle=True)\b", source), path


def test_no_file_names_a_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    places = re.compile("(?<![\\w.])/" + "(work|root|home|tmp)/[a-z]")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".cfg", ".toml", ".txt", ".ipynb", ""} and path.is_file():
            found = places.search(path.read_text(errors="ignore"))
            assert found is None, f"{name}: {found.group(0) if found else ''}"
