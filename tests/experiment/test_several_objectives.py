"""Several objectives in a run, each with its own modules: a network and the noise schedule of its process."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from torch import nn

from benchmarks.children import together
from scoresde.experiment import CheckpointError, Workdir, likelihood, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.trained import as_one, check_trainable, trained_modules, with_modules
from scoresde.experiment.folder.checkpoint import last_checkpoint
from scoresde.experiment.folder.tensor_file import read_tensors
from scoresde.experiment.hub.transfer import push
from scoresde.experiment.reports.report import report as write_report
from scoresde.experiment.training.dry_run import _kinds_of_step, dry_run
from scoresde.experiment.training.metrics_log import columns
from scoresde.losses import DenoisingScoreMatching, ScheduleVariance
from scoresde.networks import MLP
from scoresde.score import ScoreModel
from scoresde.sde import VPSDE, LearnedSNRSDE
from tests.experiment.test_training import reload
from tests.experiment.training import advance, everything, experiment, same, trainer

LEARNED = {
    "sde": {"name": "LearnedSNRSDE", "log_snr_max": 6.0, "log_snr_min": -5.0, "hidden": 8},
    "objective": {"name": "DenoisingScoreMatching", "weighting": "likelihood"},
    "objectives": {"schedule": {"name": "ScheduleVariance"}},
}
FAST = {"training__optimizers": {"schedule": {"learning_rate": 0.1}}, "training__warmup": 0}
MODULES = ("network.", "sde.")


def moved(run, before):
    """Which modules have changed."""
    now = everything(run)
    return {
        name
        for name in MODULES
        for k, v in before.items()
        if k.startswith(f"model.{name}") and not torch.equal(v, now[k])
    }


class TestSteps:
    def test_each_objective_gives_the_gradient_of_its_own_modules(self):
        """Compared with autograd of both losses for the same draws. Their sum would give other gradients."""
        run = trainer(**LEARNED, training__grad_clip=1e20)
        made, size = run.experiment, run.config.batch_size
        x0, position, _ = made.data.train.batch(0, size, seed=made.seed)
        network, sde = list(run.model.network.parameters()), [p for p in run.model.sde.parameters() if p.requires_grad]
        main, schedule = made.objectives["objective"], made.objectives["schedule"]
        loss = main(run.model, x0, step=0, indices=position)
        second = schedule(run.model, x0, step=0, indices=position)
        assert torch.allclose(second, loss.square()), "both use the same draws"
        wanted = torch.autograd.grad(loss.mean(), network, retain_graph=True)
        of_schedule = torch.autograd.grad(second.mean(), sde, retain_graph=True)
        mixed = torch.autograd.grad(loss.mean() + second.mean(), network)
        step = run.update(x0, position)
        for parameters, gradients in ((network, wanted), (sde, of_schedule)):
            for p, g in zip(parameters, gradients, strict=True):
                assert torch.allclose(p.grad, g, rtol=1e-4, atol=1e-6)
        assert any(not torch.allclose(p.grad, g, rtol=1e-2, atol=1e-6) for p, g in zip(network, mixed, strict=True))
        norms = [torch.cat([g.flatten() for g in some]).norm() for some in (wanted, of_schedule)]
        assert [step.losses[k].norm for k in ("objective", "schedule")] == pytest.approx(
            [float(n) for n in norms], rel=1e-4
        )
        assert all(
            p.requires_grad
            for p in run.parameters
            if p is not run.model.sde.gamma_0 and p is not run.model.sde.log_rise
        )

    def test_every_module_has_its_own_rate_and_its_own_steps(self):
        options = {"schedule": {"learning_rate": 0.1, "every": 3, "grad_clip": 0.5, "beta2": 0.9}}
        run = trainer(**LEARNED, training__optimizers=options)
        for number in range(5):
            before = everything(run)
            step = advance(run)
            assert moved(run, before) == (set(MODULES) if number % 3 == 0 else {"network."}), number
            assert list(step.losses) == (["objective", "schedule"] if number % 3 == 0 else ["objective"])
        main, other = run.optimizer.param_groups
        assert other["betas"] == (0.9, 0.9) and other["lr"] == pytest.approx(0.1 / 2e-3 * main["lr"])
        counts = [int(run.optimizer.state[p]["step"]) for p in (run.parameters[0], run.model.sde.a)]
        assert counts == [5, 2]

    def test_micro_batches_and_lower_precision(self):
        more = ({}, {"training__micro_batch": 3}, {"training__precision": "bfloat16"})
        whole, cut, low = (trainer(**LEARNED, **FAST, **options) for options in more)
        for _ in range(2):
            a, b, c = (advance(run) for run in (whole, cut, low))
            for name in ("objective", "schedule"):
                assert b.losses[name].values.tolist() == pytest.approx(a.losses[name].values.tolist(), rel=1e-4)
                assert c.losses[name].values.tolist() == pytest.approx(a.losses[name].values.tolist(), rel=0.1)
            for p, q in zip(whole.parameters, cut.parameters, strict=True):
                assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
                assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("bad", ["objective", "schedule"])
    def test_a_bad_loss_of_one_changes_none(self, tmp_path, bad):
        run = trainer(**LEARNED)
        advance(run)
        before = everything(run)
        objective = run.experiment.objectives[bad]
        evaluate = objective.evaluate
        objective.evaluate = lambda *given, **condition: evaluate(*given, **condition) * torch.nan
        step = advance(run)
        of = "" if bad == "objective" else " of objectives.schedule"
        assert step.problem == f"the loss{of} is not finite for 8 of 8 examples" and step.skipped
        assert step.shown is step.losses[bad] and run.skipped == run.bad == 1 and same(before, everything(run))
        objective.evaluate = evaluate
        advance(run)
        assert run.bad == 0 and moved(run, before) == set(MODULES)

    def test_a_resumed_run_continues_the_same(self, tmp_path):
        options = {
            "training__optimizers": {"schedule": {"learning_rate": 0.1, "every": 2}},
            "training__posthoc_widths": (0.1,),
        }
        run = trainer(**LEARNED, **options)
        advance(run, 1)  # the next update of the schedule is not the next step
        again = reload(run, tmp_path, **LEARNED, **options)
        assert same(everything(run), everything(again))
        advance(run, 3)
        advance(again, 3)
        assert same(everything(run), everything(again))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of both objectives, to its end."""
    workdir = Workdir(tmp_path_factory.mktemp("learned") / "run")
    train_here(experiment(**RUN), workdir)
    return workdir


