"""scoresde evaluate: classifiers that are trained on samples of classes, and features of a run as an extractor."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from scoresde._files import read_sealed, write_sealed
from scoresde.conditions import Classes
from scoresde.data import Affine, Dataset, Digits, Splits, permutation
from scoresde.experiment import Experiment, RunFeatures, Workdir, load_config
from scoresde.experiment.config.condition_values import stored_conditions
from scoresde.experiment.config.sections import EvaluationConfig
from scoresde.experiment.reports.evaluation import evaluation_section
from scoresde.experiment.results.event_sets import SampleEvents
from scoresde.experiment.results.sample_classifier import SampleClassifier
from scoresde.score import ScoreFeatures
from tests.experiment.conftest import TINY, CopyCommand, ended
from tests.experiment.test_evaluation import figures

COUNT = 120
FEW = {
    "training__steps": 2,
    **TINY,
    "data__labels": True,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 3}}",
    "samplers.predictor-corrector.steps": None,
    "sampling__count": COUNT,
    "sampling__batch_size": 50,
    "sampling__condition": "{'label': 'balanced'}",
}
SHARES = ("real", "samples", "both", "all real")


@pytest.fixture(scope="module", autouse=True)
def one_halving():
    """The yardstick takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("scoresde.experiment.results.comparison"), "HALVINGS", 1)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained folder with samples of all classes, and their evaluation."""
    return ended(tmp_path_factory, "train", "sample", "evaluate", **FEW)


@pytest.fixture
def run(trained, tmp_path):
    """Commands in a copy of that folder."""
    command = CopyCommand(trained.workdir, tmp_path, **FEW)
    command.folder = command.workdir / "evaluation"
    command.result = lambda: read_sealed(command.folder / "unipc.json")
    return command


def flat(split, index):
    return split.transform.encode(split.events(index), None, dtype=torch.float32).flatten(1).double().numpy()


def classes(split):
    return split.conditions(slice(None))["label"].numpy()


def drawn(*, shift):
    """Samples that are real training digits: sample i is of the class (i + shift(i)) mod 10."""
    digits = Digits(labels=True)
    of = [np.flatnonzero(classes(digits.train) == k) for k in range(10)]

    def raw(events, first, end):
        index = [of[(i + shift(i)) % 10][i // 10] for i in range(first, end)]
        return digits.train.events(torch.tensor(index)).to(torch.uint8)

    return raw


def test_accuracies_are_those_of_scikit_learn(run, trained):
    """The same figures from the events themselves: k events by index, all test events."""
    found, digits = run.result()["classifiers"]["label"], Digits(labels=True)
    chosen = permutation(1438, 0, 0)[:COUNT]
    x, y = flat(digits.train, chosen), classes(digits.train)[chosen]
    test, truth = flat(digits.test, torch.arange(359)), classes(digits.test)
    real = SVC(C=10.0).fit(x, y).score(test, truth)
    every = SVC(C=10.0).fit(flat(digits.train, torch.arange(1438)), classes(digits.train)).score(test, truth)
    assert found["real"] == {
        "value": pytest.approx(real), "standard_error": pytest.approx((real * (1.0 - real) / 359) ** 0.5),
        "trained_on": COUNT, "count": 359,
    }  # fmt: skip
    assert found["all real"]["value"] == pytest.approx(every) and found["all real"]["trained_on"] == 1438
    stored = np.load(trained.workdir / "samples" / "unipc.npz")
    assert stored["condition_label"].tolist() == [i % 10 for i in range(COUNT)]
    samples = digits.train.transform.encode(torch.from_numpy(stored["raw"]).clamp(0, 16), None, dtype=torch.float32)
    both = SVC(C=10.0).fit(
        np.concatenate([x, samples.flatten(1).double().numpy()]), np.concatenate([y, stored["condition_label"]])
    )
    assert found["both"]["value"] == pytest.approx(both.score(test, truth), abs=0.01)
    assert found["both"]["trained_on"] == 2 * COUNT and found["test"] == "digits/test"
    assert found["classes without samples"] == [] and found["classifier"] == "SVC(C=10.0)"
    line = next(line for line in trained.said.splitlines() if "accuracy after training" in line)
    for part in (
        "unipc: label of 359 events of digits/test by SVC(C=10.0)", f" on {COUNT} samples, ", " on 1438 real events",
        f" on {COUNT} real events and {COUNT} samples", f"{real:.3f} +- ",
    ):  # fmt: skip
        assert part in line


def test_shuffled_classes_give_chance(run, monkeypatch):
    """Real digits in place of samples: as good as real ones. Planted: with the classes of others, chance."""
    share = {}
    digits = permutation(COUNT, 3, 0).tolist()
    for name, shift in {"right": lambda i: 0, "shuffled": lambda i: digits[i]}.items():
        monkeypatch.setattr(SampleEvents, "raw", drawn(shift=shift))
        shutil.rmtree(run.folder)
        run("evaluate")
        share[name] = run.result()["classifiers"]["label"]
    assert share["right"]["samples"]["value"] > 0.8 and share["right"]["both"]["value"] > 0.85
    assert share["shuffled"]["samples"]["value"] < 0.25
    assert share["shuffled"]["real"] == share["right"]["real"]


def test_processes_and_restarts_change_nothing(run, trained, monkeypatch):
    shutil.rmtree(run.folder / "data" / "train")
    run("evaluate")
    before = json.loads((trained.workdir / "evaluation" / "unipc.json").read_text())
    assert figures(run.result()) == figures(before), "some features are computed again"
    shutil.rmtree(run.folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        run("evaluate")
    assert run.result()["processes"] == 2
    assert figures(run.result())["classifiers"] == before["classifiers"]


def test_other_classifiers(run):
    run("evaluate", evaluation__classifier="logistic")
    assert "LogisticRegression" in run.result()["classifiers"]["label"]["classifier"]
    run("evaluate", evaluation__classifier="{'name': 'sklearn.neighbors:KNeighborsClassifier', 'n_neighbors': 3}")
    assert run.result()["classifiers"]["label"]["classifier"] == "KNeighborsClassifier(n_neighbors=3)"
    done = run("evaluate", evaluation__classifier="none")
    assert run.result()["classifiers"] == {} and "accuracy" not in done.stdout
    done = run("evaluate", code=2, evaluation__classifier="forest")
    assert "config.evaluation.classifier='forest' is not" in done.stderr and "'svm'" in done.stderr
    done = run("evaluate", code=2, evaluation__classifier="{'name': 'VPSDE'}")
    assert "config.evaluation.classifier: VPSDE is not allowed here" in done.stderr
    run("evaluate", evaluation__subset_size=50)
    found = run.result()["classifiers"]["label"]
    assert [found[key]["trained_on"] for key in SHARES] == [50, 50, 100, 50] and found["real"]["count"] == 50


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("ignore", "no classifier of label was trained on samples: the samples were drawn without conditions"),
        ("{'label': 3}", "no classifier of label was trained on samples: all samples have the class 3"),
        ("{'label': [1, 2]}", "; there are no samples of the classes 0, 3, 4, 5, 6, 7, 8, 9"),
        pytest.param("test", f" on {COUNT} samples", marks=pytest.mark.long),
    ],
)
def test_samples_of_other_conditions(run, condition, said):
    run("sample", sampling__condition=condition)
    done = run("evaluate", sampling__condition=condition)
    assert said in done.stdout
    page = evaluation_section(Workdir(run.workdir))
    assert ("id='classifiers-0'" in page) == ("no classifier" not in said)
    if "no classifier" in said:
        assert said in page


def test_classes_have_their_names():
    kinds = {"label": Classes(2, names=("red", "white"))}
    half = Dataset(torch.zeros(2, 1), Affine(), condition={"label": torch.tensor([0, 1])}, kinds=kinds)
    found = SampleClassifier(Splits(half, half), EvaluationConfig(), {}, {})
    assert found._named("label", torch.tensor([1, 0])) == ["white", "red"]


def test_classes_of_a_split_that_has_changed_are_not_used():
    events = Digits(labels=True)
    settings = {"condition": '"test"', "test data digest": events.test.digest()}
    assert torch.equal(
        stored_conditions(events, settings, 400)["label"][:359], events.test.conditions(slice(None))["label"]
    )
    with pytest.raises(ValueError, match="the samples got the conditions of the test split, which has changed"):
        stored_conditions(events, {**settings, "test data digest": "0" * 16}, 5)
    assert stored_conditions(events, {}, 5) == {}


def test_a_file_of_events_has_no_classes(run, tmp_path):
    np.save(tmp_path / "digits.npy", Digits().test.raw.numpy())
    done = run("evaluate", "--samples", tmp_path / "digits.npy")
    assert (
        "no classifier of label was trained on samples: the classes of events from a file are not known" in done.stdout
    )
    done = run("evaluate", evaluation__reference=str(run.folder / "reference.npz"))
    assert (
        "no classifier of label was trained on samples: evaluation.reference replaces the training split" in done.stdout
    )


def test_the_report_shows_it(run):
    page, found = evaluation_section(Workdir(run.workdir)), run.result()
    assert "id='classifiers-0'" in page and f"{COUNT} real events and {COUNT} samples" in page
    assert f"{found['classifiers']['label']['samples']['value']:.3f}" in page
    earlier = {key: value for key, value in found.items() if key != "classifiers"}
    write_sealed(run.folder / "unipc.json", earlier)
    page = evaluation_section(Workdir(run.workdir))
    assert "classifiers-0" not in page and "cannot be shown" not in page
    write_sealed(run.folder / "unipc.json", {**found, "classifiers": {"label": {}}})
    assert "unipc.json cannot be shown: KeyError" in evaluation_section(Workdir(run.workdir))


def test_features_of_a_run_as_extractor(run, trained):
    """The features of another folder's model, of events in the transform of that run."""
    extractor = RunFeatures(str(trained.workdir), 0.1)
    digits = Digits(labels=True)
    made = Experiment.from_config(load_config(trained.workdir / "config.json"))
    model, _ = Workdir(trained.workdir).model(replace(made, device=torch.device("cpu")))
    raw = digits.test.events(torch.arange(5))
    x = digits.test.transform.encode(raw, None, dtype=torch.float32)
    assert torch.equal(extractor(raw), ScoreFeatures(model, 0.1)(x))
    assert extractor.digest == RunFeatures(str(trained.workdir), 0.1).digest
    assert extractor.digest != RunFeatures(str(trained.workdir), 0.1, weights="model").digest
    node = f"{{'name': 'scoresde.experiment:RunFeatures', 'folder': '{trained.workdir}', 't': 0.1}}"
    done = run("evaluate", evaluation__extractor=node)
    assert "by ScoreFeatures(MLP, t=0.1, 1 modules, seed=0) of 'run', weights ema" in done.stdout
    assert run.result()["features"] == 16 and run.result()["scaling"] == "the data"
    with pytest.raises(FileNotFoundError, match=r"folder='nowhere' is not a run folder: it has no config\.json"):
        RunFeatures("nowhere", 0.1)
    with pytest.raises(ValueError, match="'head' is not a module of MLP"):
        RunFeatures(str(trained.workdir), 0.1, ["head"])(raw)
