"""`ParticleSampler` in a config: samples of a guided model, restart, two processes, and what is saved about the evidence."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from scoresde.experiment import Workdir, read_samples, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.reports.report import report as write_report
from scoresde.experiment.training.previews import with_steps
from scoresde.guidance import ClassifierGuidance
from scoresde.samplers import Ancestral, ParticleSampler, ReverseDiffusion
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "data__labels": True, "training__steps": 2, "training__preview_every": 0, "sampling__count": 5, "sampling__batch_size": 2,
    "samplers": "{'particles': {'name': 'ParticleSampler', 'particles': 6, 'steps': 4, 'threshold': 0.9, "
    "'predictor': {'name': 'ReverseDiffusion'}}}",
}  # fmt: skip
TARGET = RUN | {"model": {"name": "Classifier"}, "objective": {"name": "TargetLikelihood", "target": "label"}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, whose previews are drawn by the predictor, and a classifier."""
    folder = tmp_path_factory.mktemp("particles")
    train_here(experiment(**RUN), Workdir(folder / "run"))
    train_here(experiment(**TARGET), Workdir(folder / "classifier"))
    return folder


@pytest.fixture
def guided(trained, tmp_path):
    """The work folder, and the config of a guided run."""
    shutil.copytree(trained / "run", tmp_path / "run")
    node = {"name": "ClassifierGuidance", "classifier": str(trained / "classifier"), "target": 3}
    return Workdir(tmp_path / "run"), {**RUN, "guidance": node, "sampling__condition": "ignore"}


def drawn(workdir, options, **more):
    sample(experiment(**options), workdir, **more)
    with np.load(workdir.samples / "particles.npz") as file:
        return dict(file)


def test_samples_and_evidence(guided, trained):
    """Batches of 2 of 5 samples give what one batch gives. The JSON, the log and the report have the evidence."""
    workdir, options = guided
    found = drawn(workdir, options)
    made = experiment(**options)
    classifier, _ = Workdir(trained / "classifier").model(experiment(**TARGET))
    model, _ = workdir.model(made)
    score = ClassifierGuidance(model, classifier, target=3)
    result = made.samplers["particles"](model.sde, score, (5, *made.data.event_shape), seed=made.sampling.seed)
    assert np.abs(found["x"] - result.samples.numpy()).max() < 1e-4
    assert np.allclose(found["log_evidence"], result.particles.log_evidence, atol=1e-4)
    assert np.allclose(found["smallest_effective_size"], result.particles.effective_sizes.min(0).values, atol=1e-3)
    assert np.array_equal(found["ancestors"], result.particles.ancestors)
    facts = json.loads((workdir.samples / "particles.json").read_text())
    assert facts["particles"]["log_evidence"] == pytest.approx(found["log_evidence"].mean(), abs=1e-4)
    words = f"log-evidence {facts['particles']['log_evidence']:.2f} +- "
    assert words in (workdir.path / "log.txt").read_text() and words in write_report(made, workdir).read_text()
    parts = list(read_samples(workdir.samples / "particles.json"))
    assert [len(part["log_evidence"]) for part in parts] == [2, 2, 1]


def test_a_stopped_command_and_two_processes_give_the_same(guided):
    workdir, options = guided
    whole = drawn(workdir, options)
    min((workdir.samples / "particles").glob("shards-*/*.npz")).unlink()
    again = drawn(workdir, options)
    shutil.rmtree(workdir.samples)
    shared = drawn(workdir, options, processes=2)
    for name in whole:
        assert np.array_equal(again[name], whole[name]) and np.array_equal(shared[name], whole[name]), name


def test_a_shard_whose_evidence_has_changed_is_drawn_again(guided):
    workdir, options = guided
    whole = drawn(workdir, options)
    shard = min((workdir.samples / "particles").glob("shards-*/*.npz"))
    with np.load(shard) as file:
        content = dict(file)
    np.savez(shard, **{**content, "evidence": content["evidence"] + 1.0})
    assert np.array_equal(drawn(workdir, options)["log_evidence"], whole["log_evidence"])
    assert "its digest does not match: drawn again" in (workdir.path / "log.txt").read_text()


@pytest.mark.parametrize("guidance", [{}, {"name": "ClassifierFree"}])
def test_without_a_potential(guided, guidance):
    workdir, options = guided
    options = {**options, "guidance": guidance, "sampling__condition": "test"}
    with pytest.raises(ConfigError, match=r"config.samplers.particles: .*has no log potential"):
        drawn(workdir, options)


def test_previews_are_drawn_by_the_predictor():
    made = with_steps(ParticleSampler(8, 500, ReverseDiffusion()), 20)
    assert repr(made) == repr(ReverseDiffusion(20)) and torch.equal(
        made.discretization.times(experiment(**RUN).sde),
        ReverseDiffusion(20).discretization.times(experiment(**RUN).sde),
    )
    assert repr(with_steps(ParticleSampler(8, 10), 20)) == repr(Ancestral(10))
