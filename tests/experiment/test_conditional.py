"""A conditional model from the data to the likelihood: each event and each sample keeps its own conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.children import together
from scoresde.experiment import Workdir, likelihood, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.condition_values import condition_facts, sample_conditions
from scoresde.experiment.folder.checkpoint import last_checkpoint
from scoresde.experiment.jobs.likelihood import describe
from scoresde.experiment.reports.report import report as write_report
from scoresde.experiment.results.event_sets import sample_set
from scoresde.likelihood import bits_per_dim, log_likelihood
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.conftest import called
from tests.experiment.test_training import reload
from tests.experiment.training import advance, everything, experiment, gradient, same, trainer

LABELS = {"data__labels": True}
BOXES = {"data": "{'name': 'Degraded', 'data': {'name': 'Digits'}, 'operator': {'name': 'BoxInpainting'}}"}
CHEAP = LABELS | SMALL
SAMPLING = {
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 3}}", "sampling__count": 7, "sampling__batch_size": 3,
    "likelihood__limit": 6, "likelihood__batch_size": 4, "likelihood__grid_events": 0,
    "likelihood__solver": "{'name': 'Multistep', 'nodes': 6}", "training__preview_every": 0,
}  # fmt: skip


def conditions_of(run, steps=1, **options):
    """The conditions that the loss gets in each step."""
    seen = []
    objective = run.experiment.objective
    evaluate = objective.evaluate

    def watched(model, draw, **condition):
        seen.append(condition)
        return evaluate(model, draw, **condition)

    objective.evaluate = watched
    advance(run, steps)
    del objective.evaluate
    return seen


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class TestTraining:
    def test_an_event_is_dropped_by_its_position_in_the_stream(self):
        whole = joined(conditions_of(trainer(**CHEAP, training__condition_dropout=0.5)))
        cut = joined(conditions_of(trainer(**CHEAP, training__condition_dropout=0.5, training__micro_batch=3)))
        assert whole["label"].tolist() == cut["label"].tolist() and whole["dropped"].tolist() == cut["dropped"].tolist()
        run = trainer(**CHEAP, training__condition_dropout=0.3)
        dropped = torch.cat([part["dropped"] for part in conditions_of(run, 60)]).float()
        assert abs(float(dropped.mean()) - 0.3) < 5 * (0.21 / len(dropped)) ** 0.5
        u = NoiseSource(0, torch.arange(8)).uniform((), step=0, purpose="condition dropout", dtype=torch.float64)
        assert whole["dropped"].tolist() == (u < 0.5).tolist()

    def test_without_dropout_the_network_gets_labels_only(self):
        (condition,) = conditions_of(trainer(**CHEAP, training__condition_dropout=0.0))
        run = trainer(**CHEAP)
        index = run.experiment.data.train.batch(0, 8, seed=0)
        assert list(condition) == ["label"] and torch.equal(condition["label"], index.condition["label"])

    def test_micro_batches_add_up_to_the_batch(self):
        whole, cut = trainer(**LABELS), trainer(**LABELS, training__micro_batch=3)
        for _ in range(2):
            a, b = advance(whole), advance(cut)
            assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=1e-5)
            assert float((gradient(whole) - gradient(cut)).norm() / gradient(whole).norm()) < 1e-5

    @pytest.mark.parametrize("options", [{}, {"training__precision": "bfloat16", "training__ema_decays": [0.9, 0.99]}])
    def test_two_and_two_steps_are_four(self, tmp_path, options):
        options = CHEAP | options
        whole, first = trainer(**options), trainer(**options)
        advance(whole, 4)
        advance(first, 2)
        second = reload(first, tmp_path, **options)
        advance(second, 2)
        assert same(everything(whole), everything(second))

    def test_data_without_conditions_trains_as_before(self):
        """Dropout of conditions draws no number that the rest of a step uses."""
        one, two = trainer(**SMALL), trainer(**SMALL, training__condition_dropout=0.7)
        advance(one, 2)
        advance(two, 2)
        assert same(everything(one), everything(two))

    @pytest.mark.long
    @pytest.mark.parametrize(("dropout", "data"), [(0.1, LABELS), (0.0, LABELS), (0.1, BOXES)])
    def test_two_processes_train_as_one(self, tmp_path, dropout, data):
        options = {"training.steps": 4, "training.log_every": 1, "network.dropout": 0.0}
        options |= {key.replace("__", "."): value for key, value in data.items()}
        options["training.condition_dropout"] = dropout
        ranks = together(tmp_path / "two", 2, options)
        assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
        train_here(experiment(**{k.replace(".", "__"): v for k, v in options.items()}), Workdir(tmp_path / "one"))
        one, two = (last_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("one", "two"))
        for name, value in one.items():
            if name.startswith("model."):
                assert float((value - two[name]).abs().max()) < 1e-4

    def test_a_bad_step_keeps_the_conditions(self, tmp_path):
        options = CHEAP | {"objective__name": "benchmarks.bad_losses:Bad", "objective__steps": (1,)}
        workdir = Workdir(tmp_path / "run")
        train_here(experiment(**options, training__preview_every=0), workdir)
        from safetensors.torch import load_file

        (file,) = workdir.bad_batches.glob("*.safetensors")
        saved = load_file(file)
        batch = experiment(**options).data.train.batch(1, 8, seed=0)
        assert torch.equal(saved["condition.label"], batch.condition["label"]) and torch.equal(saved["x"], batch.x)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = experiment(**CHEAP, **SAMPLING)
    workdir = Workdir(tmp_path_factory.mktemp("conditional") / "run")
    train_here(made, workdir)
    return made, workdir


class TestSamples:
    def test_values_of_samples(self, trained):
        made, _ = trained

        def labels(value, first, count):
            given = experiment(**CHEAP, **SAMPLING, sampling__condition=value)
            return sample_conditions(given, first, count).get("label", torch.empty(0)).tolist()

        test = made.data.test.conditions(slice(None))["label"]
        assert torch.equal(sample_conditions(made, 357, 4)["label"], test[[357, 358, 0, 1]])
        assert labels("{'label': 3}", 5, 2) == [3, 3]
        assert labels("{'label': [1, 2, 3]}", 2, 4) == [3, 1, 2, 3]
        assert labels("{'label': 'balanced'}", 9, 3) == [9, 0, 1]
        assert labels("'ignore'", 0, 3) == []
        assert labels("'train'", 0, 2) == made.data.train.conditions([0, 1])["label"].tolist()

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("{'label': 10}", r"condition\.label=10 is not allowed: give a class, a whole number in 0 \.\. 9"),
            ("{'lable': 1}", "condition.lable is not known.*did you mean 'label'"),
            ("{'label': 'many'}", "condition.label='many' is not allowed"),
            ("'tests'", "condition='tests' is not allowed"),
            ("3", "condition=3 is not allowed"),
        ],
    )
    def test_wrong_values_are_refused(self, value, message):
        with pytest.raises(ConfigError, match=message):
            experiment(**CHEAP, sampling__condition=value)

    @pytest.mark.parametrize("section", ["sampling", "likelihood"])
    def test_conditions_that_training_never_ignored_cannot_be_ignored(self, section):
        options = CHEAP | {f"{section}__condition": "'ignore'"}
        experiment(**options)
        message = rf"config\.{section}\.condition='ignore' is not allowed with training.condition_dropout=0"
        with pytest.raises(ConfigError, match=message):
            experiment(**options, training__condition_dropout=0)

    @pytest.mark.parametrize(("section", "value"), [("sampling", "'test'"), ("likelihood", "'data'")])
    def test_conditions_that_training_always_ignored_cannot_be_used(self, section, value):
        ignored = {"sampling__condition": "'ignore'", "likelihood__condition": "'ignore'"}
        options = CHEAP | ignored | {"training__condition_dropout": 1}
        experiment(**options)
        experiment(**SMALL, training__condition_dropout=1)
        message = rf"config\.{section}\.condition={value} is not allowed with training.condition_dropout=1"
        with pytest.raises(ConfigError, match=message):
            experiment(**options | {f"{section}__condition": value})

    @pytest.mark.parametrize("before", [{}, {"sampling__condition": "'test'"}, {"sampling__condition": "{'label': 2}"}])
    def test_one_name_can_be_overridden(self, before):
        made = experiment(**CHEAP, **before, sampling__condition__label=1)
        assert sample_conditions(made, 0, 2)["label"].tolist() == [1, 1]
        with pytest.raises(ConfigError, match=r"condition\.lable is not known.*did you mean 'label'"):
            experiment(**CHEAP, sampling__condition__lable=1)

    def test_all_conditions_need_a_value(self, tmp_path):
        """Training drops all conditions of an event or none, so the model does not know events with some of them."""
        words = np.zeros((20, 3, 4), np.float32)
        np.savez(tmp_path / "a.npz", x=np.zeros((20, 2), np.float32), y=np.arange(20) % 5, words=words)
        given = {name: f"{tmp_path}/a.npz:{name}" for name in ("y", "words")}
        data = str({"name": "Arrays", "train": f"{tmp_path}/a.npz:x", "condition": given})

        def samples(value):
            made = experiment(**SMALL | {"data": data, "sampling__condition": value})
            return made, sample_conditions(made, 1, 3)

        with pytest.raises(
            ConfigError, match=r"condition has no value for words: give one, e\.g\. \{'words': 'test'\}"
        ):
            samples("{'y': 3}")
        made, found = samples("{'y': 'test', 'words': [[[1, 2, 3, 4]], [[5, 6, 7, 8], [1, 1, 1, 1]]]}")
        assert torch.equal(found["y"], made.data.test.conditions(torch.tensor([1, 0, 1]))["y"])  # two test events
        words = found["words"]
        assert words[0].tolist() == words[2].tolist() == [[5, 6, 7, 8], [1, 1, 1, 1]]
        assert words[1, 0].tolist() == [1, 2, 3, 4] and bool(words[1, 1].isnan().all())

    def test_names_of_classes(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((20, 2), np.float32), y=np.arange(20) % 3)
        node = {"name": "Arrays", "train": f"{tmp_path}/a.npz:x", "condition": {"y": f"{tmp_path}/a.npz:y"}}
        data = {"data": node | {"classes": {"y": ["cat", "test", "dog"]}}}
        made = experiment(**SMALL | data, sampling__condition={"y": ["dog", "cat", 1]})
        assert sample_conditions(made, 0, 4)["y"].tolist() == [2, 0, 1, 2]
        assert sample_conditions(experiment(**SMALL | data, sampling__condition__y="dog"), 0, 1)["y"].tolist() == [2]
        for value, message in (
            ("'dgo'", r"condition\.y='dgo' is not allowed: .* or one of 'cat', 'test', 'dog'; did you mean 'dog'"),
            (
                "'test'",
                r"condition\.y='test' is not allowed, because a class has this name: give the number of the class, 1",
            ),
        ):
            with pytest.raises(ConfigError, match=message):
                experiment(**SMALL | data, sampling__condition__y=value)
        with pytest.raises(
            ConfigError, match=r"give a class, a whole number in 0 \.\. 9, since these classes have no names"
        ):
            experiment(**CHEAP, sampling__condition__label="'cat'")

    def test_a_condition_of_data_without_conditions_is_refused(self):
        with pytest.raises(ConfigError, match="the conditions of the data are none"):
            experiment(**SMALL, sampling__condition="{'label': 1}")

    def test_batches_do_not_matter(self, trained, tmp_path):
        _, workdir = trained
        sample(experiment(**CHEAP, **SAMPLING), workdir)
        one = np.load(workdir.samples / "unipc.npz")
        sample(experiment(**CHEAP, **SAMPLING | {"sampling__batch_size": 7}), workdir)
        again = np.load(workdir.samples / "unipc.npz")
        assert np.allclose(one["x"], again["x"], atol=1e-5)
        model, _ = workdir.model(experiment(**CHEAP, **SAMPLING))
        labels = torch.from_numpy(one["condition_label"])
        here = experiment(**CHEAP, **SAMPLING)
        sampler = here.samplers["unipc"]
        x = sampler(model.sde, model.given(label=labels), (7, 1, 8, 8), seed=here.sampling.seed).samples
        assert np.allclose(x.numpy(), one["x"], atol=1e-5)
        other = sampler(model.sde, model, (7, 1, 8, 8), condition={"label": (labels + 1) % 10}, seed=0).samples
        assert not torch.equal(other, x)

    def test_another_condition_is_another_set_of_samples(self, trained):
        _, workdir = trained
        flags = [f"--config.{k.replace('__', '.')}={v}" for k, v in SAMPLING.items()]
        done = called("sample", "--workdir", workdir.path, "--condition", "label=3", *flags)
        assert done.returncode == 0, done.stderr
        assert set(np.load(workdir.samples / "unipc.npz")["condition_label"].tolist()) == {3}
        made = experiment(**CHEAP, **SAMPLING)
        assert "condition {&quot;label&quot;: 3}" in write_report(made, workdir).read_text()
        (warning,) = sample_set(made, workdir, "unipc").warnings
        assert warning.startswith('the samples have the condition {"label": 3}')
        for wrong, message in (
            ("label", "--condition 'label' is not allowed: give NAME=VALUE"),
            ("label=11", "condition.label=11 is not allowed"),
            ("lable=1", "did you mean 'label'"),
        ):
            done = called("sample", "--workdir", workdir.path, "--condition", wrong)
            assert done.returncode == 2 and message in done.stderr
        done = called("sample", "--workdir", workdir.path, "--condition", "label=1", "--condition", "label=2")
        assert done.returncode == 2 and "--condition gives label two values: give one, or a list" in done.stderr
        done = called("sample", "--workdir", workdir.path, "--condition", "label=1", "--config.sampling.condition=test")
        assert done.returncode == 2 and "set the same value" in done.stderr
        sample(experiment(**CHEAP, **SAMPLING), workdir)
        assert not sample_set(made, workdir, "unipc").warnings

    def test_samples_under_the_conditions_of_changed_data_are_drawn_again(self, trained):
        made, _ = trained
        before = condition_facts(made)
        labels = made.data.test._rows.values["label"]
        assert condition_facts(made) == before and before["condition"] == '"test"'
        try:
            labels[0] += 1
            assert condition_facts(made) != before
        finally:
            labels[0] -= 1


class TestLikelihood:
    def test_rows_are_those_of_the_events_conditions(self, trained):
        _, workdir = trained
        made = experiment(**CHEAP, **SAMPLING)
        given = likelihood(made, workdir)
        model, _ = workdir.model(made)
        x = made.data.test.encode(torch.arange(6), seed=0)
        labels = made.data.test.conditions(torch.arange(6))["label"]
        alone = log_likelihood(
            model.sde, model, x, condition={"label": labels}, solver=made.likelihood.solver,
            divergence=made.likelihood.divergence, noise=NoiseSource(0, torch.arange(6)).again(0),
        )  # fmt: skip
        bits = bits_per_dim(alone.log_prob, (1, 8, 8), made.data.transform)
        assert given["bits_per_dim"] == pytest.approx(float(bits.mean()), abs=1e-5)
        assert given["condition"] == "data"
        ignored = likelihood(experiment(**CHEAP, **SAMPLING, likelihood__condition="'ignore'"), workdir)
        assert ignored["bits_per_dim"] != given["bits_per_dim"] and ignored["condition"] == "ignore"
        assert describe(given).endswith("on 6 test events given their conditions")
        assert describe(ignored).endswith("on 6 test events without their conditions")


class WithoutConditions(nn.Module):
    def __init__(self, event_shape):
        super().__init__()
        self.inner = MLP(event_shape, 8, 1)

    def forward(self, x, label):
        return self.inner(x, label)


class WithLabel(WithoutConditions):
    def forward(self, x, label, *, y=None):
        return self.inner(x, label)


class TestNetworks:
    def test_a_network_that_does_not_take_the_condition_is_refused(self):
        node = "{'name': 'tests.experiment.test_conditional:WithoutConditions'}"
        options = LABELS | {"network": node, "network__channels": None, "network__blocks": None, "model": "{}"}
        with pytest.raises(
            ConfigError, match="WithoutConditions does not take the condition 'label' of the data, only none"
        ):
            experiment(**options)
        experiment(**options | {"data__labels": False})

    def test_a_network_without_dropped_needs_no_dropout(self, tmp_path):
        raw = np.zeros((20, 2), np.float32)
        np.savez(tmp_path / "a.npz", x=raw, y=np.arange(20) % 2)
        data = f"{{'name': 'Arrays', 'train': '{tmp_path}/a.npz:x', 'condition': {{'y': '{tmp_path}/a.npz:y'}}}}"
        node = "{'name': 'tests.experiment.test_conditional:WithLabel'}"
        options = {
            "data": data, "network": node, "network__channels": None, "network__blocks": None, "model": "{}",
        }  # fmt: skip
        with pytest.raises(
            ConfigError, match=r"condition_dropout=0\.1 is not allowed: WithLabel\.forward does not take"
        ):
            experiment(**options)
        advance(trainer(**options, training__condition_dropout=0))
