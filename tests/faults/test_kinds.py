"""Every kind of run keeps what training promises: restarts, processes, micro-batches, precision, bad steps and averages."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from dataclasses import replace

import pytest
import torch

from benchmarks.bench import Bench
from benchmarks.children import together
from benchmarks.faults import attempt, faults_of
from benchmarks.kinds import KINDS, NOISES
from benchmarks.work_faults import LIKELIHOOD, SAMPLING, killed
from scoresde.ema import EMA
from scoresde.experiment.training import trainer as trainer_module
from scoresde.experiment.training.distributed import Replicated
from scoresde.experiment.training.trainer import Trainer
from tests.faults import kind_checks
from tests.faults.kind_checks import CHECKS

OTHERS = [kind for kind in KINDS.values() if kind.name != "score"]
SCHEDULE = KINDS["process with parameters"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_holds(kind, check, tmp_path):
    check(kind, Bench(tmp_path, random.Random(0), kind))


@pytest.mark.parametrize(
    "check", [kind_checks.killed_and_resumed, kind_checks.two_as_one], ids=lambda check: check.__name__
)
@pytest.mark.parametrize("kind", NOISES.values(), ids=lambda kind: kind.name)
def test_noise_that_is_not_gaussian(kind, check, tmp_path):
    check(kind, Bench(tmp_path, random.Random(0), kind))


@pytest.mark.long
@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_faults_of_every_kind(kind, tmp_path):
    wrong = [line for fault in faults_of(kind) for line in attempt(fault, 2, tmp_path, kind=kind)]
    assert wrong == []


FEW = {
    "sampling.count": 24, "likelihood.limit": 24, "samplers": "{'pc': {'name': 'PredictorCorrector', 'steps': 3}}",
    "likelihood.solver": "{'name': 'Multistep', 'nodes': 4}",
}  # fmt: skip
VDM = KINDS["variational diffusion model"]


def few(work, **more):
    """The work with few parts."""
    return replace(work, options={**work.options, **FEW, **more})


@pytest.mark.parametrize(
    ("kind", "work"),
    [*itertools.product([KINDS["conditional model"], SCHEDULE], [SAMPLING, LIKELIHOOD]), (VDM, LIKELIHOOD)],
    ids=lambda value: getattr(value, "command", "") or value.name,
)
def test_killed_samples_and_likelihoods(kind, work, tmp_path):
    killed(few(work), Bench(tmp_path, random.Random(0), kind_checks.short(kind)), tmp_path / "run", 1)


def in_two_processes(work, bench, folder):
    """Two processes, as of a launcher, do the work of one."""
    work.begin(bench, folder)
    ranks = together(folder, 2, bench.options(work.options), command=work.command)
    assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
    work.resume(bench, folder)


def test_a_likelihood_of_discrete_data_in_two_processes(tmp_path):
    in_two_processes(few(LIKELIHOOD), Bench(tmp_path, random.Random(0), kind_checks.short(VDM)), tmp_path / "run")


DDSS = "{'pc': {'name': 'DDSS', 'steps': 2, 'updates': 60, 'batch_size': 16, 'events': 64}}"


def test_a_sampler_that_is_fitted_is_killed_and_shared(tmp_path):
    """SIGKILL within the fit, which starts again with the same numbers; and two processes with one fit."""
    work, bench = few(SAMPLING, samplers=DDSS), Bench(tmp_path, random.Random(0), kind_checks.short(KINDS["score"]))
    place, fitted = tmp_path / "killed", "samples/pc/shards-*/sampler."
    work.begin(bench, place)
    child = work.start(bench, place)
    child.until(lambda: "fitting the sampler" in child.output(), "the fit")
    time.sleep(bench.random.uniform(0.0, 0.05))
    child.signal(signal.SIGKILL)
    child.end()
    assert not list(place.glob(fitted + "json")), "the fit ended before the kill"
    work.resume(bench, place)
    in_two_processes(work, bench, tmp_path / "two")
    whole = work.whole(bench)
    for name in ("killed", "two"):
        (ours,), (theirs,) = (folder.glob(fitted + "safetensors") for folder in (tmp_path / name, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    logs = [(tmp_path / f"two{rank}.out").read_text() for rank in (0, 1)]
    assert sum(log.count("fitting the sampler") for log in logs) == 1


@pytest.mark.parametrize("work", [SAMPLING, LIKELIHOOD], ids=lambda work: work.command)
def test_killed_samples_and_bounds_of_a_jump_process(work, tmp_path):
    few = {
        "sampling.count": 24, "likelihood.limit": 24, "likelihood.solver": None, "likelihood.tolerance": None,
        "likelihood.method": "{'name': 'JumpLikelihood', 'draws': 4}",
        "samplers": "{'pc': {'name': 'AncestralSampler', 'steps': 20}}",
    }  # fmt: skip
    options = {k: v for k, v in {**work.options, **few}.items() if v is not None}
    short = kind_checks.short(KINDS["jump process"])
    result = tuple(name.replace("test.csv", "test-bound.csv") for name in work.result)
    made = replace(work, options=options, result=result)
    killed(made, Bench(tmp_path, random.Random(0), short), tmp_path / "run", 1)


def forgets_the_schedule():
    """A checkpoint from which the parameters of the process are not read."""
    load = trainer_module.load_weights

    def without(module, checkpoint, which):
        load(module, checkpoint, which)
        if which == "model":
            with torch.no_grad():
                module["sde"].a.mul_(1.01)

    trainer_module.load_weights = without


def draws_dropout_in_order():
    """Dropout that depends on how many numbers were drawn before, not on the step."""
    trainer_module.seeded_generator = lambda *_: contextlib.nullcontext()


def drops_conditions_in_order():
    """Conditions that are dropped by PyTorch's own generator."""

    class InOrder:
        def __init__(self, *_): ...

        def uniform(self, *_, **__):
            return torch.rand(8, dtype=torch.float64)

    trainer_module.NoiseSource = InOrder


