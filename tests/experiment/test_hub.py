"""Publishing and fetching folders: what arrives works, nothing is half-written, nothing from elsewhere is executed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys

import pytest
import torch

from scoresde._files import read_sealed, write_sealed
from scoresde.experiment import TransferError, Workdir, pull, push, train
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints
from scoresde.experiment.hub import manifest, places
from scoresde.experiment.hub.card import plain, table
from scoresde.experiment.hub.manifest import MANIFEST, FileFacts
from tests.experiment.conftest import HereCommand, called
from tests.experiment.hub_common import FEW, opened, scores
from tests.experiment.test_loggers import small
from tests.experiment.training import same


@pytest.fixture(scope="module")
def run(finished_run):
    return finished_run


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    """The run as it is published."""
    place = tmp_path_factory.mktemp("published") / "model"
    done = called("push", place, "--workdir", run, "--license", "apache-2.0", "--tag", "digits")
    assert done.returncode == 0, done.stderr
    return place


def sealed_again(folder):
    """Write a manifest that fits the files, as anyone can."""
    facts = {key: value for key, value in read_sealed(folder / MANIFEST).items() if key != "files"}
    (folder / MANIFEST).unlink()
    manifest.write_manifest(folder, facts)


class TestAFolder:
    def test_what_is_published(self, run, published):
        names = {file.relative_to(published).as_posix() for file in published.rglob("*") if file.is_file()}
        assert names == {
            "README.md", "manifest.json", "config.json", "environment.json", "metrics.csv", "likelihood/test.json",
            "checkpoints/step-000000004.safetensors", "likelihood/test.csv", "pictures/samples-0.png", "pictures/samples-1.png",
            "evaluation/predictor-corrector.json", "evaluation/probability-flow.json",
        }  # fmt: skip
        stored = last_checkpoint(published / "checkpoints")
        assert {name.partition(".")[0] for name in stored.tensors} == {"ema"}
        listed = read_sealed(published / MANIFEST)["files"]
        assert set(listed) == names - {MANIFEST}
        assert listed["metrics.csv"] == vars(FileFacts.of(run / "metrics.csv"))
        assert "loggers" not in json.loads((published / "config.json").read_text())
        assert "loggers" not in json.loads(stored.facts["config"])

    def test_the_card_has_the_figures_of_the_run(self, run, published):
        card = (published / "README.md").read_text()
        found = read_sealed(run / "likelihood" / "test.json")
        figure = f"{found['bits_per_dim']:.4f} +- {found['standard_error']:.4f} bits/dim on 5 test events"
        assert (
            f"| {figure} | ema | 1 | {found['date']} | scoresde {found['scoresde']} | {plain(found['command'])} |"
            in card
        )
        assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: scoresde\ntags:\n") and '- "digits"\n' in card
        other = read_sealed(run / "evaluation" / "probability-flow.json")
        assert f"| probability-flow | 4 | {other['reference count']} | {other['frechet distance']:.4g} |" in card
        assert "![Samples](pictures/samples-1.png)" in card and "License: apache-2.0." in card
        environment = read_sealed(run / "environment.json")
        assert f"| command | {plain(environment['command'])} |" in card and environment["date"] in card

    def test_it_is_a_work_folder(self, run, published, tmp_path):
        there = pull(published, tmp_path / "model")
        assert torch.equal(scores(there.path), scores(run)) and there.path == tmp_path / "model"
        for command in ("sample", "likelihood", "evaluate"):
            done = called(command, "--workdir", there.path)
            assert done.returncode == 0, done.stderr
        ours, before = (read_sealed(folder / "likelihood" / "test.json") for folder in (there.path, run))
        assert ours["bits_per_dim"] == before["bits_per_dim"]
        assert (
            called("sample", "--workdir", there.path, "--weights", "model").stderr.count(
                "available are ema (decay 0.998), and"
            )
            == 1
        )

    def test_it_can_be_published_again_with_its_figures(self, published, tmp_path):
        done = called("push", tmp_path / "again", "--workdir", pull(published, tmp_path / "model").path)
        assert done.returncode == 0, done.stderr
        card = (tmp_path / "again" / "README.md").read_text()
        assert "bits/dim on 5 test events" in card and "No license is stated." in card and "## Samples\n" not in card

    def test_chosen_weights(self, run, tmp_path):
        done = called(
            "push", tmp_path / "out", "--workdir", run, "--weights", "model", "--weights", "0.07", "--weights", "model"
        )
        assert done.returncode == 0 and "weights model, 0.07 of step" in done.stdout
        folder = pull(tmp_path / "out", tmp_path / "model").path
        for which in ("model", "0.07"):
            assert torch.equal(scores(folder, which), scores(run, which))
        card = (tmp_path / "out" / "README.md").read_text()
        assert "bits/dim on" not in card  # the figures are those of the weights ema
        refused = called("push", tmp_path / "other", "--workdir", run, "--weights", "ema7")
        assert (
            refused.returncode == 2
            and "weights='ema7' are not in" in refused.stderr
            and not (tmp_path / "other").exists()
        )


class TestTraining:
    def test_continues_elsewhere_with_the_state(self, tmp_path):
        options = {"network__dropout": None, "training__ema_decays": "[0.9, 0.99]", "training__posthoc_widths": "[0.1]"}
        train(small(training__steps=6, **options), Workdir(tmp_path / "whole"))
        half = small(training__steps=4, **options)
        train(half, Workdir(tmp_path / "half"))
        push(half, Workdir(tmp_path / "half"), tmp_path / "out", state=True)
        there = pull(tmp_path / "out", tmp_path / "there")
        train(small(training__steps=6, **options), there)
        a, b = (last_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "there"))
        assert a.step == b.step == 6 and same(a.tensors, b.tensors)

    def test_of_a_run_that_started_from_other_weights(self, published, tmp_path):
        command = HereCommand(tmp_path / "run")
        done = command("train", "vp", "--init-from", published, **{**FEW, "training__steps": 2})
        assert done.returncode == 0, done.stderr
        assert called("push", tmp_path / "out", "--workdir", tmp_path / "run", "--with-state").returncode == 0
        pull(tmp_path / "out", tmp_path / "there")
        done = called("train", "--workdir", tmp_path / "there", "--config.training.steps=4")
        assert done.returncode == 0 and "trained to step 4" in done.stdout, done.stderr

    def test_does_not_start_without_it(self, published, tmp_path):
        pull(published, tmp_path / "there")
        done = called("train", "--workdir", tmp_path / "there")
        assert (
            done.returncode == 2
            and "published without the training state" in done.stderr
            and "--with-state" in done.stderr
        )


class TestFiguresThatDoNotBelong:
    @pytest.fixture
    def copy(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "run")
        return tmp_path / "run"

    def card(self, folder):
        experiment, workdir = opened(folder)
        push(experiment, workdir, folder.parent / "out")
        return (folder.parent / "out" / "README.md").read_text()

    def test_of_an_earlier_checkpoint(self, copy):
        assert called("train", "--workdir", copy, "--config.training.steps=6").returncode == 0
        card = self.card(copy)
        assert not any(title in card for title in ("## Likelihood", "## Samples", "## Samples compared"))

    def test_that_were_changed(self, copy):
        rows = copy / "likelihood" / "test.csv"
        rows.write_text(rows.read_text().replace("0", "1"))
        (copy / "samples" / "probability-flow.png").write_bytes(b"no picture")
        result = copy / "evaluation" / "predictor-corrector.json"
        result.write_text(result.read_text().replace("frechet", "Frechet"))
        environment = copy / "environment.json"
        environment.write_text(environment.read_text().replace("cpu", "gpu"))
        card = self.card(copy)
        assert (
            "## Likelihood" not in card
            and "pictures/samples-1.png" not in card
            and "| predictor-corrector |" not in card
        )
        assert (
            "## Training environment" not in card and "an unknown version" in card and "pictures/samples-0.png" in card
        )

    def test_text_of_a_folder_is_shown_as_it_is(self):
        assert plain("a|b\n<img>[x](y)`*_~!#") == r"a\|b \<img\>\[x\](y)\`\*\_\~\!\#"
        assert table(("a", ""), [("x|y", "1")]).splitlines() == ["| a |  |", "| --- | --- |", r"| x\|y | 1 |"]


class TestNothingIsHalfWritten:
    def killed(self, action):
        """Run in a forked process that is killed. Returns the signal."""
        child = multiprocessing.get_context("fork").Process(target=action)
        child.start()
        child.join(60)
        return -child.exitcode

    def test_a_killed_pull(self, published, tmp_path, monkeypatch):
        seen = []

        def last(source, target):
            seen.append(source)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            shutil.copyfile(source, target) if target.parent.mkdir(parents=True, exist_ok=True) is None else None

        monkeypatch.setattr(places, "copy_file", last)
        assert self.killed(lambda: pull(published, tmp_path / "model")) == signal.SIGKILL
        assert not (tmp_path / "model").exists()
        monkeypatch.undo()
        assert torch.equal(scores(pull(published, tmp_path / "model").path), scores(published))

    def test_a_killed_push_leaves_the_published_model(self, run, published, tmp_path, monkeypatch):
        shutil.copytree(published, tmp_path / "out")
        experiment, workdir = opened(run)
        monkeypatch.setattr(places, "publish_folder", lambda folder, target: os.kill(os.getpid(), signal.SIGKILL))
        assert self.killed(lambda: push(experiment, workdir, tmp_path / "out", overwrite=True)) == signal.SIGKILL
        monkeypatch.undo()
        assert pull(tmp_path / "out", tmp_path / "model").path.is_dir()

    def test_an_interrupt_removes_the_temporary_folder(self, run, tmp_path, monkeypatch):
        def interrupted(folder, target):
            raise KeyboardInterrupt

        monkeypatch.setattr(places, "publish_folder", interrupted)
        experiment, workdir = opened(run)
        with pytest.raises(KeyboardInterrupt):
            push(experiment, workdir, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_what_exists_is_not_replaced(self, run, published, tmp_path):
        target = tmp_path / "out"
        shutil.copytree(published, target)
        (target / "mine.txt").write_text("mine")
        for command in (("push", target, "--workdir", run), ("pull", published, "--workdir", target)):
            done = called(*command)
            assert done.returncode == 2 and "--overwrite" in done.stderr and (target / "mine.txt").exists()
        for command in (("push", target, "--workdir", run), ("pull", published, "--workdir", target)):
            (target / "mine.txt").write_text("mine")
            done = called(*command, "--overwrite")
            assert (
                done.returncode == 0
                and not (target / "mine.txt").exists()
                and [p.name for p in tmp_path.iterdir()] == ["out"]
            )
        other = tmp_path / "other"
        other.mkdir()
        (other / "thesis.tex").write_text("years of work")
        for command in (("push", other, "--workdir", run), ("pull", published, "--workdir", other)):
            done = called(*command, "--overwrite")
            assert done.returncode == 2 and "contains other files" in done.stderr and (other / "thesis.tex").exists()
        (tmp_path / "file").write_text("")
        assert "is not a folder" in called("pull", published, "--workdir", tmp_path / "file", "--overwrite").stderr


class TestAPublishedModelOfAnyone:
    @pytest.fixture
    def theirs(self, published, tmp_path):
        shutil.copytree(published, tmp_path / "theirs")
        return tmp_path / "theirs"

    def refused(self, theirs, text):
        with pytest.raises(TransferError) as caught:
            pull(theirs, theirs.parent / "model")
        assert text in str(caught.value), str(caught.value)
        assert not (theirs.parent / "model").exists() and not list(theirs.parent.glob(".model*"))

    @pytest.mark.parametrize("name", ["checkpoints/step-000000004.safetensors", "config.json", "README.md"])
    def test_a_changed_file(self, theirs, name):
        content = bytearray((theirs / name).read_bytes())
        content[len(content) // 2] ^= 1
        (theirs / name).write_bytes(content)
        self.refused(theirs, f"{name} has changed: its SHA-256 is not the one in manifest.json")

    def test_a_missing_file_and_a_link(self, theirs):
        file = theirs / "likelihood" / "test.csv"
        file.rename(theirs / "elsewhere")
        self.refused(theirs, "likelihood/test.csv is missing")
        file.symlink_to(theirs / "elsewhere")
        self.refused(theirs, "likelihood/test.csv is a symbolic link")
        file.unlink()
        (theirs / "elsewhere").rename(file)
        (theirs / "likelihood").rename(theirs / "moved")
        (theirs / "likelihood").symlink_to(theirs / "moved")
        self.refused(theirs, "likelihood is a symbolic link, which pull does not follow")

    @pytest.mark.parametrize(
        "name",
        [
            "../x", "/etc/passwd", "checkpoints/../../x", "checkpoints/a\\b", "setup.py", ".git/config", "checkpoints/.hidden",
            "x/y", "config.json/x", "checkpoints//x", "checkpoints/*", "checkpoints/a\nb", "checkpoints/" + "a" * 300,
            "checkpoints/a/b/c/d",
        ],
    )  # fmt: skip
    def test_a_name_that_is_not_ours(self, theirs, name):
        content = read_sealed(theirs / MANIFEST)
        content["files"][name] = content["files"]["README.md"]
        write_sealed(theirs / MANIFEST, content)
        self.refused(theirs, "is not a name of a file that scoresde push writes")

    @pytest.mark.parametrize(
        "change, text",
        [
            ({"format": 2}, "format=2: this version reads format 1"), ({"files": 3}, "manifest.json cannot be used"),
            ({"files": {}}, "it lacks README.md, config.json, environment.json"),
            ({"files": {"config.json": {"size": -1, "sha256": "0" * 64}}}, "size of config.json=-1 is not a whole number"),
            ({"files": {"config.json": {"size": 1, "sha256": "x"}}}, "needs size and sha256"),
        ],
    )  # fmt: skip
    def test_a_manifest_that_push_does_not_write(self, theirs, change, text):
        write_sealed(theirs / MANIFEST, {**read_sealed(theirs / MANIFEST), **change})
        self.refused(theirs, text)

    def test_no_manifest(self, theirs):
        (theirs / MANIFEST).unlink()
        self.refused(theirs, "has no manifest.json: it is not a model that scoresde push wrote")
        self.refused(theirs / "nowhere", "is not a folder, and is not a repository")

    def test_a_config_that_names_code_is_data(self, theirs, tmp_path, capsys, monkeypatch):
        """Neither pull nor the commands after it import what it names."""
        monkeypatch.delitem(sys.modules, "tests.experiment.canary", raising=False)
        config = json.loads((theirs / "config.json").read_text())
        config["sde"] = {"name": "tests.experiment.canary:Canary"}
        (theirs / "config.json").write_text(json.dumps(config))
        sealed_again(theirs)
        pull(theirs, tmp_path / "model")
        assert "commands need --trust tests.experiment.canary, if you trust it" in capsys.readouterr().out
        done = called("sample", "--workdir", tmp_path / "model")
        assert done.returncode == 2 and "is not allowed in a folder's config" in done.stderr
        assert "tests.experiment.canary" not in sys.modules

    def test_a_config_that_is_none(self, theirs):
        (theirs / "config.json").write_text("[1, 2]")
        sealed_again(theirs)
        with pytest.raises(ValueError, match=r"not the config.json of a work folder"):
            pull(theirs, theirs.parent / "model")
        assert not (theirs.parent / "model").exists()

    def test_a_forged_header(self, theirs, tmp_path):
        from scoresde.experiment.folder.tensor_file import read_header, read_tensors, write_tensors

        file = list_checkpoints(theirs / "checkpoints")[0]
        header = {key: value for key, value in read_header(file).items() if key != "sha256"}
        write_tensors(file, read_tensors(file)[0], {**header, "facts": {**header["facts"], "pushed": "yes"}})
        sealed_again(theirs)
        there = pull(theirs, tmp_path / "model").path
        done = called("sample", "--workdir", there)
        assert done.returncode == 2 and "facts.pushed='yes' needs weights, state and digest" in done.stderr
