"""The plan of scoresde inspect: networks, attention, memory, and what fits into a time; every config builds as training does."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scoresde.data.inspect_facts import Facts
from scoresde.experiment import ConfigError, Experiment, dry_run, inspect, load_config
from scoresde.experiment.inspection import cost, plan
from scoresde.experiment.inspection.cost import Cost, as_bytes, as_time, free_memory, measure
from scoresde.experiment.inspection.network import POSITIONS, attention_sides, network_warnings, networks
from scoresde.experiment.inspection.plan import first_plan, fitting_plan
from scoresde.experiment.training.distributed import processes
from scoresde.experiment.training.fit_time import SHARE
from scoresde.experiment.training.prior_fit import check_prior, prior_mismatch
from scoresde.experiment.training.trainer import Trainer
from scoresde.networks.sides import attended_levels, sides_of_levels
from scoresde.sde.checks.report import PRIOR_LIMIT


def facts(count, shape):
    return Facts(count, shape, "uint8", 0, 255, 100.0, 70.0, 1.0, 0, True, 256, 0.0, (), (), (), 0)


class TestAttention:
    @pytest.mark.parametrize(
        ("sides", "levels", "wanted"),
        [
            ((24, 24), 3, (12,)), ((28, 28), 3, (14,)), ((32, 32), 4, (16,)), ((64, 64), 4, (16,)), ((64, 48), 4, (16,)),
            ((256, 256), 4, ()), ((33, 33), 4, (9,)), ((500,), 3, (250,)), ((16,), 3, (16,)), ((8, 8, 8), 2, (4,)),
        ],
    )  # fmt: skip
    def test_sides(self, sides, levels, wanted):
        found, why = attention_sides(sides, levels)
        assert found == wanted and str(max(sides)) in why

    @given(
        sides=st.lists(st.integers(4, 700), min_size=1, max_size=3),
        levels=st.integers(1, 4),
    )
    def test_a_side_occurs_and_is_the_largest_that_is_cheap(self, sides, levels):
        found, _ = attention_sides(sides, levels)
        attended = attended_levels(found, sides, levels)  # refuses a side that does not occur
        cheap = [math.prod(stage) <= POSITIONS for stage in sides_of_levels(sides, levels)]
        assert attended.index(True) == cheap.index(True) if any(cheap) else found == ()


class TestOrder:
    @pytest.mark.parametrize(
        ("count", "shape", "wanted"),
        [
            (300, (3, 32, 32), {"NCSNpp": [32, 16, 8], "SmallUNet": [32, 16, 8]}),
            (60_000, (3, 80, 80), {"NCSNpp": [128, 64, 32, 16, 8]}), (3000, (1, 500), {"NCSNpp": [64, 32, 16, 8]}),
            (3000, (1, 8, 8), {"SmallUNet": [32, 16, 8]}),
        ],
    )  # fmt: skip
    def test_preferred_first(self, count, shape, wanted):
        found = networks(facts(count, shape))
        assert [(one.value["name"], one.value["channels"]) for one in found] == [
            (name, width) for name, widths in wanted.items() for width in widths
        ]


class TestVectors:
    @pytest.mark.parametrize(("size", "width"), [(1, 128), (40, 256), (500, 1024), (40_000, 1024), (1_000_000, 32)])
    def test_width(self, size, width):
        found = networks(facts(1000, (size,)))
        assert [section.value["width"] for section in found] == [width >> k for k in range(len(found))]
        assert found[-1].value["width"] == 32
        assert bool(network_warnings(facts(1000, (size,)))) == (size == 1_000_000)
        assert 2 * width * size <= 10**8 or width == 32

    def test_convolutional_networks_have_no_such_limit(self):
        assert network_warnings(facts(1000, (1, 1_000_000))) == ()


SHAPES = [
    (1,), (3,), (70,), (1, 9), (1, 1, 1), (2, 1, 30), (3, 21), (21, 3), (40, 4), (6, 6), (1, 7, 7),
    (1, 28, 28), (3, 9, 14), (9, 9, 3), (2, 5, 6, 4),
]  # fmt: skip
KINDS = (
    "normal",
    "bytes",
    "two levels",
    "counts",
    "shifted",
    "huge",
    "one outlier",
    "table",
    "grid",
    "constant column",
)


def events(kind, shape, seed):
    """Events of some kind."""
    g = np.random.default_rng(seed)
    x = g.normal(size=shape)
    match kind:
        case "bytes":
            return g.integers(0, 256, shape, dtype=np.uint8)
        case "two levels":
            return g.integers(0, 2, shape)
        case "counts":
            return g.poisson(3.0, shape)
        case "shifted":
            return 1e6 + x
        case "huge":
            return 1e200 * x
        case "one outlier":
            x.reshape(-1)[seed % x.size] = 1e6
        case "table":
            x.reshape(len(x), -1)[:, 0] = g.integers(0, 3, len(x))
        case "grid":
            return g.integers(0, 256, shape) / 255
        case "constant column":
            x.reshape(len(x), -1)[:, 0] = 2.0
    return x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kind=st.sampled_from(KINDS), shape=st.sampled_from(SHAPES), count=st.integers(1, 40), seed=st.integers(0, 99))
@example(kind="normal", shape=(2,), count=5, seed=0)
@example(kind="normal", shape=(2,), count=2, seed=0)
@example(kind="one outlier", shape=(3,), count=30, seed=4)
@example(kind="bytes", shape=(1, 28, 28), count=20, seed=0)
def test_every_config_builds_as_training_builds_it(folder, kind, shape, count, seed):
    """What inspect writes passes the checks of `train` up to its first step. What `train` would refuse is a problem."""
    np.save(folder / "a.npy", events(kind, (count, *shape), seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoresde.experiment.inspection.network.WIDTHS", (8,))  # the width is what takes time here
        found = inspect("a.npy", "a.py", measure=False, force=True)
    if not found.usable:
        assert "PROBLEM" in found.text and found.config is None and not found.source
        few = count == 1 or (kind == "one outlier" and count < 5)  # float32 cannot represent an outlier and the rest
        assert few or kind in ("two levels", "counts", "constant column"), found.text  # all events may be equal
        return
    made = Experiment.from_config(load_config("a.py"))
    assert found.config.to_dict() == load_config("a.py").to_dict()
    assert len(made.data.train) + len(made.data.test) == count
    check_prior(made)
    if len(made.data.train) > 10:  # fewer differ from all events
        assert prior_mismatch(made) < 1.5 * PRIOR_LIMIT
    with processes(made) as group:
        Trainer(made, group)


class TestCost:
    @pytest.fixture
    def made(self, folder):
        np.save("a.npy", np.random.default_rng(0).normal(size=(200, 3)))
        return Experiment.from_config(inspect("a.npy", measure=False).config)

    def test_against_a_dry_run(self, made):
        found, needs = measure(made), dry_run(made)
        assert found.parameters == needs.parameters and found.weights == needs.weights
        steps = 4 * len(list(made.model.network.parameters()))  # Adam counts the steps of each tensor
        assert found.training + steps == needs.weights + needs.gradients + needs.optimizer + needs.averages
        assert found.activations == pytest.approx(needs.activations, rel=0.2)
        assert found.events == made.training.batch_size and not found.micro_batch and not found.why
        assert needs.seconds / 30 < found.seconds < needs.seconds * 30  # other work shares the machine

    def test_too_little_memory(self, made, monkeypatch):
        monkeypatch.setattr(cost, "free_memory", lambda device: 1000)
        found = measure(made)
        assert found.seconds is None and "more than the free memory" in found.why
        # memory for the weights and for the activations of a part of the batch
        per_event = dry_run(made).activations / made.training.batch_size
        free = (found.training + 5.5 * per_event) / cost.USABLE
        monkeypatch.setattr(cost, "free_memory", lambda device: free)
        assert measure(made).micro_batch == 4

    def test_a_slow_step_is_scaled(self, made, monkeypatch):
        """Steps that take 1 s for each event."""
        run = []

        def slow(experiment, steps):
            run.append((experiment.training.batch_size, steps))
            return replace(real, seconds=float(experiment.training.batch_size))

        real = dry_run(made)
        monkeypatch.setattr(cost, "dry_run", slow)
        made = replace(made, training=replace(made.training, batch_size=64))
        assert measure(made, 40.0).seconds == 64.0 and run == [(4, 1), (16, 1)]
        run.clear()
        assert measure(made, 1.0).seconds == 64.0 and run == [(4, 1)]
        run.clear()
        assert measure(made, 1000.0).seconds == 64.0 and run == [(4, 1), (64, 5)]

    def test_micro_batches(self):
        assert cost._micro_batch(100, 1.0, 100.0) == 100
        assert cost._micro_batch(100, 1.0, 99.0) == 64
        assert cost._micro_batch(64, 1.0, 63.0) == 32
        assert cost._micro_batch(128, 1.0, 0.0) == 1

    def test_units(self):
        assert as_bytes(2**20) == "1 MiB" and as_bytes(3 * 2**29) == "1.5 GiB"
        assert as_time(90) == "90 seconds" and as_time(600) == "10 minutes" and as_time(7200) == "2 hours"
        assert as_time(3 * 86400) == "3 days"
        assert free_memory(torch.device("cpu")) > 0


class TestFittingPlan:
    """A network of c channels that takes c / 16 seconds a step for a batch of 32."""

    @pytest.fixture
    def planned(self, monkeypatch):
        def priced(plan_, patience):
            seconds = plan_.network.value["channels"] * plan_.batch_size / 512
            return Cost("cpu", 1, 4, 20, 0, 100, seconds, plan_.batch_size)

        monkeypatch.setattr(plan, "measure", priced)
        return lambda seconds, count=300: fitting_plan(facts(count, (3, 80, 80)), count - 30, lambda p: p, seconds)

    def test_the_first_network_with_enough_steps(self, planned):
        found = planned(2500)  # 1125 steps with 32 channels
        assert found.network.value["channels"] == 32 and found.steps == 1100 and not found.warnings
        found = planned(1500)  # 675 steps with 32, 1350 with 16 channels
        assert found.network.value["channels"] == 16 and found.steps == 1300
        assert any(
            "not NCSNpp of 32 channels, batches of 32: 2 s a step, 675 steps" in why for why in found.network.reasons
        )
        assert "what fits into 25 minutes" in found.reasons[0]
        assert found.steps * found.cost.seconds <= SHARE * 1500

    def test_smaller_batches_after_the_smallest_network(self, planned):
        found = planned(300)  # 0.5 s a step with 8 channels and 32 events
        assert (found.network.value["channels"], found.batch_size, found.steps) == (8, 16, 1000)

    def test_too_little_time_is_said(self, planned):
        found = planned(10)
        assert found.batch_size == 8 and found.steps == 72
        assert (
            "only 72 steps fit into 10 seconds" in found.warnings[0]
            and "give at least 2.31 minutes" in found.warnings[0]
        )
        assert planned(1e-6).steps == 1

    def test_no_more_steps_than_are_useful(self, planned):
        assert planned(1e9).steps == first_plan(facts(300, (3, 80, 80)), 270).steps == 2000

    def test_no_network_fits_into_memory(self, monkeypatch):
        monkeypatch.setattr(plan, "measure", lambda made, patience: Cost("cpu", 1, 4, 20, why="too large"))
        with pytest.raises(ConfigError, match=r"no network fits into memory: not MLP of width 128, .*too large"):
            fitting_plan(facts(300, (3,)), 270, lambda p: p, 60)

    def test_ends(self, folder):
        """A real plan for a few seconds: its config builds, and its number of steps takes about this time."""
        np.save("a.npy", np.random.default_rng(0).normal(size=(100, 2)))
        found = inspect("a.npy", "a.py", fit_time=2.0)
        assert found.usable and "fits into 2 seconds" in found.text
        made = Experiment.from_config(load_config("a.py"))
        assert 0.0 <= made.training.ema_decay < 1.0 and made.training.warmup < made.training.steps
        for seconds, context in ((0, pytest.raises(ValueError, match="fit_time=0 is not allowed")), (1, nullcontext())):
            with context:
                inspect("a.npy", fit_time=seconds)
        with pytest.raises(ValueError, match="fit_time=1 with measure=False is not allowed"):
            inspect("a.npy", fit_time=1, measure=False)
