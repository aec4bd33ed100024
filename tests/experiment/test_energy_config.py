"""A config with ``model: {name: EnergyModel}``: the same training loop, resume, sampling and likelihood."""

from __future__ import annotations

import csv

import pytest
import torch

from benchmarks.children import together
from scoresde.experiment import ConfigError, Workdir
from scoresde.experiment import train as train_here
from scoresde.experiment.folder.checkpoint import last_checkpoint, save_checkpoint
from scoresde.likelihood import Hadamard
from scoresde.samplers import DDIM, PredictorCorrector
from scoresde.samplers.predictor_corrector import MALA
from scoresde.score import EnergyModel
from tests.experiment.training import advance, everything, experiment, gradient, same, trainer

ENERGY = {"model": {"name": "EnergyModel", "data_std": 0.7}}


def test_the_model_is_an_energy():
    model = experiment(**ENERGY).model
    assert type(model) is EnergyModel and model.data_std == 0.7


def test_micro_batches_add_up_to_the_batch():
    """Second derivatives included."""
    whole, cut = trainer(**ENERGY), trainer(training__micro_batch=3, **ENERGY)
    a, b = advance(whole), advance(cut)
    assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=1e-5)
    assert float((gradient(whole) - gradient(cut)).norm() / gradient(whole).norm()) < 1e-5


def test_a_resumed_run_is_the_run(tmp_path):
    run = trainer(**ENERGY)
    advance(run, 2)
    path = save_checkpoint(tmp_path, run.trained, run.averages, run.optimizer, run.step, "", 3, facts=run.facts())
    again = trainer(**ENERGY)
    again.load(last_checkpoint(path.parent))
    advance(run, 2)
    advance(again, 2)
    assert same(everything(run), everything(again))


def test_bfloat16_is_near_float32():
    one, two = advance(trainer(**ENERGY)), advance(trainer(training__precision="bfloat16", **ENERGY))
    assert two.shown.values.tolist() == pytest.approx(one.shown.values.tolist(), rel=0.05)


def test_a_trained_folder_gives_samples_and_energies(tmp_path):
    made = experiment(**ENERGY)
    train_here(made, Workdir(tmp_path))
    model, checkpoint = Workdir(tmp_path).model(made)
    assert isinstance(model, EnergyModel) and checkpoint.step == 6
    for sampler in (DDIM(steps=3), PredictorCorrector(corrector=MALA(0.1), steps=3)):
        assert bool(torch.isfinite(sampler(made.sde, model, (2, *made.data.event_shape)).samples).all())


WRONG = {
    "a prediction": (
        {"name": "EnergyModel", "prediction": "noise"},
        "config.model.prediction is not known: EnergyModel takes",
    ),
    "another class": (
        {"name": "MLP"},
        "config.model: MLP is not allowed here: give NoiseConditionalModel, allowed are Classifier, EnergyModel",
    ),
    "a network": (
        {"name": "EnergyModel", "network": {"name": "MLP"}},
        "config.model.network is not allowed: it is config.net",
    ),
    "a process": (
        {"name": "EnergyModel", "sde": {"name": "VPSDE"}},
        "config.model.sde is not allowed: it is config.sde",
    ),
    "a number": ({"name": "EnergyModel", "data_std": -1.0}, "config.model.data_std=-1.0 is not allowed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_are_refused(name):
    node, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        experiment(model=node)


@pytest.mark.parametrize("option", ["compile", "sharded"])
def test_training_without_second_derivatives_is_refused(option):
    with pytest.raises(ConfigError, match=f"config.training.{option}=True is not allowed for an EnergyModel"):
        trainer(**{f"training__{option}": True}, training__preview_every=0, **ENERGY)


def test_two_processes_train_as_one(tmp_path):
    """Losses and gradient norms, which contain second derivatives."""
    options = {**ENERGY, "training.steps": 3, "training.log_every": 1, "network.dropout": 0.0}
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
            assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-5)


def test_several_probes_of_an_energy():
    """Probes one by one: group normalization cannot be differentiated twice for many rows at once."""
    model = experiment(**ENERGY).model.eval()
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)
    probes = torch.randn(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    field = lambda y: model(y, t)  # noqa: E731
    _, product = Hadamard()._linearise(field, x, False)
    found = product(probes)
    at = x.clone().requires_grad_(True)
    for one, wanted in zip(probes, found, strict=True):
        (alone,) = torch.autograd.grad(field(at), at, one)
        assert torch.allclose(alone, wanted, rtol=1e-4, atol=1e-5)
