"""``scoresde evaluate`` of a classifier or regressor: figures by noise level, restarts, the report and the model card."""

from __future__ import annotations

import csv
import math
import shutil

import numpy as np
import pytest
import torch

from scoresde._files import read_sealed
from scoresde.conditions import Classes, Vector
from scoresde.experiment import ConfigError, Workdir, compare_runs, evaluate, push, report
from scoresde.experiment import train as train_here
from scoresde.experiment.jobs.prediction import LEVELS, PredictionJob
from scoresde.experiment.results.predictions import by_level, prior_figures
from scoresde.noise import NoiseSource
from tests.experiment.conftest import called
from tests.experiment.test_classifier_config import on_arrays
from tests.experiment.training import experiment

RUN = {
    "data__labels": True, "model": {"name": "Classifier", "data_std": 0.75}, "objective": {"name": "TargetLikelihood"},
    "network": {"name": "MLP", "width": 16, "depth": 1}, "network__channels": None, "network__blocks": None, "samplers": {},
    "training__preview_every": 0, "evaluation__batch_size": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(experiment, trained work folder, summary)."""
    made, workdir = experiment(**RUN), Workdir(tmp_path_factory.mktemp("classifier") / "run")
    train_here(made, workdir)
    return made, workdir, evaluate(made, workdir)["test"]


def test_the_figures_are_those_of_the_model(run):
    """The accuracy and the loss at one level, computed again from the same noise."""
    made, workdir, summary = run
    assert summary["events"] == 359 and len(summary["levels"]) == LEVELS and summary["target"] == "label"
    row = summary["levels"][4]
    model, _ = workdir.model(made)
    index = torch.arange(359)
    x0, y = made.data.test.encode(index, seed=0), made.data.test.conditions(index)["label"]
    z = NoiseSource(0, index).normal((1, 8, 8), step=4, purpose="prediction noise", dtype=x0.dtype)
    t = torch.full((359,), row["t"])
    x = made.sde.perturb(x0, t, z)
    log_prob, right = model.log_prob(x, t, y), (model.probabilities(x, t).argmax(1) == y).double()
    assert row["nll"] == pytest.approx(-float(log_prob.double().mean()), rel=1e-6)
    assert row["accuracy"] == pytest.approx(float(right.mean()), abs=1e-12)
    assert row["accuracy error"] == pytest.approx(float(right.std()) / 359**0.5, rel=1e-9)
    assert row["noise to signal"] == pytest.approx(float(made.sde.log_noise(t[:1]).exp()), rel=1e-5)
    with open(workdir.evaluation / "predictions" / "test.csv", newline="") as file:
        assert [float(line["nll"]) for line in csv.DictReader(file)] == [row["nll"] for row in summary["levels"]]


def test_finished_parts_are_not_computed_again_and_damaged_ones_are(run, monkeypatch):
    made, workdir, summary = run
    asked = []
    predictions = PredictionJob.predictions

    def watched(job, part):
        asked.append((part.first, part.end))
        return predictions(job, part)

    monkeypatch.setattr(PredictionJob, "predictions", watched)
    again = evaluate(made, workdir)["test"]
    assert asked == [] and again["levels"] == summary["levels"]
    files = sorted((workdir.evaluation / "predictions").glob("predictions-*/*.npz"))
    assert len(files) == 2
    files[0].unlink()
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(content)
    again = evaluate(made, workdir)["test"]
    assert asked == [(0, 256), (256, 359)] and again["levels"] == summary["levels"]


@pytest.mark.long
def test_two_processes_give_the_same_bits(run, tmp_path):
    made, workdir, summary = run
    for file in (workdir.evaluation / "predictions").glob("predictions-*/*.npz"):
        file.unlink()
    assert evaluate(made, workdir, processes=2)["test"]["levels"] == summary["levels"]


def test_the_report_and_the_model_card_show_the_figures(run, tmp_path):
    made, workdir, summary = run
    page = report(made, workdir).read_text()
    assert "Predictions by noise level" in page and f"{summary['levels'][0]['accuracy']:.4f}" in page
    assert "Samples compared with data" not in page and "Classifier of label" in page
    push(made, workdir, tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text()
    assert (
        "A Classifier of label for noisy data of digits/train" in card and "scoresde evaluate --workdir model" in card
    )
    assert f"{summary['levels'][3]['nll']:.4f}" in card and "scoresde sample" not in card
    done = called("pull", tmp_path / "published", "--workdir", tmp_path / "pulled")
    assert done.returncode == 0, done.stderr
    assert read_sealed(tmp_path / "pulled" / "evaluation" / "predictions" / "test.json")["levels"] == summary["levels"]


def test_a_comparison_of_runs_lists_the_figures(run, tmp_path):
    _, workdir, summary = run
    other = tmp_path / "other"
    shutil.copytree(workdir.path, other)
    found = compare_runs([workdir, other], tmp_path / "page.html")
    assert found.records()[1]["test mean nll"] == summary["mean nll"]
    assert f"{summary['levels'][-1]['accuracy']:.4f} ±" in (tmp_path / "page.html").read_text()
    (other / "evaluation" / "predictions" / "test.json").write_text("{}")
    assert any("predictions/test.json cannot be read" in note for note in compare_runs([workdir, other]).notes)


def test_weights_and_the_other_split(run):
    _, workdir, _ = run
    raw = evaluate(experiment(**RUN, evaluation__weights="model", evaluation__split="test"), workdir)
    assert list(raw) == ["train@model"] and raw["train@model"]["events"] == 1438


def test_a_regressor_has_a_root_mean_square_error(tmp_path):
    made = on_arrays(tmp_path, model={"name": "Regressor"}, objective={"name": "TargetLikelihood", "target": "size"})
    train_here(made, Workdir(tmp_path / "run"))
    (summary,) = evaluate(made, Workdir(tmp_path / "run")).values()
    assert set(summary["levels"][0]) == {"t", "noise to signal", "rmse", "rmse error", "nll", "nll error"}
    assert (
        summary["kind"] == "Vector(size=2)"
        and "Regressor of size" in report(made, Workdir(tmp_path / "run")).read_text()
    )


def test_settings_that_the_model_does_not_have_are_refused(run):
    _, workdir, _ = run
    with pytest.raises(ConfigError, match=r"config.evaluation.samples='x' is not allowed for a Classifier"):
        evaluate(experiment(**RUN, evaluation__samples="x"), workdir)
    with pytest.raises(ConfigError, match=r"config.evaluation.weights='model' is not allowed for samples"):
        evaluate(experiment(evaluation__weights="model"), workdir)


def test_means_and_standard_errors():
    log_prob, wrong = np.log([[0.5, 0.25], [0.25, 0.5]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    first, second = by_level(log_prob, wrong, Classes(3))
    assert first["accuracy"] == 0.5 and second["accuracy"] == 0.0 and first["accuracy error"] == pytest.approx(0.5)
    assert first["nll"] == pytest.approx(1.5 * math.log(2.0)) and first["nll error"] == pytest.approx(
        0.5 * math.log(2.0)
    )
    (row,) = by_level(np.zeros((4, 1)), np.array([[4.0], [4.0], [9.0], [1.0]]), Vector(1))
    assert row["rmse"] == pytest.approx(4.5**0.5)


def test_what_is_possible_without_the_data():
    y = torch.tensor([0, 0, 0, 1])
    found = prior_figures(y, y, Classes(2))
    assert found["accuracy"] == 0.75 and found["nll"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    v = torch.tensor([[1.0], [-1.0]])
    found = prior_figures(v, v, Vector(1))
    assert found["rmse"] == pytest.approx(1.0) and found["nll"] == pytest.approx(0.5 + 0.5 * math.log(2 * math.pi))