def forgets_the_history():
    """A checkpoint from which the history of the losses is not read."""
    trainer_module.load_learned = lambda *_: None


def learns_alone():
    """A history of the losses of one process."""
    observe = Trainer._observe

    def alone(self, part, losses, t):
        group, config = self.group, self.config
        self.group, self.config = replace(group, rank=0, world=1), replace(config, batch_size=len(losses))
        observe(self, part, losses, t)
        self.group, self.config = group, config

    Trainer._observe = alone


def exchanges_one_module():
    """Gradients of the schedule that stay in their process."""
    wrap = Replicated.wrap

    def only(self, losses):
        return losses if "sde" in losses.trained else wrap(self, losses)

    Replicated.wrap = only


class TestPlantedErrors:
    @pytest.mark.parametrize(
        ("kind", "error", "check", "message"),
        [
            (SCHEDULE, forgets_the_schedule, "killed_and_resumed", "tensors differ"),
            (KINDS["energy"], draws_dropout_in_order, "killed_and_resumed", "tensors differ"),
            (KINDS["conditional model"], drops_conditions_in_order, "killed_and_resumed", "tensors differ"),
            (KINDS["learned variance"], forgets_the_history, "killed_and_resumed", "tensors differ"),
            (KINDS["learned variance"], learns_alone, "two_as_one", "the history is another"),
            (SCHEDULE, exchanges_one_module, "two_as_one", r"sde\.: .* of the way apart"),
        ],
    )
    def test_in_processes(self, kind, error, check, message, tmp_path):
        kind = replace(kind, before=error)
        with pytest.raises(AssertionError, match=message):
            getattr(kind_checks, check)(kind, Bench(tmp_path, random.Random(0), kind))

    def test_averages_of_one_module_are_not_updated(self, monkeypatch, tmp_path):
        update = EMA.update

        def first_only(self, module):
            before = {k: v.clone() for k, v in self.module.state_dict().items() if k.startswith("sde.")}
            update(self, module)
            self.module.load_state_dict(before, strict=False)

        monkeypatch.setattr(EMA, "update", first_only)
        with pytest.raises(AssertionError, match="the average is"):
            kind_checks.averages(SCHEDULE, Bench(tmp_path, random.Random(0)))

    @pytest.mark.parametrize("kind", [KINDS["conditional model"], SCHEDULE], ids=lambda kind: kind.name)
    def test_samples_of_the_weights_without_averaging(self, kind, monkeypatch, tmp_path):
        model = kind_checks.Workdir.model
        monkeypatch.setattr(kind_checks.Workdir, "model", lambda self, made, which="model": model(self, made, "model"))
        with pytest.raises(AssertionError, match="samples of other weights"):
            kind_checks.averages(kind, Bench(tmp_path, random.Random(0)))

    @pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
    def test_bad_steps_are_taken(self, kind, monkeypatch, tmp_path):
        update = Trainer._problem

        def applied(self, part, bad, norm):
            problem = update(self, part, bad, norm)
            if problem:
                self._apply()
            return problem

        monkeypatch.setattr(Trainer, "_problem", applied)
        with pytest.raises(AssertionError, match="a bad step changed something"):
            kind_checks.bad_steps_change_nothing(kind, Bench(tmp_path, random.Random(0)))

    @pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
    def test_the_mean_of_a_micro_batch(self, kind, monkeypatch, tmp_path):
        """Gradients of the mean over a micro-batch in place of its share of the mean over the batch."""
        monkeypatch.setattr(trainer_module._Evaluation, "forward", _mean)
        with pytest.raises(AssertionError, match="the gradient of objective"):
            kind_checks.micro_batches(kind, Bench(tmp_path, random.Random(0)))

    def test_float32_in_place_of_bfloat16(self, monkeypatch, tmp_path):
        monkeypatch.setattr(trainer_module, "prepare_model", lambda model, *_: model)
        with pytest.raises(AssertionError, match=r"losses of objective: 0.0e\+00 apart"):
            kind_checks.near_in_bfloat16(OTHERS[0], Bench(tmp_path, random.Random(0)))


def _mean(self, draw, condition):
    """Losses whose sum, divided by the batch size of 8, is the mean over a micro-batch."""
    losses = self.objective.evaluate(self.model, draw, **condition)
    share = len(losses) / 8
    return losses.detach() + (losses - losses.detach()) / share
