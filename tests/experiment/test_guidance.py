"""The section ``guidance`` of a config: guided samples, resumed and shared, and what it may not say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scoresde import VPSDE, ScoreModel
from scoresde.conditions import Classes, given
from scoresde.experiment import Workdir, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.condition_values import sample_conditions
from scoresde.experiment.config.guidance import LoadedClassifier, build_guidance
from scoresde.experiment.reports.report import report as write_report
from scoresde.guidance import ClassifierFree, ClassifierGuidance, ComposedConditions, DynamicThreshold, Guidance
from scoresde.networks import MLP
from scoresde.score import Classifier
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "data__labels": True, "training__steps": 2, "training__preview_every": 0, "sampling__count": 7, "sampling__batch_size": 3,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 3}}",
}  # fmt: skip
TARGET = RUN | {"model": {"name": "Classifier"}, "objective": {"name": "TargetLikelihood", "target": "label"}}
ONE_NOT_TWO = {
    "guidance": {"name": "ComposedConditions", "conditions": [{"label": 1}, {"label": 2}], "weights": [1.0, -0.5]},
    "sampling__condition": "ignore",
}
FREE = {"guidance": {"name": "ClassifierFree", "weight": 2.0}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A conditional run and a classifier."""
    folder = tmp_path_factory.mktemp("guided")
    train_here(experiment(**RUN), Workdir(folder / "run"))
    train_here(experiment(**TARGET), Workdir(folder / "classifier"))
    return folder


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    return Workdir(tmp_path / "run")


def drawn(workdir, **options):
    sample(experiment(**{**RUN, **options}), workdir)
    return np.load(workdir.samples / "unipc.npz")["x"]


def expected(workdir, score, made, condition):
    """The samples of a guided score, drawn at once."""
    shape = (7, *made.data.event_shape)
    sampler = made.samplers["unipc"]
    return sampler(made.model.sde, given(score, condition), shape, seed=made.sampling.seed).samples.numpy()


class TestSamples:
    def test_samples_are_those_of_the_guided_model(self, workdir):
        """Batches of 3 of 7 samples give what one batch gives, with the conditions of each sample."""
        found = drawn(workdir, **FREE)
        made = experiment(**RUN, **FREE)
        model, _ = workdir.model(made)
        condition = sample_conditions(made, 0, 7)
        guided, free = (expected(workdir, score, made, condition) for score in (ClassifierFree(model, 2.0), model))
        assert np.abs(found - guided).max() < 1e-4 and np.abs(found - free).max() > 1e-4
        facts = json.loads((workdir.samples / "unipc.json").read_text())
        assert json.loads(facts["guidance"]) == FREE["guidance"]
        assert "ClassifierFree" in write_report(made, workdir).read_text()

    def test_by_the_classifier_of_another_run(self, workdir, trained):
        node = {"name": "ClassifierGuidance", "classifier": str(trained / "classifier"), "target": 3, "weight": 1.5}
        options = {"guidance": node, "sampling__condition": "ignore"}
        found = drawn(workdir, **options)
        made = experiment(**RUN, **options)
        classifier, checkpoint = Workdir(trained / "classifier").model(experiment(**TARGET))
        model, _ = workdir.model(made)
        guided, free = (
            expected(workdir, s, made, {}) for s in (ClassifierGuidance(model, classifier, 1.5, target=3), model)
        )
        assert np.abs(found - guided).max() < 1e-4 and np.abs(found - free).max() > 1e-4
        facts = json.loads((workdir.samples / "unipc.json").read_text())
        assert facts["classifier digest"] == checkpoint.digest

    def test_composed_conditions(self, workdir):
        found = drawn(workdir, **ONE_NOT_TWO)
        made = experiment(**RUN, **ONE_NOT_TWO)
        model, _ = workdir.model(made)
        score = ComposedConditions(model, ({"label": 1}, {"label": 2}), (1.0, -0.5))
        assert np.abs(found - expected(workdir, score, made, {})).max() < 1e-4

    def test_a_stopped_command_and_two_processes_give_the_same(self, workdir, tmp_path):
        whole = drawn(workdir, **FREE)
        shards = sorted((workdir.samples / "unipc").glob("shards-*/*.npz"))
        kept = {shard.name: shard.stat().st_mtime_ns for shard in shards[1:]}
        shards[0].unlink()
        assert np.array_equal(drawn(workdir, **FREE), whole)
        again = sorted((workdir.samples / "unipc").glob("shards-*/*.npz"))
        assert {shard.name: shard.stat().st_mtime_ns for shard in again if shard.name in kept} == kept
        shutil.rmtree(workdir.samples)
        sample(experiment(**RUN, **FREE), workdir, processes=2)
        assert np.array_equal(np.load(workdir.samples / "unipc.npz")["x"], whole)

    def test_other_guidance_is_drawn_anew(self, workdir, capsys):
        first = drawn(workdir, **FREE)
        second = drawn(workdir, guidance={"name": "ClassifierFree", "weight": 0.5})
        assert "Changes: guidance" in capsys.readouterr().out and not np.array_equal(first, second)
        assert not torch.equal(torch.from_numpy(drawn(workdir)), torch.from_numpy(second))


