"""A training step does not depend on its division, computation or interruptions, and a bad step changes nothing."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from torch import nn

from benchmarks.children import together
from scoresde.experiment import Workdir
from scoresde.experiment import train as train_here
from scoresde.experiment.folder.checkpoint import last_checkpoint, save_checkpoint
from scoresde.experiment.folder.tensor_file import read_tensors
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.signals import GRACE, catch_signals
from scoresde.experiment.training.trainer import BUCKETS, seeded_generator, time_edges
from scoresde.losses import ChainTimes, DenoisingScoreMatching, UniformLogNoise, UniformTime
from scoresde.networks import Embedding
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE
from tests.experiment.training import advance, everything, experiment, gradient, same, trainer

BAD = {"objective__name": "benchmarks.bad_losses:Bad"}


def reload(run, folder, **overrides):
    """Save, and resume in a new object."""
    path = save_checkpoint(
        folder, run.trained, run.averages, run.optimizer, run.step, "", 3, facts=run.facts(), learned=run.learned()
    )
    made = trainer(**overrides)
    made.load(last_checkpoint(path.parent))
    return made


class TestCutting:
    """float32 sums in another order. 1e-5 of the gradient's norm allows a hundred times the rounding error of a sum."""

    def test_micro_batches_add_up_to_the_batch(self):
        whole, cut = trainer(), trainer(training__micro_batch=3)
        for _ in range(3):
            a, b = advance(whole), advance(cut)
            assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=1e-5)
            assert float((gradient(whole) - gradient(cut)).norm() / gradient(whole).norm()) < 1e-5

    def test_a_mean_of_means_would_be_seen(self):
        whole = trainer(training__grad_clip=1e9)
        advance(whole)
        parts = []
        for part in (slice(0, 3), slice(3, 6), slice(6, 8)):
            one = trainer(training__grad_clip=1e9)
            x, position, _ = one.experiment.data.train.batch(0, 8, seed=0, part=part)
            one.update(x, position)
            parts.append(gradient(one) * 8 / len(x))
        wrong = torch.stack(parts).mean(0)
        assert float((gradient(whole) - wrong).norm() / gradient(whole).norm()) > 1e-3

    def test_parts_of_a_batch_are_the_batch(self):
        data = experiment().data.train
        x, position, _ = data.batch(200, 7, seed=3)  # across the end of an epoch
        for world in (2, 3):
            parts = [
                data.batch(200, 7, seed=3, part=Group(r, world, torch.device("cpu")).part(7)) for r in range(world)
            ]
            assert torch.equal(torch.cat([p[0] for p in parts]), x)
            assert torch.equal(torch.cat([p[1] for p in parts]), position)

    def test_two_processes_train_as_one(self, tmp_path):
        """Losses and gradient norms of every step, and the weights.

        Adam's first steps divide a gradient by its own size, so that rounding errors of small gradients are visible; a
        thousandth of the distance that the weights have moved is allowed.
        """
        options = {"training.steps": 4, "training.log_every": 1, "training.ema_decays": [0.9], "network.dropout": 0.0}
        ranks = together(tmp_path / "two", 2, options)
        assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
        assert "by 2 processes" in ranks[0].output() and "trained to" not in ranks[1].output()
        train_here(experiment(**{k.replace(".", "__"): v for k, v in options.items()}), Workdir(tmp_path / "one"))
        tables = []
        for name in ("one", "two"):
            with open(tmp_path / name / "metrics.csv", newline="") as file:
                tables.append(list(csv.DictReader(file)))
        assert len(tables[0]) == len(tables[1]) == 4
        for one, two in zip(*tables, strict=True):
            for column in ("loss", "grad_norm", "loss_t3"):
                assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-5, nan_ok=True)
        one, two = (last_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("one", "two"))
        for prefix in ("model.", "ema."):
            assert apart(one, two, prefix) < 1e-3
        deaf = trainer(training__steps=4)
        for step in range(4):  # a process without communication
            deaf.update(*deaf.experiment.data.train.batch(step, 8, seed=0, part=slice(0, 4)))
        assert apart(one, {f"model.{k}": v for k, v in deaf.trained.state_dict().items()}, "model.") > 1e-2


def apart(a, b, prefix):
    """The distance between two runs, in units of the distance of the first one from the initial weights."""
    start = trainer().trained.state_dict()
    way = sum(float((a[f"{prefix}{k}"] - v).square().sum()) for k, v in start.items()) ** 0.5
    return sum(float((a[f"{prefix}{k}"] - b[f"{prefix}{k}"]).square().sum()) for k in start) ** 0.5 / way


