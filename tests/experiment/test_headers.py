"""Checkpoints with a correct checksum and invalid content are errors with the key and its value."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, load_weights, read_checkpoint
from scoresde.experiment.folder.tensor_file import CheckpointError, read_tensors, write_tensors
from scoresde.experiment.training.restore import load_optimizer
from tests.experiment.conftest import TINY, HereCommand

HEADERS = {
    "step": [-1, 2.5, 2.0, True, None, "2", [2], 10**12],
    "ema_updates": [-1, 1.5, None, "x", 10**40],
    "config": [None, 3, {}],
    "facts": [None, [], "x", 3],
    "without moments": ["x", [3], {}],
    "format": [True, 3, None, "2"],
}
FACTS = {
    "skipped": [-1, 0.5, "x", None], "bad": [-1, [1]], "seconds": [-1.0, "x", None, [], 1e400],
    "config": [3, "x", "[]", "[" * 100_000], "data": [None, 3], "processes": [0.5],
    "scaler": [[1], "x", {"scale": 1.0}, {"scale": -1.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9,
                                          "_growth_tracker": 0}],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps with checkpoints at 2 and 4."""
    command = HereCommand(tmp_path_factory.mktemp("trained") / "run")
    done = command("train", **TINY, training__steps=4, training__preview_every=0)
    assert done.returncode == 0, done.stderr
    return command


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run without its samples, and its last checkpoint."""
    shutil.copytree(trained.workdir, tmp_path / "run")
    command = HereCommand(tmp_path / "run")

    def call(verb):
        return command(verb, **TINY, training__steps=4, training__preview_every=0)

    call.last = list_checkpoints(command.workdir / "checkpoints")[-1]
    call.workdir = command.workdir
    return call


@pytest.mark.parametrize(
    "place, key, value",
    [
        pytest.param(place, k, v, marks=[pytest.mark.long] * (i > 1))
        for place, wrong in (("header", HEADERS), ("facts", FACTS))
        for k, vs in wrong.items()
        for i, v in enumerate(vs)
    ],
    ids=lambda v: repr(v)[:24],
)
def test_a_forged_header_is_refused(trained, tmp_path, place, key, value):
    last = list_checkpoints(trained.workdir / "checkpoints")[-1]
    tensors, header = read_tensors(last)
    (header if place == "header" else header["facts"])[key] = value
    write_tensors(tmp_path / last.name, tensors, header)
    with pytest.raises(CheckpointError, match=rf"{key}|format") as problem:
        read_checkpoint(tmp_path / last.name)
    assert last.name in str(problem.value) and len(str(problem.value)) < 400


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "[]", "3", "", '{"format": 1}'])
def test_a_header_that_is_none_is_refused(trained, tmp_path, text):
    last = list_checkpoints(trained.workdir / "checkpoints")[-1]
    save_file(read_tensors(last)[0], tmp_path / last.name, {"scoresde": text})
    with pytest.raises(CheckpointError, match=last.name):
        read_checkpoint(tmp_path / last.name)


def test_format_1_does_not_switch_the_checksum_off(trained, tmp_path):
    last = list_checkpoints(trained.workdir / "checkpoints")[-1]
    tensors, header = read_tensors(last)
    tensors["model.rest.0.weight" if "model.rest.0.weight" in tensors else min(tensors)] += 1.0
    save_file(tensors, tmp_path / last.name, {"scoresde": json.dumps({**header, "format": 1, "sha256": "0" * 64})})
    with pytest.raises(CheckpointError, match="checksum"):
        read_checkpoint(tmp_path / last.name)


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(run):
    first = list_checkpoints(run.workdir / "checkpoints")[0]
    shutil.copy(first, first.with_name("step-000000009.safetensors"))
    assert last_checkpoint(run.workdir / "checkpoints").path == run.last
    done = run("train")
    assert done.returncode == 0 and "step-000000009.safetensors is damaged and was skipped" in done.stdout


def forge(path, change):
    """Change a checkpoint's tensors and correct its checksum."""
    tensors, header = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors, header)


def drop(tensors, part):
    for name in [n for n in tensors if n.startswith("optimizer.") and part in n]:
        del tensors[name]


def first(tensors):
    """The first parameter with moments, with a dot before and after it."""
    return min(n for n in tensors if n.startswith("optimizer.")).removeprefix("optimizer").rpartition(".")[0] + "."


def put(ending, make):
    def change(tensors):
        name = min(n for n in tensors if n.startswith("optimizer.") and n.endswith(ending))
        tensors[name] = make(tensors[name])

    return change


MOMENTS = {
    "all missing": (lambda tensors: drop(tensors, ""), "lacks Adam's moments of"),
    "one parameter's missing": (lambda tensors: drop(tensors, first(tensors)), "lacks Adam's moments of"),
    "one kind missing": (lambda tensors: drop(tensors, "exp_avg_sq"), "expected step, exp_avg and exp_avg_sq"),
    "another shape": (put(".exp_avg", lambda m: m[..., :1].contiguous()), "expected real numbers"),
    "whole numbers": (put(".exp_avg", lambda m: m.long()), "expected real numbers"),
    "not finite": (put(".exp_avg", lambda m: m * torch.inf), "not finite"),
    "squares below 0": (put(".exp_avg_sq", lambda m: -m - 1.0), "below 0"),
    "a negative step": (put(".step", lambda s: -s), "expected a whole number >= 0"),
    "a fractional step": (put(".step", lambda s: s + 0.5), "expected a whole number >= 0"),
    "two steps": (put(".step", lambda s: s.repeat(2)), "expected a whole number >= 0"),
}  # fmt: skip


LONG_MOMENTS = ("one parameter's missing", "one kind missing", "whole numbers", "a negative step", "two steps")
"""Refused by the same check as similar cases."""


@pytest.mark.parametrize(
    "change, said",
    [pytest.param(*case, id=name, marks=[pytest.mark.long] * (name in LONG_MOMENTS)) for name, case in MOMENTS.items()],
)
def test_moments_that_are_missing_or_do_not_fit_are_refused(run, change, said):
    forge(run.last, change)
    done = run("train")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr and run.last.name in done.stderr
    assert run("sample").returncode == 0, "weights are what they were"


def test_moments_of_a_parameter_without_a_gradient_are_not_missed(tmp_path):
    from scoresde.ema import EMA
    from scoresde.experiment.folder.checkpoint import save_checkpoint

    network = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.Adam(network.parameters())
    network["used"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = save_checkpoint(tmp_path, network, EMA(network, 0.9), optimizer, 1, "digest", 1)
    checkpoint = read_checkpoint(path)
    assert checkpoint.without_moments == ("idle.weight", "idle.bias")
    other = torch.optim.Adam(network.parameters())
    load_optimizer(network, other, checkpoint)
    assert len(other.state) == 2


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda w: w.double(), "and torch.float32 in the network"),
        (lambda w: w.long(), "and torch.float32 in the network"),
        (lambda w: w * torch.nan, "is not finite"),
        (lambda w: w.reshape(-1)[:1].clone(), "belongs to another network"),
    ],
)
def test_weights_of_another_kind_are_refused(run, make, said):
    def change(tensors):
        name = max(n for n in tensors if n.startswith("ema."))
        tensors[name] = make(tensors[name])

    forge(run.last, change)
    done = run("sample")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(CheckpointError):
        load_weights(torch.nn.Linear(2, 2), read_checkpoint(run.last), "ema")
