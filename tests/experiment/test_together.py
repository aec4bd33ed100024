"""Several processes combined with other options of training: compiled, half precision, sharded; and commands on their
results. All are compared with one process without these options."""

from __future__ import annotations

import csv
import functools
import json
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.children import SMALL, together
from scoresde.ema import EMA
from scoresde.experiment import Workdir
from scoresde.experiment import train as train_here
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints
from scoresde.experiment.folder.tensor_file import rank_file, read_tensors
from scoresde.experiment.folder.tree import remove
from tests.experiment.conftest import SMALL as HERE
from tests.experiment.conftest import HereCommand
from tests.experiment.test_sample_shards import FEW
from tests.experiment.test_sharded import folded
from tests.experiment.training import advance, everything, experiment, trainer

OPTIONS = {
    **SMALL, "training.steps": 4, "training.log_every": 1, "training.checkpoint_every": 4, "training.ema_decays": [0.9, 0.99],
    "network.dropout": None, "network.channels": None, "network.blocks": None,
}  # fmt: skip
MLP = {"network": {"name": "MLP", "width": 8, "depth": 1}}
NCSNPP = {
    "network": {
        "name": "NCSNpp", "channels": 4, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "progressive_input": "residual",
        "progressive_output": "skip",
    },
}  # fmt: skip
COMMANDS = {**FEW, "training__steps": 4, "training__preview_every": 0, "sampling__count": 3}


class Run:
    """Run to the end. Returns the last checkpoint and the rows of metrics.csv."""

    def __init__(self, folder, given, world=1, **more):
        self.folder, self.given = folder, {**OPTIONS, **given}
        if world == 1:
            train_here(self.experiment, Workdir(folder))
        else:
            ranks = together(folder, world, self.given, **more)
            assert [rank.end() for rank in ranks] == [0] * world, [rank.output() for rank in ranks]
        self.checkpoint = last_checkpoint(folder / "checkpoints")
        with open(folder / "metrics.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))

    @property
    def experiment(self):
        return experiment(**{k.replace(".", "__"): v for k, v in self.given.items()})

    def assert_same(self, other, rel, way):
        """Compare two runs.

        Names, shapes and skipped steps are equal; losses, norms and distances to a relative ``rel``; weights and averages to
        ``way`` of the distance that they have moved.
        """
        ours, theirs = self.checkpoint, other.checkpoint
        assert {k: v.shape for k, v in ours.tensors.items()} == {k: v.shape for k, v in theirs.tensors.items()}
        assert ours.facts["skipped"] == theirs.facts["skipped"]
        for a, b in zip(self.rows, other.rows, strict=True):
            for column in ("loss", "grad_norm", "ema_distance"):
                assert float(b[column]) == pytest.approx(float(a[column]), rel=rel, nan_ok=True), column
        for which in ("model", "ema", "ema1"):
            assert apart(self, other, which) < way, which


def apart(one, other, which):
    """The distance between the weights of two runs, in units of the distance that the first ones have moved."""
    start = {k: v.double() for k, v in one.experiment.model.network.state_dict().items() if v.is_floating_point()}
    a, b = (
        torch.cat([run.checkpoint.tensors[f"{which}.{k}"].double().flatten() for k in start]) for run in (one, other)
    )
    way = float((a - torch.cat([v.flatten() for v in start.values()])).norm())
    assert way > 0, f"{which} has not moved"
    return float((a - b).norm()) / way


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("plain") / "run", MLP)


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_two_processes_and_a_compiled_network(plain, tmp_path, compiler):
    """Averages move, names do not change, and one process resumes without a compiler.

    "eager" captures the network's graph and computes it without changes.
    """
    two = Run(tmp_path / "run", {**MLP, "training.compile": True, "training.checkpoint_every": 2}, 2, compiler=compiler)
    plain.assert_same(two, 1e-5, 1e-3)
    remove(two.checkpoint.path)
    on = Run(tmp_path / "run", {**MLP, "training.checkpoint_every": 2})
    plain.assert_same(on, 1e-5, 1e-3)


def test_a_wrapped_and_compiled_network(monkeypatch):
    """The same with one process: DistributedDataParallel around a network whose graph is captured."""
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="eager"))
    given = {k.replace(".", "__"): v for k, v in {**OPTIONS, **MLP}.items()}
    run, plain = trainer(**given, training__compile=True), trainer(**given)
    start = everything(run)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run.parts = [replace(part, losses=DistributedDataParallel(part.losses)) for part in run.parts]
        for _ in range(2):
            assert advance(run).shown.values.tolist() == pytest.approx(advance(plain).shown.values.tolist(), rel=1e-5)
    finally:
        dist.destroy_process_group()
    ours, theirs = everything(run), everything(plain)
    assert run.trained._compiled_call_impl is not None and ours.keys() == theirs.keys()
    for k, v in ours.items():
        assert torch.allclose(v, theirs[k], rtol=1e-3, atol=1e-6), k
    moved = {k.split(".")[0] for k, v in ours.items() if not torch.equal(v, start.get(k, v))}
    assert moved >= {"model", "average 0", "average 1"}