RUN = LEARNED | {
    "network__dropout": 0.0, "training__log_every": 1, "training__preview_every": 4, "training__steps": 4, "training__warmup": 0,
    "training__optimizers": {"schedule": {"learning_rate": 0.1, "every": 2}}, "training__ema_decay": 0.5,
    "samplers": {"unipc": {"name": "UniPC", "steps": 3}}, "sampling__count": 4, "likelihood__limit": 2,
    "likelihood__grid_events": 0, "likelihood__solver": {"name": "Multistep", "nodes": 4},
}  # fmt: skip


class TestRuns:
    def test_a_run_stores_both_modules_and_uses_both(self, whole):
        """The schedule has moved, and samples and likelihoods are those of the stored one."""
        made = experiment(**RUN)
        checkpoint = last_checkpoint(whole.checkpoints)
        names = {k.split(".")[0] + "." + k.split(".")[1] for k in checkpoint.tensors if not k.startswith("optimizer")}
        assert names == {f"{which}.{name}" for which in ("model", "ema") for name in ("network", "sde")}
        model, _ = whole.model(made)
        assert torch.equal(model.sde.a, checkpoint.tensors["ema.sde.a"])
        assert not torch.equal(model.sde.a, experiment(**RUN).model.sde.a)
        assert not torch.equal(whole.model(experiment(**RUN), "model")[0].sde.a, model.sde.a)
        whole.model(made)  # again, with parameters that need no gradient
        sample(experiment(**RUN), whole)
        assert likelihood(experiment(**RUN), whole)["events"] == 2
        assert "loss_schedule" in (write_report(experiment(**RUN), whole)).read_text()
        assert len(list(whole.previews.glob("*.png"))) == 2

    def test_report_and_card_state_what_each_objective_trains(self, whole, tmp_path):
        made = experiment(**RUN)
        network = sum(p.numel() for p in made.model.network.parameters())
        push(made, whole, tmp_path / "hub")
        text = write_report(made, whole).read_text(), (tmp_path / "hub" / "README.md").read_text().replace("\\", "")
        for page in text:
            assert f"SmallUNet with {network:,} parameters" in page
            assert "train_ends=False) with 27 parameters" in page
            assert "ScheduleVariance(); trains sde; learning rate 0.1; every 2 steps" in page
        facts = json.loads(whole.environment_file.read_text())
        assert facts["parameters"] == network + 27

    def test_rows_have_the_losses_of_every_objective(self, whole):
        with open(whole.metrics_file, newline="") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == columns(experiment(**RUN))
        assert list(rows[0])[-2:] == ["loss_schedule", "grad_norm_schedule"]
        assert [row["loss_schedule"] == "nan" for row in rows] == [False, True, False, True]
        assert [row["loss"] == "nan" for row in rows] == [False] * 4

    def test_two_processes_train_as_one(self, whole, tmp_path):
        ranks = together(tmp_path / "two", 2, {k.replace("__", "."): v for k, v in TWO.items()})
        assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
        start = experiment(**RUN).trained().state_dict()
        one, two = (last_checkpoint(place).tensors for place in (whole.checkpoints, tmp_path / "two" / "checkpoints"))
        for module in MODULES:
            names = [k for k in start if k.startswith(module) and start[k].is_floating_point()]
            a, b, at = (
                torch.cat([t[f"{p}{k}"].flatten() for k in names])
                for t, p in ((one, "model."), (two, "model."), (start, ""))
            )
            assert float((a - b).norm() / (a - at).norm()) < 2e-3, module

    def test_the_batch_of_a_bad_step_has_the_loss_of_the_objective(self, tmp_path):
        bad = {"name": "tests.experiment.test_several_objectives:BadSchedule"}
        made = experiment(**{**RUN, "objectives": {"schedule": bad}, "training__max_bad_steps": 1})
        with pytest.raises(
            FloatingPointError, match=r"the loss of objectives.schedule is not finite for 8 of 8 .* at step 2"
        ):
            train_here(made, Workdir(tmp_path / "run"))
        tensors, _ = read_tensors(tmp_path / "run" / "bad_batches" / "step-000000002.safetensors")
        assert bool(tensors["loss"].isnan().all())

    def test_initial_weights_of_both(self, whole, tmp_path):
        train_here(experiment(**RUN), Workdir(tmp_path / "on"), init_from=whole.path, init_weights="model")
        with pytest.raises(
            CheckpointError, match="it has the weights of network, sde, but this run trains network only"
        ):
            train_here(experiment(), Workdir(tmp_path / "other"), init_from=whole.path)
        train_here(experiment(training__steps=1), Workdir(tmp_path / "one"))
        with pytest.raises(
            CheckpointError, match="it has the weights of network only, but this run trains network, sde"
        ):
            train_here(experiment(**RUN), Workdir(tmp_path / "more"), init_from=tmp_path / "one")


