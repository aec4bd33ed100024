"""A run that starts from the weights of another run: --init-from."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from benchmarks.children import Child, together
from scoresde.experiment import CheckpointError, Experiment, Workdir, WorkdirError, dry_run, load_config, report
from scoresde.experiment import train as train_here
from scoresde.experiment.config.sections import learning_rate
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints, read_checkpoint
from scoresde.experiment.folder.initial import describe_source, read_initial, read_source
from scoresde.experiment.folder.tensor_file import read_tensors, tensors_digest, write_tensors
from tests.experiment.conftest import TINY, called
from tests.experiment.training import advance, everything, experiment, same, trainer

SOURCE = {
    **TINY, "training__ema_decays": [0.9, 0.5], "training__posthoc_widths": [0.1], "training__posthoc_every": 2,
    "training__learning_rate": 0.01,
}  # fmt: skip
NEW = {
    **TINY, "training__steps": 4, "training__learning_rate": 0.005, "training__batch_size": 6, "training__schedule": "cosine",
}  # fmt: skip
LONGER = {k.replace("__", "."): v for k, v in {**NEW, "training__steps": 30, "training__checkpoint_every": 100}.items()}


def run(folder, *, init_from=None, init_weights="ema", **overrides):
    workdir = Workdir(folder)
    train_here(experiment(**overrides), workdir, init_from=init_from, init_weights=init_weights)
    return workdir


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run."""
    return run(tmp_path_factory.mktemp("source") / "run", **SOURCE).path


@pytest.fixture
def copied(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "copied"))


def weights(tensors, which):
    return {k.removeprefix(f"{which}."): v for k, v in tensors.items() if k.startswith(f"{which}.")}


def stepped(state, **overrides):
    """The tensors after the first steps from these weights, computed without the code of a run."""
    plain = trainer(**overrides)
    for module in (plain.trained, *(average.module for average in plain.averages)):
        module.load_state_dict(state)
    advance(plain, plain.config.steps)
    return everything(plain)


@pytest.mark.parametrize("which", ["ema", "ema1", "model", "0.1"])
def test_a_new_run_starts_from_the_weights(source, tmp_path, which):
    """Its weights, averages and moments are those of steps from these weights, with a new optimizer."""
    state = read_source(source, which).checkpoint.tensors
    if which != "0.1":
        last = last_checkpoint(source / "checkpoints").tensors
        assert same(weights(state, "model"), weights(last, which))
    run(tmp_path / "new", init_from=source, init_weights=which, **NEW)
    found = last_checkpoint(tmp_path / "new" / "checkpoints")
    wanted = stepped(weights(state, "model"), **NEW)
    assert found.step == 4 and found.ema_updates == 4
    for ours, theirs in (("model.", "model."), ("ema.", "average 0.")):
        for name, value in found.tensors.items():
            if name.startswith(ours):
                assert torch.equal(value, wanted[theirs + name.removeprefix(ours)]), name
    other = stepped(experiment(**NEW).model.network.state_dict(), **NEW)
    assert not all(torch.equal(v, other[k]) for k, v in found.tensors.items() if k.startswith("model."))


def test_where_the_weights_come_from_is_stated(source, tmp_path, capsys):
    """In the log, the checkpoints and the report. The statement does not depend on paths."""
    workdir = run(tmp_path / "new", init_from=source, **NEW)
    facts = last_checkpoint(workdir.checkpoints).facts["initial"]
    before = last_checkpoint(source / "checkpoints")
    assert facts["config"] == before.config_digest and facts["step"] == 6 and facts["weights"] == "ema"
    assert facts["sha256"] == tensors_digest({f"model.{k}": v for k, v in weights(before.tensors, "ema").items()}, {})
    assert json.loads(workdir.environment_file.read_text())["initial weights"] == facts
    log = workdir.log_file.read_text()
    assert f"starts from {describe_source(facts)}" in log
    assert "config of the source -> of this run: " in log and "training.learning_rate: 0.01 -> 0.005" in log
    text = report(experiment(**NEW), workdir).read_text()
    assert f"<td>{describe_source(facts)}" in text
    workdir.environment_file.unlink()
    assert describe_source(facts) in report(experiment(**NEW), workdir).read_text()
    shutil.copytree(source, tmp_path / "elsewhere")
    again = run(tmp_path / "again", init_from=tmp_path / "elsewhere" / "checkpoints" / before.path.name, **NEW)
    assert last_checkpoint(again.checkpoints).facts["initial"] == facts
    assert same(last_checkpoint(again.checkpoints).tensors, last_checkpoint(workdir.checkpoints).tensors)


