"""scoresde report RUN RUN: tables of runs, paired differences, notes about what cannot be compared."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from scoresde._files import bytes_digest, read_sealed, write_sealed
from scoresde.experiment import RunComparison, WorkdirError, compare_runs
from scoresde.experiment.folder.run_plots import runs_picture
from scoresde.experiment.reports.run_comparison import PairedDifference, flow_of
from tests.experiment.conftest import TINY, called, ended

FEW = {
    "training__steps": 4, **TINY, "likelihood__limit": 6, "sampling__count": 12,
    "samplers": "{'ddim': {'name': 'DDIM', 'steps': 2}}", "samplers.predictor-corrector.steps": None,
}  # fmt: skip
VERBS = ("train", "likelihood", "sample", "evaluate")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of digits that differ in the learning rate."""
    return [ended(tmp_path_factory, *VERBS, **FEW, training__learning_rate=rate).workdir for rate in (1e-3, 2e-2)]


@pytest.fixture
def runs(made, tmp_path):
    """Copies of these runs, called a and b."""
    for name, folder in zip("ab", made, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return [tmp_path / "a", tmp_path / "b"]


def change_rows(run, change, title="test", **facts):
    """Replace the bits/dim in the table of a likelihood, and facts of its summary."""
    table, summary = (run / "likelihood" / f"{title}.{end}" for end in ("csv", "json"))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        row["bits_per_dim"] = change(int(row["index"]), float(row["bits_per_dim"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    table.write_text(text.getvalue())
    mean = math.fsum(row["bits_per_dim"] for row in rows) / len(rows)
    digest = bytes_digest(table.read_bytes())
    write_sealed(summary, {**read_sealed(summary), "bits_per_dim": mean, "table digest": digest, **facts})


def test_what_a_comparison_holds(runs):
    found = compare_runs(runs)
    assert isinstance(found, RunComparison) and [run.name for run in found.runs] == ["a", "b"]
    assert found.keys == {"training.learning_rate": (1e-3, 2e-2)} and found.notes == ()
    one, other = found.records()
    assert (one["steps"], one["training.learning_rate"], one["test events"], one["ddim count"]) == (4, 1e-3, 6, 12)
    summary = json.loads((runs[1] / "likelihood" / "test.json").read_text())
    assert (
        other["test bits/dim"] == summary["bits_per_dim"] and other["test standard error"] == summary["standard_error"]
    )
    result = json.loads((runs[1] / "evaluation" / "ddim.json").read_text())
    assert other["ddim frechet distance, times the yardstick"] == result["ratio"]["frechet distance"]
    assert one["parameters"] == other["parameters"] > 0 and one["seconds of training"] > 0 and one["last loss"] > 0


def test_differences_are_paired(runs):
    """By hand: the second run is better by 0.1 on average, with errors far smaller than those of the means."""
    change_rows(runs[0], lambda index, bits: float(10 * index))
    change_rows(runs[1], lambda index, bits: 10 * index - 0.1 + (0.02 if index % 2 else -0.02))
    (pair,) = compare_runs(runs).differences
    assert (pair.run, pair.other, pair.likelihood, pair.events, pair.unit) == ("b", "a", "test", 6, "bits/dim")
    assert pair.mean == pytest.approx(-0.1) and pair.standard_error == pytest.approx(0.02 * math.sqrt(1 / 5))
    assert pair.verdict == "better"
    (back,) = compare_runs(runs[::-1]).differences
    assert back.mean == pytest.approx(0.1) and back.verdict == "worse"


def test_a_verdict_needs_two_standard_errors_and_knows_the_unit():
    def pair(mean, error, unit):
        return PairedDifference("b", "a", "test", mean, error, 9, unit).verdict

    assert pair(-1.0, 0.4, "bits/dim") == pair(1.0, 0.4, "nats") == "better"
    assert pair(1.0, 0.4, "bits/dim") == pair(-1.0, 0.4, "nats") == "worse"
    assert pair(1.0, 0.6, "nats") == pair(1.0, None, "nats") == "not distinguishable"


def test_the_bound_and_the_flow_of_one_run_are_paired(runs, tmp_path):
    """Also for other weights, and not with the flow of another split."""
    change_rows(runs[0], lambda index, bits: float(10 * index))
    for ending in ("csv", "json"):
        shutil.copy(runs[0] / "likelihood" / f"test.{ending}", runs[0] / "likelihood" / f"train-bound.{ending}")
        shutil.copy(runs[0] / "likelihood" / f"test.{ending}", runs[0] / "likelihood" / f"test-bound.{ending}")
    change_rows(runs[0], lambda index, bits: 10 * index + 0.3 + (0.02 if index % 2 else -0.02), "test-bound")
    found = compare_runs(runs, tmp_path / "page.html")
    (gap,) = found.gaps
    assert (gap.run, gap.other, gap.likelihood, gap.events, gap.unit) == ("a", "a", "test-bound", 6, "bits/dim")
    assert gap.mean == pytest.approx(0.3) and gap.standard_error == pytest.approx(0.02 * math.sqrt(1 / 5))
    assert found.records()[0]["test-bound minus test"] == gap.mean
    assert json.loads(found.to_json())["bounds minus flows"][0]["mean"] == gap.mean
    page = (tmp_path / "page.html").read_text()
    assert "Bounds and probability flows" in page and "+0.3000" in page
    assert flow_of("test-bound@model") == "test@model" and flow_of("test") == "test"
    assert {pair.likelihood for pair in found.differences} == {"test"}


def test_other_events_are_not_paired(runs):
    """Only common events are, and none if the data or the split is another one."""
    table = runs[1] / "likelihood" / "test.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-2]))
    change_rows(runs[1], lambda index, bits: bits)
    found = compare_runs(runs)
    assert found.differences[0].events == 4
    assert "likelihoods of test are of different events: only paired differences use the same ones" in found.notes
    change_rows(runs[1], lambda index, bits: bits, **{"data digest": "0" * 16})
    assert compare_runs(runs).differences == ()


def test_other_data_is_said(runs):
    facts = read_sealed(runs[1] / "environment.json")
    write_sealed(runs[1] / "environment.json", {**facts, "data digest": {"train": "1", "test": "2"}})
    config = json.loads((runs[1] / "config.json").read_text())
    config["data"] = {"name": "MNIST"}
    config["evaluation"] = {"neighbors": 5}
    (runs[1] / "config.json").write_text(json.dumps(config))
    result = runs[1] / "evaluation" / "ddim.json"
    write_sealed(result, {**read_sealed(result), "neighbors": 5})
    said = "\n".join(compare_runs(runs).notes)
    assert "DIFFERENT DATA: b: not the data of a." in said
    assert "training losses cannot be compared, because they differ in data.name" in said
    assert "evaluations of ddim differ in the reference, the extractor, the scaling or k" in said


def test_what_is_missing_or_damaged_is_said(runs):
    (runs[0] / "environment.json").unlink()
    (runs[0] / "likelihood" / "test.csv").write_text("")
    (runs[1] / "evaluation" / "ddim.json").write_text("{}")
    (runs[1] / "metrics.csv").unlink()
    shutil.rmtree(runs[1] / "checkpoints")
    found = compare_runs(runs)
    said = "\n".join(found.notes)
    for wanted in (
        "the digest of the data is not known for a", "a: environment.json cannot be read",
        "a: likelihood/test.json cannot be read",
        "b: evaluation/ddim.json cannot be read", "b: trained to step 0 of 4",
    ):  # fmt: skip
        assert wanted in said
    assert [run.name for run in found.runs] == ["a", "b"] and "b: training.learning_rate 0.02" in str(found)


def test_results_of_an_earlier_checkpoint_are_said(runs):
    newest = max((runs[1] / "checkpoints").glob("step-*.safetensors"))
    shutil.copy(newest, newest.with_name("step-000000009.safetensors"))
    said = compare_runs(runs).notes
    assert any(text.startswith("b: likelihood of test: computed with checkpoint step-000000004") for text in said)
    assert any(text.startswith("b: evaluation of ddim: computed with checkpoint step-000000004") for text in said)


def test_the_command_writes_a_page_and_the_same_figures(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = called("report", *runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a: training.learning_rate 0.001 | ") and done.stdout.endswith("comparison.html\n")
    page, facts = (tmp_path / "comparison.html").read_text(), json.loads((tmp_path / "comparison.json").read_text())
    for wanted in (
        "id='runs'",
        "id='likelihoods'",
        "id='evaluations'",
        "training.learning_rate",
        "minus a",
        "data:image/png",
    ):
        assert wanted in page, wanted
    assert facts["runs"] == [{"path": str(r), **c} for r, c in zip(runs, compare_runs(runs).records(), strict=True)]
    assert facts["differing keys"] == ["training.learning_rate"] and facts["paired differences"][0]["events"] == 6
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert [row["run"] for row in rows] == ["a", "b"] and float(rows[1]["test bits/dim"]) == facts["runs"][1][
        "test bits/dim"
    ]
    # again, into the same files
    assert called("report", *runs).returncode == 0
    assert called("report", *runs, "--output", tmp_path / "new" / "x.html").returncode == 0
    assert (tmp_path / "new" / "x.csv").exists()


def test_many_settings_have_a_table_of_their_own(runs, tmp_path):
    config = json.loads((runs[1] / "config.json").read_text())
    config["sde"] = {"name": "VESDE", "sigma_min": 0.01, "sigma_max": 9.0}
    config["training"]["beta2"] = 0.5
    (runs[1] / "config.json").write_text(json.dumps(config))
    compare_runs(runs, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "id='settings'" in page and "<td>sde.sigma_max</td><td></td><td>9.0</td>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a",), "one run is given: give two or more, or --workdir a for its report"),
        (("a", "b", "--workdir", "a"), "--workdir is for the report of one run"),
        (("a", "b", "--config.training.steps=3"), "--config.training.steps is for the report of one run"),
        (("a", "--output", "x.html", "b"), "'b' is not expected here: give all runs before the flags"),
        (("--workdir", "a", "--output", "x.html"), "--output is for several runs"),
        (("a", "c"), "c contains no run (no config.json)"),
        (("a", "a/../a"), "is given twice"),
        (("a", "b", "--output", "x.txt"), "output='x.txt' is not allowed: give a name that ends in .html"),
        (("a", "b", "--output", "other.html"), "exists and is not a comparison of runs"),
        (("a", "b", "--output", "mine.html"), "because mine.csv exists"),
    ],
)
def test_refusals(runs, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.html").write_text("<title>another page</title>")
    (tmp_path / "mine.csv").write_text("1,2\n")
    done = called("report", *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert (tmp_path / "mine.csv").read_text() == "1,2\n"


def test_refusals_in_python(runs, tmp_path):
    with pytest.raises(ValueError, match="give two or more work folders"):
        compare_runs(runs[:1])
    with pytest.raises(WorkdirError, match="contains no run"):
        compare_runs([runs[0], tmp_path])


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "other" / "a")
    names = [run.name for run in compare_runs([runs[0], tmp_path / "other" / "a"]).runs]
    assert names == [str(runs[0]), str(tmp_path / "other" / "a")]


def test_the_plot_has_both_parts():
    """With likelihoods there are two axes; the colors of a run are the same in both."""
    curves = {"a": ([1, 2], [3.0, float("nan")]), "b": ([], [])}
    alone, both = (
        np.asarray(Image.open(io.BytesIO(runs_picture(curves, bars, "bits/dim")))) for bars in ({}, {"a": (2.0, None)})
    )
    blue = np.array([31, 119, 180, 255])
    width = both.shape[1] // 2
    assert both[:, width:].reshape(-1, 4).tolist().count(blue.tolist()) > 20
    assert alone.shape == both.shape and (alone != both).any()