def test_an_average_that_stands_still_would_be_seen(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(EMA, "update", lambda self, module: None)
    with pytest.raises(AssertionError, match="ema has not moved"):
        Run(tmp_path / "run", MLP).assert_same(plain, 1.0, 1.0)


@pytest.mark.long
@pytest.mark.parametrize("precision, rel, way", [("bfloat16", 2e-3, 0.1), ("float16", 2e-4, 0.01)])
def test_half_precision_by_two_processes(tmp_path, precision, rel, way):
    """A process sums a weight's gradient over its share in half precision.

    The difference is the rounding of that precision, 2^-9 and 2^-12, and the same steps are skipped as with one
    process.
    """
    given = {**NCSNPP, "training.precision": precision}
    Run(tmp_path / "one", given).assert_same(Run(tmp_path / "two", given, 2), rel, way)


@pytest.mark.long
@pytest.mark.parametrize("precision, rel, way", [("bfloat16", 2e-3, 0.1), ("float16", 2e-4, 0.01)])
def test_half_precision_in_parts(tmp_path, precision, rel, way):
    """The sharded network equals the whole one with as many processes, with FIR filters and image inputs of its stages.

    A weight that differs by float32's rounding may be rounded to another half-precision number. Sums over
    coordinates overflow float16 until its scale is found, which is the same for all processes.
    """
    given = {**NCSNPP, "training.precision": precision, "training.steps": 8, "objective.reduction": "half_sum"}
    two = Run(tmp_path / "two", given, 2)
    parts = Run(tmp_path / "parts", {**given, "training.sharded": True}, 2)
    assert parts.checkpoint.path.is_dir() and (two.checkpoint.facts["skipped"] > 0) == (precision == "float16")
    two.assert_same(parts, rel, way)
    assert two.checkpoint.facts["scaler"] == parts.checkpoint.facts["scaler"]


class TestCommandsOnAFolderOfParts:
    @pytest.fixture(params=["as two processes would", pytest.param("by two processes", marks=pytest.mark.long)])
    def run(self, request, tmp_path):
        """The command line on a run of four steps, whose checkpoints are folders of two shards."""
        command = HereCommand(tmp_path / "run")

        def call(verb, *extra, code=0):
            done = command(verb, "vp", *extra, **COMMANDS)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        call.folder = command.workdir
        if request.param == "by two processes":
            given = {**dict.fromkeys(SMALL), **HERE, **{k.replace("__", "."): v for k, v in COMMANDS.items()}}
            ranks = together(call.folder, 2, {**given, "training.sharded": True})
            assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
        else:
            call("train")
            for file in list_checkpoints(call.folder / "checkpoints"):
                folded(file.parent, *read_tensors(file))
                file.unlink()
        assert all(path.is_dir() for path in list_checkpoints(call.folder / "checkpoints"))
        return call

    def test_they_work_and_pass_over_a_broken_part(self, run, monkeypatch):
        monkeypatch.setattr(sys.modules["scoresde.experiment.reports.report"], "baselines", lambda experiment: ([], ""))
        whole = last_checkpoint(run.folder / "checkpoints")
        for torn, name in (("", "step-000000004"), ("step-000000004 is damaged", "step-000000002")):
            for verb, result in (("sample", "samples/pc.json"), ("likelihood", "likelihood/test.json")):
                assert torn in run(verb)
                assert json.loads((run.folder / result).read_text())["checkpoint"] == name
            run("report")
            page = (run.folder / "report.html").read_text()
            assert f"last checkpoint {name}" in page and ("Damaged and skipped: step-000000004" in page) == bool(torn)
            rank_file(run.folder / "checkpoints" / "step-000000004", 1).unlink(missing_ok=True)
        said = run("train")
        assert "step-000000004 is damaged" in said and "resumed from step-000000002" in said
        end = last_checkpoint(run.folder / "checkpoints")
        assert end.path.name == "step-000000004.safetensors"
        assert all(torch.allclose(v, end.tensors[k], rtol=1e-3, atol=1e-5) for k, v in whole.tensors.items())
        assert "already trained to step 4 of 4" in run("train") and "damaged" not in run("sample")