def by_classifier(**options):
    return {"guidance": {"name": "ClassifierGuidance", "classifier": "runs/classifier", **options}}


def threshold(score, **options):
    return {"guidance": {"name": "DynamicThreshold", "score": score, **options}}


@dataclass(frozen=True)
class Needy(Guidance):
    """A guidance of a user that needs a condition."""

    score: Callable
    weight: float = 1.0
    interval: tuple | None = None

    def direction(self, x, t):
        return -x

    def check_conditions(self, kinds, condition, dropout):
        super().check_conditions(kinds, condition, dropout)
        if condition == "ignore":
            raise ValueError("Needy needs a condition")


class TestGuidanceOfGuidance:
    def test_a_threshold_of_guided_scores(self, workdir):
        options = threshold({"name": "ClassifierFree", "weight": 5.0}, quantile=0.5)
        found = drawn(workdir, **options)
        made = experiment(**RUN, **options)
        model, _ = workdir.model(made)
        condition = sample_conditions(made, 0, 7)
        score = DynamicThreshold(ClassifierFree(model, 5.0), 0.5)
        wanted, free = (expected(workdir, s, made, condition) for s in (score, score.score))
        assert np.abs(found - wanted).max() < 1e-4 and np.abs(found - free).max() > 1e-4
        facts = json.loads((workdir.samples / "unipc.json").read_text())
        assert json.loads(facts["guidance"]) == options["guidance"]

    def test_a_classifier_inside(self, workdir, trained):
        node = {"name": "ClassifierGuidance", "classifier": str(trained / "classifier"), "target": 3}
        inside = drawn(workdir, guidance={"name": "StaticThreshold", "score": node}, sampling__condition="ignore")
        assert "classifier digest" in json.loads((workdir.samples / "unipc.json").read_text())
        assert np.isfinite(inside).all()

    def test_a_class_of_a_user_takes_part_in_the_check(self):
        node = {"name": f"{__name__}:Needy"}
        experiment(**RUN, guidance=node)
        for options in (node, {"name": "StaticThreshold", "score": node}):
            with pytest.raises(ConfigError, match="Needy needs a condition"):
                experiment(**{**RUN, "sampling__condition": "ignore"}, guidance=options)


def test_a_target_that_the_classifier_does_not_have(workdir, trained, capsys):
    """Refused before the first sample."""
    node = {"name": "ClassifierGuidance", "classifier": str(trained / "classifier"), "target": 13}
    for target, message in ((13, r"condition.label=13 is not allowed"), ("three", "these classes have no names")):
        with pytest.raises(ConfigError, match=f"config.guidance: .*{message}"):
            drawn(workdir, guidance=node | {"target": target}, sampling__condition="ignore")
    assert "drawing" not in capsys.readouterr().out


def test_a_target_by_the_name_of_its_class():
    class Named:
        """Data with names of classes."""

        def condition_row(self, name, value):
            return Classes(3, ("cat", "dog", "cow")).parse(name, value)

    model = ScoreModel(MLP((2,), width=8, depth=1), VPSDE())
    loaded = LoadedClassifier(Classifier(MLP((2,), width=8, depth=1, outputs=3), VPSDE(), 3), Named(), "label")
    node = {"name": "ClassifierGuidance", "classifier": "runs/classifier", "target": "dog"}
    assert int(build_guidance(node, model, Named(), loaded).target) == 1
    with pytest.raises(ConfigError, match=r"config\.guidance: label='horse' is not allowed.*'cat', 'dog', 'cow'"):
        build_guidance(node | {"target": "horse"}, model, Named(), loaded)
    build_guidance(node, model, Named())  # the name is looked up when the classifier is loaded


