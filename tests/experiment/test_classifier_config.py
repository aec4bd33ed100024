"""A config with ``model: {name: Classifier}``: the same training loop and resume; what needs a score is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from benchmarks.children import together
from scoresde.conditions import Classes, Vector
from scoresde.experiment import ConfigError, Experiment, Workdir, dry_run, likelihood, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.folder.checkpoint import last_checkpoint
from scoresde.score import Classifier, Regressor
from tests.experiment.conftest import ROOT
from tests.experiment.training import advance, everything, experiment, gradient, same, trainer

CLASSIFIER = {
    "data__labels": True, "model": {"name": "Classifier", "data_std": 0.75}, "objective": {"name": "TargetLikelihood"},
    "samplers": {}, "training__preview_every": 2, "training__schedule": "constant",
}  # fmt: skip


def arrays(tmp_path):
    """Data of three coordinates, with a class and a vector of two numbers for each event, as a node."""
    generator = np.random.default_rng(0)
    size = generator.standard_normal((40, 2)).astype(np.float32)
    x = np.concatenate([size, generator.standard_normal((40, 1))], 1).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(40) % 3, size=size)
    file = str(tmp_path / "data.npz")
    return {
        "name": "Arrays", "train": f"{file}:x",
        "condition": {"label": f"{file}:y", "size": f"{file}:size"},
    }  # fmt: skip


def on_arrays(tmp_path, **more):
    return experiment(
        data=arrays(tmp_path), network={"name": "MLP", "width": 8, "depth": 1}, network__channels=None, network__blocks=None,
        samplers={}, **more,
    )  # fmt: skip


def test_the_data_determines_the_classes():
    made = experiment(**CLASSIFIER)
    assert type(made.model) is Classifier and made.model.classes == 10 and made.model.network.outputs == 10
    assert made.model.network.conditioning is None


def test_the_config_is_that_of_the_tests():
    made = Experiment.from_config(load_config(ROOT / "configs" / "vp" / "digits_classifier.py"))
    assert type(made.model) is Classifier and made.objective.targets == ("label",) and made.samplers == {}


def test_other_conditions_go_to_the_network_and_only_they_are_dropped(tmp_path):
    made = on_arrays(
        tmp_path, model={"name": "Regressor", "scale": 2.0}, objective={"name": "TargetLikelihood", "target": "size"}
    )
    assert type(made.model) is Regressor and made.model.kind == Vector(2) and made.model.scale == 2.0
    assert made.model.network.conditioning.kinds == {"label": Classes(3)} and made.model.network.outputs == 4
    train_here(made, Workdir(tmp_path / "run"))
    _, checkpoint = Workdir(tmp_path / "run").model(made)
    assert checkpoint.step == 6


def test_the_target_is_not_dropped():
    run = trainer(**CLASSIFIER, training__condition_dropout=0.9)
    seen, log_prob = [], Classifier.log_prob

    def watched(model, x, t, target, **condition):
        seen.append((target, condition))
        return log_prob(model, x, t, target, **condition)

    run.model.log_prob = watched.__get__(run.model)
    advance(run)
    batch = run.experiment.data.train.batch(0, 8, seed=0)
    assert torch.equal(seen[0][0], batch.condition["label"]) and seen[0][1] == {}


def test_micro_batches_add_up_to_the_batch():
    whole, cut = trainer(**CLASSIFIER), trainer(training__micro_batch=3, **CLASSIFIER)
    a, b = advance(whole, 2), advance(cut, 2)
    assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=1e-5)
    assert float((gradient(whole) - gradient(cut)).norm() / gradient(whole).norm()) < 1e-4


def test_a_resumed_run_is_the_run(tmp_path):
    train_here(experiment(**CLASSIFIER), Workdir(tmp_path / "one"))
    train_here(experiment(**CLASSIFIER, training__steps=4), Workdir(tmp_path / "two"))
    train_here(experiment(**CLASSIFIER), Workdir(tmp_path / "two"))
    one, two = (last_checkpoint(Workdir(tmp_path / name).checkpoints) for name in ("one", "two"))
    assert one.step == two.step == 6 and same(dict(one.tensors), dict(two.tensors))
    assert not Workdir(tmp_path / "one").previews.exists()


def test_bfloat16_is_near_float32():
    one, two = advance(trainer(**CLASSIFIER), 3), advance(trainer(training__precision="bfloat16", **CLASSIFIER), 3)
    assert two.shown.values.tolist() == pytest.approx(one.shown.values.tolist(), rel=0.02)
    assert same(everything(trainer(**CLASSIFIER)), everything(trainer(**CLASSIFIER)))


def test_weights_of_another_run_and_a_dry_run(tmp_path):
    train_here(experiment(**CLASSIFIER), Workdir(tmp_path / "one"))
    train_here(experiment(**CLASSIFIER), Workdir(tmp_path / "two"), init_from=tmp_path / "one")
    assert dry_run(experiment(**CLASSIFIER), steps=1).parameters > 0


@pytest.mark.parametrize("command", [sample, likelihood])
def test_commands_for_a_score_are_refused(tmp_path, command):
    with pytest.raises(ConfigError, match=r"model of this run is a Classifier, not a score, .*: scoresde evaluate"):
        command(experiment(**CLASSIFIER), Workdir(tmp_path))


TARGET, CLASSES = {"name": "TargetLikelihood"}, {"name": "Classifier"}
WRONG = {
    "no conditions": (
        {"model": CLASSES, "objective": TARGET},
        "config.objective: the target 'label' is not a condition of the data, whose conditions are none",
    ),
    "another name": (
        {"data__labels": True, "model": CLASSES, "objective": {**TARGET, "target": "lable"}},
        "the target 'lable' is not a condition of the data, whose conditions are label.*did you mean 'label'",
    ),
    "a vector as a class": (
        {"data__labels": True, "model": {"name": "Regressor"}, "objective": TARGET},
        r"config.model.name='Regressor' is not allowed for the target 'label', which is Classes\(count=10\): a Reg",
    ),
    "classes of the config": (
        {"data__labels": True, "model": {**CLASSES, "classes": 12}, "objective": TARGET},
        "config.model.classes is not allowed: it is that of the target 'label'",
    ),
    "a score": (
        {"data__labels": True, "model": {}, "objective": TARGET},
        "config.objective: TargetLikelihood does not train a ScoreModel: give config.model.name='Classifier' or 'Regressor'",
    ),
    "a loss of scores": (
        {"data__labels": True, "model": CLASSES},
        "config.model.name='Classifier' is not allowed: a Classifier needs an objective with one target, but .* none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configs_are_refused(name):
    options, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        experiment(**options)


def test_two_processes_train_as_one(tmp_path):
    options = {**CLASSIFIER, "training.steps": 3, "training.log_every": 1, "training__preview_every": 0}
    options = {key.replace("__", "."): value for key, value in options.items()}
    ranks = together(tmp_path / "two", 2, options)
    assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
    train_here(experiment(**{k.replace(".", "__"): v for k, v in options.items()}), Workdir(tmp_path / "one"))
    tables = []
    for name in ("one", "two"):
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 3
    for one, two in zip(*tables, strict=True):
        for column in ("loss", "grad_norm"):
            assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-4)