class TestGoingOn:
    @pytest.mark.parametrize(
        "options",
        [
            {"network__dropout": 0.2},
            {"training__precision": "float16", "network__dropout": 0.2, "training__micro_batch": 5},
            {"training__ema_decays": [0.9, 0.99], "training__posthoc_widths": [0.05, 0.1]},
            {**BAD, "objective__steps": (2, 3)},
        ],
        ids=["dropout", "float16", "averages", "bad steps"],
    )
    def test_two_and_two_steps_are_four(self, tmp_path, options):
        whole, first = trainer(**options), trainer(**options)
        advance(whole, 4)
        advance(first, 2)
        second = reload(first, tmp_path, **options)
        advance(second, 2)
        assert same(everything(whole), everything(second))
        facts = [{k: v for k, v in run.facts().items() if k != "seconds"} for run in (whole, second)]
        assert facts[0] == facts[1]

    def test_generator_is_a_function_of_its_key_and_the_global_one_stays(self):
        cpu, draws = torch.device("cpu"), []
        before = torch.random.get_rng_state()
        for key in ((0, 5, 40), (0, 5, 40), (1, 5, 40), (0, 6, 40), (0, 5, 44)):
            with seeded_generator(cpu, *key):
                draws.append(torch.rand(3))
        assert torch.equal(draws[0], draws[1])
        assert all(not torch.equal(draws[0], other) for other in draws[2:])
        assert torch.equal(before, torch.random.get_rng_state())

    def test_what_may_change_and_what_may_not(self, tmp_path):
        workdir = Workdir(tmp_path / "run")
        workdir.claim(experiment())
        allowed = {"training__micro_batch": 2, "training__prefetch": True, "training__compile": True}
        workdir.check(experiment(**allowed))
        with pytest.raises(RuntimeError, match=r"training\.precision: '\(absent\)' -> 'bfloat16'"):
            workdir.check(experiment(training__precision="bfloat16"))

    @pytest.mark.parametrize("world, first", [(1, "SIGTERM"), (2, "SIGTERM"), (1, "SIGUSR1")])
    def test_signals(self, world, first, monkeypatch):
        """A second signal counts at once.

        For a launcher's process it counts after some seconds, because each signal arrives twice.
        """
        now = [100.0]
        monkeypatch.setattr("scoresde.experiment.training.signals.time.monotonic", lambda: now[0])
        import signal

        with catch_signals(world) as stopped:
            assert not stopped()
            signal.raise_signal(getattr(signal, first))
            assert stopped()
            if world > 1:
                signal.raise_signal(signal.SIGINT)
                now[0] += GRACE + 1
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