TWO = {k: v for k, v in RUN.items() if not k.startswith(("sampl", "likelihood"))} | {
    "training__batch_size": 8, "training__preview_every": 0, "training__checkpoint_every": 4,
}  # fmt: skip


class BadSchedule(ScheduleVariance):
    """Losses that are not finite from step 2 on."""

    def draw(self, x0, *, step=None, indices=None, **given):
        self.step = step
        return super().draw(x0, step=step, indices=indices, **given)

    def evaluate(self, model, draw, **condition):
        return super().evaluate(model, draw, **condition) * (torch.nan if self.step >= 2 else 1.0)


def learned(**options):
    sde = LearnedSNRSDE(hidden=2, **options)
    return ScoreModel(MLP((2,), width=4, depth=1), sde), sde


class Critic(DenoisingScoreMatching):
    """An objective with a module of its own."""

    def __init__(self, sde):
        super().__init__(sde)
        self.critic = nn.Linear(2, 1)

    def trained(self, model):
        return {"critic": self.critic}


class TestModules:
    def test_an_objective_may_train_its_own(self):
        model = ScoreModel(MLP((2,), width=4, depth=1), VPSDE())
        objectives = {"objective": DenoisingScoreMatching(model.sde), "critic": Critic(model.sde)}
        check_trainable(model, objectives)
        every = as_one(trained_modules(model, objectives))
        assert dict(every.items()) == {"network": model.network, "critic": objectives["critic"].critic}

    def test_a_model_with_other_modules(self):
        model, sde = learned()
        other, other_sde = learned()
        pair = [nn.ModuleDict({"network": m.network, "sde": m.sde}) for m in (model, other)]
        made = with_modules(model, *pair)
        assert made.network is other.network and made.sde is other_sde and model.sde is sde
        single = with_modules(model, model.network, other.network)
        assert single.network is other.network and single.sde is sde

    @pytest.mark.parametrize(
        ("objectives", "message"),
        [
            (lambda sde: {"objective": DenoisingScoreMatching(sde)}, r"sde=Learned.*\(sde.w, sde.a, sde.b, sde.c\) that no"),
            (lambda sde: {"objective": ScheduleVariance(sde)}, r"network=MLP.* has trainable parameters \(network\..* that no"),
            (
                lambda sde: {"objective": DenoisingScoreMatching(sde), "more": DenoisingScoreMatching(sde)},
                "config.objective and config.objectives.more both train network",
            ),
            (
                lambda sde: {"objective": DenoisingScoreMatching(sde), "one": Critic(sde), "two": Critic(sde)},
                "config.objectives.one and config.objectives.two train different modules with the name 'critic'",
            ),
        ],
    )  # fmt: skip
    def test_refused(self, objectives, message):
        model, sde = learned()
        with pytest.raises(ValueError, match=message):
            check_trainable(model, objectives(sde))

    def test_a_name_that_a_module_cannot_have(self):
        model, sde = learned()
        critic = Critic(sde)
        critic.trained = lambda model: {"keys": critic.critic}
        with pytest.raises(ValueError, match=r"config.objectives.c trains a module with the name 'keys'"):
            check_trainable(model, {"objective": DenoisingScoreMatching(sde), "c": critic, "s": ScheduleVariance(sde)})