def test_a_run_from_random_weights_says_so(source):
    made = Experiment.from_config(load_config(source / "config.json"))
    assert "<td>random" in report(made, Workdir(source)).read_text()
    assert read_initial(Workdir(source)) is None


def test_a_second_run_of_an_experiment_does_not_start_from_the_first(tmp_path):
    """Otherwise it would start from trained weights without a statement, and from others if it is killed and started again."""
    made, folders = experiment(**NEW), [Workdir(tmp_path / name) for name in ("one", "two")]
    for workdir in folders:
        train_here(made, workdir)
    one, two = (last_checkpoint(workdir.checkpoints) for workdir in folders)
    assert same(one.tensors, two.tensors)
    assert same(made.model.network.state_dict(), experiment(**NEW).model.network.state_dict())


class TestRestart:
    """A run that was killed goes on without the source."""

    def killed(self, folder, source, condition, **more):
        child = Child(folder, {**LONGER, **more}, extra=["--init-from", str(source)])
        child.until(lambda: condition(child), "its beginning")
        child.signal(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
        shutil.rmtree(source)
        return Workdir(folder)

    def test_killed_before_its_first_checkpoint(self, source, copied, tmp_path):
        """The same command ends with the result of a run that was not killed, bit for bit."""
        whole = run(tmp_path / "whole", init_from=source, **{k.replace(".", "__"): v for k, v in LONGER.items()})
        workdir = self.killed(tmp_path / "new", copied, lambda child: (child.folder / "config.json").exists())
        assert not list_checkpoints(workdir.checkpoints)
        again = Child(workdir.path, LONGER, extra=["--init-from", str(copied)])
        assert again.end() == 0, again.output()
        ours, theirs = (last_checkpoint(one.checkpoints) for one in (workdir, whole))
        assert (
            ours.step == 30 and same(ours.tensors, theirs.tensors) and ours.facts["initial"] == theirs.facts["initial"]
        )

    def test_killed_after_a_checkpoint(self, copied, tmp_path):
        """The flag may be left out."""
        more = {"training.checkpoint_every": 2, "training.steps": 10_000, "training.schedule": "constant"}
        workdir = self.killed(tmp_path / "new", copied, lambda child: child.checkpoints, **more)
        before = last_checkpoint(workdir.checkpoints)
        done = called("train", "--workdir", workdir.path, f"--config.training.steps={before.step + 2}")
        assert done.returncode == 0 and f"resumed from {before.path.name}" in done.stdout, done.stderr
        after = last_checkpoint(workdir.checkpoints)
        assert after.step == before.step + 2 and after.facts["initial"] == before.facts["initial"]

    def test_two_processes_start_from_the_same_weights(self, source, tmp_path):
        options = {k.replace("__", "."): v for k, v in NEW.items()}
        one = run(tmp_path / "one", init_from=source, **NEW)
        ranks = together(tmp_path / "two", 2, options, extra=["--init-from", str(source)])
        assert [rank.end() for rank in ranks] == [0, 0], [rank.output() for rank in ranks]
        a, b = (last_checkpoint(folder / "checkpoints") for folder in (one.path, tmp_path / "two"))
        assert a.facts["initial"] == b.facts["initial"]
        start = weights(read_source(source).checkpoint.tensors, "model")
        moved = sum(float((a.tensors[f"model.{k}"] - v).square().sum()) for k, v in start.items()) ** 0.5
        apart = sum(float((a.tensors[f"model.{k}"] - b.tensors[f"model.{k}"]).square().sum()) for k in start) ** 0.5
        assert moved > 0 and apart < 1e-3 * moved

    def test_without_the_copy(self, source, tmp_path):
        """A folder without its copy does not start from random weights, and not from another copy."""
        workdir = Workdir(tmp_path / "new")
        made = experiment(**NEW)
        workdir.claim(made, initial=read_source(source))
        other = read_source(source, "model")
        content = workdir.initial_file.read_bytes()
        for change, message in (
            (
                lambda: workdir.initial_file.unlink(),
                r"initial\.safetensors is missing: this run starts from weights ema",
            ),
            (
                lambda: other.write(workdir.initial_file),
                "has weights model of step 6 .* but this run starts from weights ema",
            ),
            (lambda: workdir.initial_file.write_bytes(content[:-1]), "is damaged"),
        ):
            change()
            with pytest.raises(CheckpointError, match=message):
                train_here(made, workdir)
        workdir.initial_file.write_bytes(content)
        train_here(made, workdir)

    def test_a_start_that_was_killed_leaves_nothing_to_the_next(self, source, tmp_path):
        """A copy without a config.json belongs to a start that was killed. A run from random weights does not use it."""
        (tmp_path / "new").mkdir()
        read_source(source).write(Workdir(tmp_path / "new").initial_file)
        workdir = run(tmp_path / "new", **NEW)
        assert not workdir.initial_file.exists() and "initial" not in last_checkpoint(workdir.checkpoints).facts
        assert same(
            last_checkpoint(run(tmp_path / "plain", **NEW).checkpoints).tensors,
            last_checkpoint(workdir.checkpoints).tensors,
        )


class TestRefusals:
    """Nothing is written."""

    def refused(self, tmp_path, source, match, error=CheckpointError, init_weights="ema", **overrides):
        with pytest.raises(error, match=match):
            run(tmp_path / "new", init_from=source, init_weights=init_weights, **{**NEW, **overrides})
        assert not (tmp_path / "new").exists()

    def test_other_networks(self, source, tmp_path):
        self.refused(
            tmp_path, source, r"first\.weight has shape \(16, 112\) in the checkpoint, and \(17, 112\) in the network; .* and "
            r"\d+ more differences", network="{'name': 'MLP', 'width': 17, 'depth': 1}",
        )  # fmt: skip
        self.refused(
            tmp_path, source, r"blocks\.1\.norm\.weight of shape \(16,\) is only in the network",
            network="{'name': 'MLP', 'width': 16, 'depth': 2}",
        )  # fmt: skip
        with pytest.raises(CheckpointError, match=r"belongs to another network: "):
            dry_run(experiment(**{**NEW, "network": "{'name': 'MLP', 'width': 17, 'depth': 1}"}), init_from=source)

    def test_other_data(self, copied, tmp_path):
        """The weights of a convolution fit images of any size."""
        path = last_checkpoint(copied / "checkpoints").path
        tensors, header = read_tensors(path)
        header["facts"]["event_shape"] = [1, 16, 16]
        write_tensors(path, tensors, header)
        self.refused(tmp_path, path, r"trained on events of shape \(1, 16, 16\), .* has events of shape \(1, 8, 8\)")
        del header["facts"]["event_shape"]  # by an earlier version
        write_tensors(path, tensors, header)
        read_source(path).check_fit(experiment(**NEW).model.network, (1, 8, 8))

    def test_no_such_weights(self, source, tmp_path):
        self.refused(
            tmp_path, source, r"has no weights 'ema7': give --init-weights ema, ema1, ema2, model", init_weights="ema7"
        )
        file = list_checkpoints(source / "checkpoints")[-1]
        self.refused(tmp_path, file, "is the width of an average", init_weights=0.07)
        self.refused(tmp_path, source, "weights='best' is not known", ValueError, init_weights="best")

    def test_damaged_checkpoints(self, copied, tmp_path):
        """The newest intact checkpoint of a folder is used. A file that was named is not replaced by another."""
        *_, before, last = list_checkpoints(copied / "checkpoints")
        content = last.read_bytes()
        last.write_bytes(content[:-9])
        self.refused(tmp_path, last, "is damaged")
        workdir = run(tmp_path / "older", init_from=copied, **NEW)
        assert f"{last.name} is damaged and was skipped" in workdir.log_file.read_text()
        assert last_checkpoint(workdir.checkpoints).facts["initial"]["step"] == read_checkpoint(before).step
        for file in list_checkpoints(copied / "checkpoints"):
            file.write_bytes(b"junk")
        self.refused(tmp_path, copied, "is damaged")
        self.refused(tmp_path, tmp_path / "copie", r"does not exist: .* did you mean .*copied")
        (tmp_path / "empty").mkdir()
        self.refused(tmp_path, tmp_path / "empty", "contains no checkpoint")

    def test_weights_that_are_not_finite(self, copied, tmp_path):
        path = last_checkpoint(copied / "checkpoints").path
        tensors, header = read_tensors(path)
        tensors["ema.last.bias"][0] = float("nan")
        write_tensors(path, tensors, header)
        self.refused(tmp_path, path, r"last\.bias is not finite at step 6: .* cannot be used")

    def test_an_existing_run(self, source, copied):
        """A run from random weights does not become another run."""
        with pytest.raises(
            WorkdirError, match="is a run that starts from random weights: give a new folder with --init-from"
        ):
            run(copied, init_from=source, **SOURCE)

    def test_a_checkpoint_of_a_run_with_another_start(self, source, tmp_path):
        """Both runs have the same config."""
        plain, new = run(tmp_path / "plain", **NEW), run(tmp_path / "new", init_from=source, **NEW)
        for workdir, other, message in (
            (plain, new, "starts from weights ema .*; the run of this folder starts from random weights"),
            (new, plain, "starts from random weights; the run of this folder starts from weights ema"),
        ):
            shutil.copytree(workdir.path, tmp_path / f"mixed {message}")
            mixed = Workdir(tmp_path / f"mixed {message}")
            shutil.rmtree(mixed.checkpoints)
            shutil.copytree(other.checkpoints, mixed.checkpoints)
            with pytest.raises(WorkdirError, match=message):
                train_here(experiment(**NEW), mixed)


class TestCommandLine:
    def test_the_config_of_the_source_is_used(self, source, tmp_path):
        """Without --config. Its keys can be overridden, the process too if the network fits."""
        flags = ["--config.training.steps=2", "--config.training.learning_rate=0.001", "--config.sde.name=VESDE"]
        for place in (source, list_checkpoints(source / "checkpoints")[-1]):
            folder = tmp_path / place.name
            done = called("train", "--init-from", place, "--init-weights", "model", "--workdir", folder, *flags)
            assert done.returncode == 0, done.stderr
            assert "starts from weights model of step 6 of a run" in done.stdout
            assert "sde.name: 'VPSDE' -> 'VESDE'" in done.stdout and "steps 0 to 2" in done.stdout
        done = called("train", "--init-from", source, "--dry-run", *flags)
        assert done.returncode == 0 and "for 2 steps" in done.stdout, done.stderr

    def test_errors(self, source, tmp_path):
        done = called("train", "--workdir", tmp_path / "new", "--init-from", tmp_path)
        assert done.returncode == 2 and "contains no config.json" in done.stderr
        done = called("train", "--workdir", source, "--init-weights", "model")
        assert done.returncode == 2 and "--init-weights requires --init-from" in done.stderr
        done = called("sample", "--workdir", source, "--init-from", source)
        assert done.returncode == 2 and "--init-from is a flag of train" in done.stderr


class TestALongerCosine:
    """A finished run with a cosine schedule is trained further in a new run."""

    def test_its_schedule_starts_again(self, tmp_path):
        first = run(tmp_path / "first", **NEW)
        with pytest.raises(
            WorkdirError, match=r"To train further, start a new run from the weights: --init-from .*first"
        ):
            run(first.path, **{**NEW, "training__steps": 8})
        second = run(
            tmp_path / "second", init_from=first.path, **{**NEW, "training__steps": 8, "training__log_every": 1}
        )
        rates = [float(line.split(",")[3]) for line in second.metrics_file.read_text().splitlines()[1:]]
        config = experiment(**{**NEW, "training__steps": 8}).training
        assert rates == [learning_rate(config, step) for step in range(8)]

    def test_a_constant_run_is_ended_by_a_decay(self, tmp_path):
        """A constant run can be made longer. A cosine run without a warm-up from any of its checkpoints ends it."""
        constant = {**NEW, "training__schedule": "constant"}
        first = run(tmp_path / "first", **constant, training__keep_every=4)
        run(first.path, **{**constant, "training__steps": 6}, training__keep_every=4)
        middle = first.checkpoints / "step-000000004.safetensors"
        end = run(tmp_path / "end", init_from=middle, **{**NEW, "training__warmup": 0})
        assert last_checkpoint(end.checkpoints).facts["initial"]["step"] == 4
