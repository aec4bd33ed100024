"""Sharded training: its steps equal those of one process, and a damaged folder of shards is detected."""

from __future__ import annotations

import csv
import random
import shutil
import signal

import pytest
import torch
from torch import nn

from benchmarks.children import SMALL, together
from scoresde.experiment import Workdir, posthoc_average
from scoresde.experiment import train as train_here
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, read_checkpoint, save_checkpoint
from scoresde.experiment.folder.tensor_file import (
    CheckpointError,
    publish,
    rank_file,
    read_tensors,
    write_index,
    write_tensors,
)
from scoresde.experiment.folder.tree import remove
from scoresde.experiment.training.distributed import Group, Sharded, blocks
from scoresde.networks import NCSNpp
from tests.experiment.test_training import apart
from tests.experiment.training import advance, experiment, trainer

OPTIONS = {
    "training.steps": 4, "training.log_every": 1, "training.ema_decays": [0.9], "training.preview_every": 0,
    "training.posthoc_widths": [0.1], "training.posthoc_every": 2, "network.dropout": 0.0,
}  # fmt: skip
SHARDED = {**OPTIONS, "training.sharded": True}
BAD = {"objective.name": "benchmarks.bad_losses:Bad", "objective.steps": (1,)}


def here(folder, options):
    """Train in this process."""
    train_here(experiment(**{k.replace(".", "__"): v for k, v in {**SMALL, **options}.items()}), Workdir(folder))
    return last_checkpoint(folder / "checkpoints")


def ranks_end(folder, world, options, code=0):
    ranks = together(folder, world, options)
    assert [rank.end() for rank in ranks] == [code] * world, [rank.output() for rank in ranks]
    return last_checkpoint(folder / "checkpoints")


def alike(one, many):
    """Shapes agree, and the weights differ by at most a thousandth of the distance that they have moved.

    Adam's first steps divide a gradient by its own size, so that rounding errors of small gradients are visible.
    """
    assert {k: v.shape for k, v in one.tensors.items()} == {k: v.shape for k, v in many.tensors.items()}
    return all(apart(one.tensors, many.tensors, prefix) < 1e-3 for prefix in ("model.", "ema.", "ema1."))


@pytest.mark.long
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    """Losses, gradient norms and distances to 1e-5, a hundred times the rounding of a float32 sum."""
    one, two = here(tmp_path / "one", OPTIONS), ranks_end(tmp_path / "two", 2, SHARDED)
    assert two.path.is_dir() and sorted(p.name for p in two.path.iterdir()) == [
        "index.json", "rank-00000.safetensors", "rank-00001.safetensors",
    ]  # fmt: skip
    tables = []
    for name in ("one", "two"):
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for a, b in zip(*tables, strict=True):
        for column in ("loss", "grad_norm", "ema_distance"):
            assert float(b[column]) == pytest.approx(float(a[column]), rel=1e-5)
    assert alike(one, two)
    parts = [read_tensors(rank_file(two.path, rank))[0] for rank in (0, 1)]
    weights = [sum(v.numel() for k, v in part.items() if k.startswith("model.")) for part in parts]
    assert min(weights) > 0.3 * sum(weights)
    made = experiment(**{k.replace(".", "__"): v for k, v in {**SMALL, **SHARDED}.items()})
    model, _ = Workdir(tmp_path / "two").model(made)
    assert all(torch.equal(v, two.tensors[f"ema.{k}"]) for k, v in model.network.state_dict().items())
    averages = [posthoc_average(Workdir(tmp_path / name), 0.1) for name in ("one", "two")]
    assert all(torch.allclose(averages[0][k], v, atol=1e-5) for k, v in averages[1].items())
    remove(two.path)
    alone = here(tmp_path / "two", SHARDED)
    assert alone.path.is_file() and alone.step == 4 and alike(one, alone)


@pytest.mark.long
def test_another_number_of_processes_and_bad_steps(tmp_path):
    """One, three (some shards are empty), then two processes; and a bad batch."""
    one = here(tmp_path / "one", {**OPTIONS, **BAD})
    assert one.facts["skipped"] == 1
    shutil.copytree(tmp_path / "one", tmp_path / "more")
    remove(last_checkpoint(tmp_path / "more" / "checkpoints").path)
    three = ranks_end(tmp_path / "more", 3, {**SHARDED, **BAD})
    assert three.path.is_dir() and alike(one, three) and three.facts["skipped"] == 1
    two = ranks_end(tmp_path / "two", 2, {**SHARDED, **BAD, "training.micro_batch": 2})
    assert (
        alike(one, two) and two.facts["skipped"] == 1 and len(list((tmp_path / "two" / "bad_batches").iterdir())) == 1
    )


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_killed_while_saving(tmp_path, victim):
    """The other process ends with code 3, and the resumed run ends with the same result.

    Every folder with a final name is complete. Then a signal to one process stops both.
    """
    options = {**SHARDED, "training.steps": 30, "training.posthoc_widths": []}
    whole, folder = ranks_end(tmp_path / "whole", 2, options), tmp_path / "run"
    for wait in (1, 3):
        killed_while_saving(folder, options, victim, wait)
    ranks = together(folder, 2, options)
    ranks[0].until(lambda: len(ranks[0].checkpoints) >= 5, "checkpoints")
    ranks[victim].signal(signal.SIGTERM)
    assert [rank.end() for rank in ranks] == [130, 130], [rank.output() for rank in ranks]
    end = ranks_end(folder, 2, options)
    assert all(torch.equal(v, end.tensors[k]) for k, v in whole.tensors.items()) and end.step == 30
    assert not list((folder / "checkpoints").glob(".*"))


