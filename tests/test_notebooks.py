"""The notebooks run from a clean kernel, in an empty folder, with training cut to a handful of steps."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1.5e6
"""Bytes of a stored notebook, outputs included: a code host should show it at once."""


def executed(path, folder, patch):
    """The notebook after a run in ``folder``; CellExecutionError has the traceback of a cell that fails."""
    patch.setenv("SCORESDE_NOTEBOOK_FAST", "1")
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # this tree's code, wherever the kernel runs
    patch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows pictures in the notebook
    resources = {"metadata": {"path": str(folder)}}
    book = nbformat.read(path, as_version=4)
    return nbclient.NotebookClient(book, timeout=240, kernel_name="python3", resources=resources).execute()


def outputs(book):
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(book):
    return "".join(output.text for output in outputs(book) if output.output_type == "stream")


def pictures(book):
    return [output for output in outputs(book) if "image/png" in output.get("data", {})]


def named(stem):
    return next(path for path in NOTEBOOKS if path.stem == stem)


def test_the_notebooks_are_there():
    wanted = {
        "quickstart.ipynb",
        "processes.ipynb",
        "conditions.ipynb",
        "guidance.ipynb",
        "bounds.ipynb",
        "discrete.ipynb",
    }
    assert wanted <= {path.name for path in NOTEBOOKS}


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    """No error, and as many pictures and lines as the stored outputs have."""
    book, stored = executed(path, tmp_path, monkeypatch), nbformat.read(path, as_version=4)
    assert not [output for output in outputs(book) if output.output_type == "error"]
    assert len(pictures(book)) == len(pictures(stored))
    for word in ("bits/dim", "nats"):
        assert printed(book).count(word) == printed(stored).count(word)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_valid_with_its_full_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "stored from a partial run"
    assert len(pictures(book)) >= 7
    assert path.stat().st_size < LARGEST


def test_stored_quickstart_reports_a_trained_model():
    """What is stored comes from a full run: the trained digits beat independent pixels, the trained score is near the exact."""
    book = nbformat.read(named("quickstart"), as_version=4)
    lines = printed(book).splitlines()

    def figure(start):
        return float(next(line for line in lines if line.startswith(start)).removeprefix(start).split()[0])

    assert figure("score model") < figure("independent pixels") < figure("uniform levels")
    assert abs(figure("trained score: flow - mixture =")) < 0.1
    assert abs(figure("exact score: flow - mixture =")) < 1e-3


def test_stored_processes_reports_exact_densities():
    """What is stored comes from a full run: the flow gives the closed form where the prior is p_T, and is off where it is not."""
    lines = printed(nbformat.read(named("processes"), as_version=4)).splitlines()
    found = [re.match(r"(.+?) +flow - exact: mean (\S+) nats, at t_min (\S+) nats", line) for line in lines]
    at_t_min = {match[1]: abs(float(match[3])) for match in found if match}
    assert len(at_t_min) == 10
    for name, error in at_t_min.items():
        assert (1e-2 < error < 0.1) if name in ("VE", "EDM") else error < 1e-3, (name, error)


def test_stored_conditions_reports_the_accuracy_of_the_exact_densities():
    """What is stored comes from a full run: likelihoods and the classifier that they make are near the exact ones."""
    lines = printed(nbformat.read(named("conditions"), as_version=4)).splitlines()

    def figures(start):
        line = next(line for line in lines if line.startswith(start))
        return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)]

    difference, error = figures("model - exact")
    assert abs(difference) < 0.2 and error < 0.05
    (model, binomial), (exact, _) = figures("accuracy of the model"), figures("accuracy of the exact densities")
    assert exact - 2.0 * binomial < model < exact + 2.0 * binomial
    assert all(figures(f"{count} tokens: the mean")[0] < 0.1 for count in range(1, 5))


def test_stored_guidance_reports_what_the_methods_sample_from():
    """What is stored comes from a full run: closed forms where a method is exact, and evidence within its error."""
    text = printed(nbformat.read(named("guidance"), as_version=4))
    found = {
        name.strip(): (float(m), float(v)) for name, m, v in re.findall(r"(.+?) x_2: mean (\S+), variance (\S+)", text)
    }
    mean, variance = found["closed form"]
    for name in ("exact posterior", "TweedieMoments"):  # 1000 samples: four standard errors
        assert abs(found[name][0] - mean) < 4.0 * (variance / 1000) ** 0.5
        assert abs(found[name][1] - variance) < 4.0 * variance * (2 / 1000) ** 0.5
    assert abs(found["plain guidance (DPS)"][0] - mean) > 0.2
    evidence = re.findall(r"log p\(y\): particles (\S+) \+- (\S+) nats, exact (\S+) nats", text)
    assert len(evidence) == 2
    assert all(abs(float(estimate) - float(exact)) < 4.0 * float(error) for estimate, error, exact in evidence)
    of_class = re.findall(r"w = +(\S+): (\S+) of the wanted class", text)
    assert [float(share) for _, share in of_class] == sorted(float(share) for _, share in of_class)


def test_stored_bounds_reports_what_closes_the_gap():
    """What is stored comes from a full run: the measured variance, the best times and a learned variance have smaller gaps."""
    lines = printed(nbformat.read(named("bounds"), as_version=4)).splitlines()

    def figures(start):
        """The means and errors by the number of steps, (K, 2)."""
        line = next(line for line in lines if line.startswith(start) and "K=" in line)
        found = re.findall(r"K=(\d+): (?:gap )?(\S+) \+- (\S+) nats", line)
        return {int(steps): (float(mean), float(error)) for steps, mean, error in found}

    assert all(abs(gap) < 3.0 * error for gap, error in figures("measured").values())
    assert [gap for gap, _ in figures("upper").values()] == sorted(
        (gap for gap, _ in figures("upper").values()), reverse=True
    )
    assert figures("upper")[5][0] == pytest.approx(0.162, abs=4.0 * figures("upper")[5][1])
    assert all(mean > 2.0 * error for steps, (mean, error) in figures("best - uniform").items() if steps < 50)
    assert all(mean > 3.0 * error for steps, (mean, error) in figures("its own - measured").items() if steps > 10)
    flow, bound = (
        float(re.findall(r"minus the flow (\S+)", line)[0])
        for line in lines
        if line.startswith(("exact density", "bound, 49"))
    )
    assert abs(flow) < 0.1 and abs(bound) < 0.1