def composed(*conditions):
    return ONE_NOT_TWO | {"guidance": {"name": "ComposedConditions", "conditions": list(conditions)}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": {"name": "ClasifierFree"}}, "guidance.name='ClasifierFree' is not known.*did you mean 'ClassifierFree'"),
        ({"guidance": {"weight": 2.0}}, "config.guidance=.*give a node"),
        ({"guidance": {"name": "UniPC"}}, "config.guidance: UniPC is not allowed here"),
        ({"guidance": {"name": "ClassifierFree", "weight": "big"}}, "config.guidance.weight='big' is not allowed"),
        ({"guidance": {"name": "ClassifierFree", "wight": 2.0}}, "config.guidance.wight is not known.*did you mean 'weight'"),
        ({"guidance": {"name": "ClassifierFree", "interval": [2.0, 1.0]}}, "config.guidance.interval=1.0"),
        ({"guidance": {"name": "ClassifierFree", "score": {"name": "MLP"}}}, "config.guidance.score: MLP is not allowed here"),
        ({"guidance": {"name": "StaticThreshold", "score": 3}}, "config.guidance.score=3 is not allowed: give a node of another"),
        (threshold({"name": "ClassifierFree", "wight": 2.0}), "config.guidance.score.wight is not known"),
        (threshold({"name": "ClassifierGuidance", "classifier": 3}), "config.guidance.score.classifier=3 is not allowed"),
        ({"training__condition_dropout": 0.0, **threshold(FREE["guidance"])}, "needs the score without conditions"),
        (threshold(FREE["guidance"], quantile=2.0), "config.guidance.quantile=2.0 is not allowed"),
        (by_classifier(score={"name": "ClassifierGuidance", "classifier": "b"}), "'runs/classifier' and 'b' are two classifiers"),
        (by_classifier(), "config.guidance: the condition 'label' is ambiguous"),
        ({"guidance": {"name": "ClassifierGuidance"}}, "config.guidance: ClassifierGuidance needs classifier"),
        ({"guidance": {"name": "ClassifierGuidance", "classifier": 3}}, "config.guidance.classifier=3 is not allowed: give the"),
        ({"data__labels": False, **FREE}, "config.guidance: ClassifierFree needs conditions, and the data has none"),
        ({"sampling__condition": "ignore", **FREE}, "config.guidance: ClassifierFree needs conditions, and sampling.condition='"),
        ({"training__condition_dropout": 0.0, **FREE}, "config.guidance: ClassifierFree needs the score without conditions"),
        (ONE_NOT_TWO | {"sampling__condition": {"label": 3}}, "config.guidance: .*give sampling.condition='ignore'"),
        (by_classifier(target=3), "target=3 and sampling.condition='test' both give 'label'"),
        (by_classifier() | {"sampling__condition": "ignore"}, "config.guidance: target is missing"),
        (composed({"lable": 1}), "config.guidance: conditions.lable is not known.*did you mean 'label'"),
        (composed({"label": 12}), "config.guidance: .*label=12 is not allowed"),
        (composed(3), "config.guidance.conditions=.*give a list"),
    ],
)  # fmt: skip
def test_what_a_config_may_not_say(options, message):
    with pytest.raises(ConfigError, match=message):
        experiment(**{**RUN, **options})


def test_a_classifier_that_is_not_there(workdir, trained, tmp_path):
    node = {"name": "ClassifierGuidance", "classifier": str(tmp_path / "none"), "target": 3}
    with pytest.raises(ConfigError, match=r"config.guidance.classifier='.*none' contains no run"):
        drawn(workdir, guidance=node, sampling__condition="ignore")
    node["classifier"] = str(trained / "run")
    with pytest.raises(ConfigError, match=r"config.guidance: .*give a Classifier or a Regressor"):
        drawn(workdir, guidance=node, sampling__condition="ignore")