def test_a_dry_run_measures_steps_with_and_without_the_second_objective():
    """Three of four steps update the network alone. A mean over five consecutive steps would depend on where they start."""
    run = trainer(**LEARNED, training__optimizers={"schedule": {"every": 4}}, training__steps=100)
    (main, alone), (both, together_) = _kinds_of_step(run, 5)
    assert (main, both) == (0.75, 0.25) and alone == [1, 2, 3, 5, 6] and together_ == [4, 8, 4, 8, 4]
    single = trainer(training__steps=100)
    assert _kinds_of_step(single, 5) == [(1.0, [1, 2, 3, 4, 5])]
    assert dry_run(run.experiment).seconds > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {"objective": {"name": "ScheduleVariance"}}}, "config.objectives.objective is not allowed"),
        ({"objectives": {"schedule": {"name": "UniformTime"}}}, "config.objectives.schedule: UniformTime is not allowed here"),
        ({"objectives": 3}, "config.objectives=3: give a section"),
        (
            {"training__optimizers": {"shedule": {"every": 2}}},
            "config.training.optimizers.shedule is not known: config.objectives has schedule; config.objective has the settings ",
        ),
        ({"training__optimizers": {"schedule": {"every": 0}}}, "config.training.optimizers.schedule.every=0 is not allowed"),
        ({"training__optimizers": {"schedule": {"rate": 1}}}, "optimizers.schedule.rate is not known.*learning_rate"),
        ({"training__optimizers": {"schedule": {"beta2": 1.0}}}, "config.training.optimizers.schedule.beta2=1.0 is not allowed"),
        ({"training__optimizers": {"schedule": 3}}, "config.training.optimizers.schedule=3: give a section"),
        ({"training__optimizers": 3}, "config.training.optimizers=3 is not allowed"),
        ({"sde": {"name": "LearnedSNRSDE", "train_ends": True}}, "objectives.schedule: .*end points that are trained"),
        ({"sde": {"name": "VPSDE"}}, "objectives.schedule: .*has no trainable parameters"),
        (
            {"objectives": {"schedule": {"name": "ScheduleVariance", "times": {"name": "UniformLogNoise"}}}},
            "config.objectives.schedule.times=UniformLogNoise.*give UniformTime",
        ),
    ],
)  # fmt: skip
def test_what_a_config_may_not_say(options, message):
    with pytest.raises(ConfigError, match=message):
        experiment(**{**LEARNED, **options})


def test_sharded_is_for_a_single_module(monkeypatch, tmp_path):
    ranks = together(
        tmp_path / "run", 2, {k.replace("__", "."): v for k, v in TWO.items()} | {"training.sharded": True}
    )
    assert [rank.end() for rank in ranks] == [2, 2], [rank.output() for rank in ranks]
    assert (
        "config.training.sharded=True is not allowed for several modules (network, sde): give False"
        in ranks[0].output()
    )