class TestPrecision:
    def test_what_computes_in_what(self):
        run = trainer(training__precision="bfloat16")
        seen = {}

        def note(module, given, out):
            seen.setdefault(type(module), set()).add((given[0].dtype, out.dtype))

        for module in run.trained.modules():
            module.register_forward_hook(note)
        step = advance(run)
        single, half = torch.float32, torch.bfloat16
        norms = seen[torch.nn.GroupNorm]
        assert norms == {(single, single)}, norms
        assert {pair for kind, pairs in seen.items() if issubclass(kind, Embedding) for pair in pairs} == {
            (single, single)
        }
        assert {out for _, out in seen[torch.nn.Conv2d]} == {out for _, out in seen[torch.nn.Linear]} == {half}
        assert step.shown.values.dtype == step.shown.t.dtype == single
        assert all(p.dtype == p.grad.dtype == single for p in run.parameters)

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_precision_is_near(self, precision):
        """bfloat16 rounds by 2^-9, float16 by 2^-12."""
        exact, half = trainer(), trainer(training__precision=precision)
        a, b = advance(exact), advance(half)
        assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=0.02)
        assert float((gradient(exact) - gradient(half)).norm() / gradient(exact).norm()) < 0.05
        assert not torch.equal(gradient(exact), gradient(half))

    def test_gradients_that_overflow_lower_the_scale_and_change_nothing(self):
        run = trainer(training__precision="float16")
        advance(run)
        before = everything(run)
        run.scaler.update(1e30)
        step = advance(run)
        assert step.skipped and not step.problem and run.bad == 0
        assert same(before, everything(run)) and run.step == 2
        assert run.scaler.get_scale() == pytest.approx(5e29)

    def test_a_fault_under_float16_is_one_and_keeps_the_scale(self):
        run = trainer(training__precision="float16", **BAD, objective__steps=(1,))
        advance(run)
        scale = run.scaler.get_scale()
        assert advance(run).problem and run.scaler.get_scale() == scale
        assert not advance(run).skipped

    def test_channels_last_changes_rounding_only(self):
        plain, last = trainer(), trainer(training__channels_last=True)
        a, b = advance(plain), advance(last)
        assert any(not p.is_contiguous() for p in last.parameters)
        assert b.shown.values.tolist() == pytest.approx(a.shown.values.tolist(), rel=1e-5)
        assert float((gradient(plain) - gradient(last)).norm() / gradient(plain).norm()) < 1e-4
        assert everything(plain).keys() == everything(last).keys()

    @pytest.mark.long
    def test_compiled_and_not_go_on_from_each_other(self, tmp_path):
        options = {"training__compile": True, "training__ema_decay": 0.9}
        run, plain = trainer(**options), trainer(training__ema_decay=0.9)
        start = everything(run)
        for _ in range(2):
            assert advance(run).shown.values.tolist() == pytest.approx(advance(plain).shown.values.tolist(), rel=1e-4)
        assert run.trained._compiled_call_impl is not None
        assert everything(run).keys() == everything(plain).keys()
        moved = [k for k, v in everything(run).items() if k.startswith("average") and not torch.equal(v, start[k])]
        assert moved, "the average moves"
        again = reload(run, tmp_path, training__ema_decay=0.9)
        assert advance(again).shown.values.tolist() == pytest.approx(advance(run).shown.values.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sde": {"name": "LearnedSNRSDE"}},
            r"sde=LearnedSNRSDE\(.*has trainable parameters \(sde\.w, sde\.a, .*no objective trains: add one to config",
        ),
        (
            {"network": {"name": "tests.experiment.test_training:Still"}},
            "config.objective trains network=Still, without trainable parameters",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train_here(experiment(**options, model__prediction="noise"), Workdir(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class Still(nn.Module):
    """A network without parameters."""

    def forward(self, x, label):
        return x


class TestBadSteps:
    def test_nothing_changes_but_the_count(self):
        run = trainer(**BAD, objective__steps=(1, 2))
        advance(run)
        before = everything(run)
        for bad in (1, 2):
            step = advance(run)
            assert step.problem == "the loss is not finite for 2 of 8 examples" and step.skipped
            assert run.bad == bad and run.step == bad + 1
            assert same(before, everything(run))
        advance(run)
        assert run.bad == 0 and run.skipped == 2 and not same(before, everything(run))

    def test_a_gradient_that_is_not_finite_is_one(self):
        run = trainer()
        advance(run)
        before = everything(run)
        run.parameters[0].register_hook(lambda grad: grad * math.inf)
        assert advance(run).problem == "the gradient is not finite"
        assert same(before, everything(run))

    def test_the_batch_is_kept_and_too_many_in_a_row_stop(self, tmp_path):
        made = experiment(**BAD, objective__steps=(1, 3, 4), training__max_bad_steps=2, training__micro_batch=3)
        workdir = Workdir(tmp_path / "run")
        with pytest.raises(
            FloatingPointError, match=r"at step 4, t in \[.*positions \[34, 37\].* 2 such steps in a row"
        ):
            train_here(made, workdir)
        assert [p.name for p in sorted(workdir.bad_batches.iterdir())] == [
            f"step-{n:09d}.safetensors" for n in (1, 3, 4)
        ]
        tensors, header = read_tensors(workdir.bad_batches / "step-000000001.safetensors")
        x, position, _ = made.data.train.batch(1, 8, seed=0)
        assert torch.equal(tensors["x"], x) and torch.equal(tensors["position"], position)
        assert (~tensors["loss"].isfinite()).nonzero().flatten().tolist() == [2, 5]
        assert torch.equal(tensors["t"], made.objective.draw(x, step=1, indices=position).t)
        assert header["step"] == 1 and last_checkpoint(workdir.checkpoints).step == 4


@pytest.mark.parametrize(
    "sde, times",
    [(VPSDE(), UniformTime()), (VPSDE(), UniformLogNoise(0.05, 12.0)), (VESDE().discretize(1000), ChainTimes())],
    ids=["uniform", "log noise", "chain"],
)
def test_buckets_of_t_are_drawn_alike(sde, times):
    """40 000 draws: a share of 1/8 has a standard deviation of 0.0017."""
    edges = time_edges(DenoisingScoreMatching(sde, times=times), torch.device("cpu"))
    u = NoiseSource.of(0, 40_000).uniform((), step=0, purpose="time", dtype=torch.float32)
    t = times.times(sde, u)
    share = torch.bucketize(t, edges, right=True).bincount(minlength=BUCKETS) / len(t)
    assert share.tolist() == pytest.approx([1 / BUCKETS] * BUCKETS, abs=0.008)
    if isinstance(times, UniformLogNoise):
        even = torch.bucketize(t, torch.arange(1, BUCKETS) / BUCKETS, right=True).bincount(minlength=BUCKETS) / len(t)
        assert float((even - 1 / BUCKETS).abs().max()) > 0.1, "equal steps in t would be seen"