def killed_while_saving(folder, options, victim, wait):
    ranks = together(folder, 2, options)
    saving = folder / "checkpoints"
    ranks[0].until(lambda: len(ranks[0].checkpoints) >= wait and any(saving.glob(".step-*.tmp")), "saving")
    ranks[victim].signal(signal.SIGKILL)
    codes = [rank.end() for rank in ranks]
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 3, [rank.output() for rank in ranks]
    for path in list_checkpoints(saving):
        read_checkpoint(path)


class TestFolder:
    """Folders of shards that the test writes itself."""

    @pytest.fixture
    def run(self, tmp_path):
        """(folder of checkpoints, the whole tensors): a file at step 1, a folder of two shards at step 2."""
        made = trainer()
        advance(made)
        path = save_checkpoint(tmp_path, made.trained, made.averages, made.optimizer, 1, "", 3)
        whole, header = read_tensors(path)
        folded(tmp_path, whole, {**header, "step": 2})
        return tmp_path, whole

    def test_is_read_as_one(self, run):
        folder, whole = run
        found = last_checkpoint(folder)
        assert found.step == 2 and found.index_file.name == "index.json"
        assert found.tensors.keys() == whole.keys()
        assert all(torch.equal(v, whole[k]) for k, v in found.tensors.items())
        trainer().load(found)

    @pytest.mark.parametrize("what", ["index.json", "rank-00000.safetensors", "rank-00001.safetensors"])
    def test_faults_are_noticed_and_the_one_before_is_taken(self, run, what):
        folder, draw = run[0], random.Random(0)
        file = folder / "step-000000002" / what
        content = file.read_bytes()
        for _ in range(20):
            place = draw.randrange(8 * len(content))
            torn = bytearray(content)
            torn[place // 8] ^= 1 << place % 8
            for bad in (bytes(torn), content[: draw.randrange(len(content))]):
                file.write_bytes(bad)
                assert last_checkpoint(folder).step == 1
        file.unlink()
        assert last_checkpoint(folder).step == 1
        file.write_bytes(content)
        assert last_checkpoint(folder).step == 2

    def test_without_checksums_a_flipped_bit_would_pass(self, run, monkeypatch):
        folder, whole = run
        monkeypatch.setattr("scoresde.experiment.folder.tensor_file.tensors_digest", lambda tensors, header: None)
        folded(folder, whole, {"format": 2, "step": 3, "ema_updates": 1, "config": ""})
        file = rank_file(folder / "step-000000003", 1)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        found = read_checkpoint(folder / "step-000000003").tensors
        assert any(not torch.equal(v, whole[k]) for k, v in found.items())

    def test_a_part_of_another_checkpoint_is_noticed(self, run):
        folder, whole = run
        folded(folder, {k: v + 1 for k, v in whole.items()}, {"format": 2, "step": 3, "ema_updates": 1, "config": ""})
        shutil.copy(rank_file(folder / "step-000000003", 1), rank_file(folder / "step-000000002", 1))
        with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
            read_checkpoint(folder / "step-000000002")

    def test_a_torn_one_is_replaced_and_old_ones_go(self, run):
        folder, whole = run
        rank_file(folder / "step-000000002", 1).unlink()
        folded(folder, whole, {"format": 2, "step": 2, "ema_updates": 1, "config": ""})
        assert last_checkpoint(folder).step == 2
        made = trainer()
        save_checkpoint(folder, made.trained, made.averages, made.optimizer, 3, "", 1)
        assert [p.name for p in folder.iterdir()] == ["step-000000003.safetensors"]

    def test_what_a_kill_left_is_swept(self, tmp_path):
        workdir = Workdir(tmp_path)
        left = workdir.checkpoints / ".step-000000002.7.tmp"
        write_tensors(rank_file(left, 0), {"a": torch.ones(2)}, {"format": 2})
        workdir.remove_leftovers("train")
        assert not left.exists()


def folded(folder, whole, header):
    """Write tensors like two processes."""
    temporary = folder / ".step-new.tmp"
    for rank in (0, 1):
        mine = {k: v.tensor_split(2)[rank] if v.ndim else v for k, v in whole.items() if v.ndim or not rank}
        write_tensors(rank_file(temporary, rank), mine, {"format": 2, "rank": rank})
    write_index(temporary, 2, header)
    publish(temporary, folder / f"step-{header['step']:09d}")


@pytest.mark.parametrize(
    "option, value", [("compile", True), ("channels_last", True), ("preview_every", 2500)], ids=lambda v: str(v)
)
def test_options_that_exclude_each_other(option, value):
    given = {"training__preview_every": 0, "training__sharded": True, f"training__{option}": value}
    with pytest.raises(ValueError, match=f"sharded=True and {option}={value} exclude each other"):
        experiment(**given)


def test_unequal_numbers_of_micro_batches_are_refused():
    made = experiment(
        training__preview_every=0, training__sharded=True, training__batch_size=9, training__micro_batch=4
    )
    with pytest.raises(ValueError, match="sharded=True and micro_batch=4 exclude each other"):
        Sharded(Group(0, 2, torch.device("cpu")), made.training)


def test_blocks_are_the_innermost():
    """A module that adds to a list argument, like NCSNpp's stages, is not a block: fully_shard would pass it copies."""
    network = NCSNpp((1, 8, 8), channels=8, multipliers=(1, 2), blocks=1)
    found = blocks(network)
    assert found and len(set(found)) == len(found)
    for block in found:
        assert not any(isinstance(part, nn.ModuleList) for part in block.modules())
