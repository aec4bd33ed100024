"""Publishing to a repository of the Hugging Face hub, without network: HfApi with a dictionary in place of the server."""

from __future__ import annotations

import fnmatch
import inspect
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from scoresde.experiment import TransferError, pull, push
from scoresde.experiment.hub.manifest import MANIFEST
from scoresde.experiment.hub.places import HubRepository, LocalFolder, parse_place
from tests.experiment.conftest import called
from tests.experiment.hub_common import opened, scores


@pytest.fixture
def run(finished_run):
    return finished_run


class FakeHub:
    """The methods of HfApi that are used. Calls must fit the signatures of the real class, if it is installed."""

    repos: ClassVar[dict[str, list[dict[str, bytes]]]] = {}
    private: ClassVar[dict[str, bool]] = {}
    messages: ClassVar[list[str]] = []

    def __init__(self, library_name):
        assert library_name == "scoresde"

    def repo_exists(self, repo_id):
        return repo_id in self.repos

    def create_repo(self, repo_id, *, private, exist_ok):
        if repo_id not in self.repos:
            self.repos[repo_id] = [{".gitattributes": b"*.safetensors filter=lfs"}]
            self.private[repo_id] = private
        assert exist_ok

    def repo_info(self, repo_id, *, revision=None):
        number = len(self.repos[repo_id]) - 1 if revision in (None, "main") else int(revision, 16)
        return types.SimpleNamespace(sha=f"{number:040x}")

    def _commit(self, repo_id, revision):
        return self.repos[repo_id][int(self.repo_info(repo_id, revision=revision).sha, 16)]

    def list_repo_files(self, repo_id, *, revision=None):
        return sorted(self._commit(repo_id, revision))

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns=None):
        kept = {
            name: content for name, content in self.repos[repo_id][-1].items()
            if name == ".gitattributes" or not any(fnmatch.fnmatch(name, one) for one in delete_patterns or [])
        }  # fmt: skip
        files = [file for file in Path(folder_path).rglob("*") if file.is_file()]
        new = {file.relative_to(folder_path).as_posix(): file.read_bytes() for file in files}
        self.repos[repo_id].append({**kept, **new})
        self.messages.append(commit_message)

    def hf_hub_download(self, repo_id, filename, *, revision, local_dir):
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._commit(repo_id, revision)[filename])
        (Path(local_dir) / ".cache").mkdir(exist_ok=True)
        return str(target)


@pytest.fixture
def hub(monkeypatch):
    for known in (FakeHub.repos, FakeHub.private, FakeHub.messages):
        known.clear()
    try:
        import huggingface_hub
    except ImportError:
        module = types.ModuleType("huggingface_hub")
        module.HfApi = FakeHub
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return FakeHub
    for name, method in list(vars(FakeHub).items()):
        if not name.startswith("_") and inspect.isfunction(method):
            real = inspect.signature(getattr(huggingface_hub.HfApi, name))

            def checked(self, *given, _method=method, _real=real, **options):
                _real.bind(self, *given, **options)
                return _method(self, *given, **options)

            monkeypatch.setattr(huggingface_hub.HfApi, name, checked)
    for name in ("repos", "private", "messages", "_commit"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, vars(FakeHub)[name], raising=False)
    return FakeHub


class TestARepository:
    def test_there_and_back(self, run, hub, tmp_path):
        done = called("push", "hf://user/digits", "--workdir", run, "--license", "apache-2.0", "--tag", "digits")
        assert done.returncode == 0, done.stderr
        assert "published as hf://user/digits" in done.stdout and hub.private == {"user/digits": True}
        assert len(hub.repos["user/digits"]) == 2 and hub.messages == [f"{run.name} at step 4, by scoresde 0.1.0"]
        assert "scoresde pull hf://user/digits --workdir model" in hub.repos["user/digits"][-1]["README.md"].decode()
        done = called("pull", "hf://user/digits", "--workdir", tmp_path / "model")
        assert done.returncode == 0, done.stderr
        names = {p.relative_to(tmp_path / "model").as_posix() for p in (tmp_path / "model").rglob("*") if p.is_file()}
        assert names == set(hub.repos["user/digits"][-1]) - {".gitattributes"} and "pictures/samples-0.png" in names
        assert torch.equal(scores(tmp_path / "model"), scores(run))

    def test_files_there_are_replaced_on_request_only(self, run, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        experiment, workdir = opened(run)
        push(experiment, workdir, "user/digits", public=True)
        assert hub.private == {"user/digits": False}
        hub.repos["user/digits"][-1]["notes.txt"] = b"old"
        with pytest.raises(TransferError, match=r"hf://user/digits has files .*--overwrite"):
            push(experiment, workdir, "user/digits")
        push(experiment, workdir, "user/digits", weights=("model",), overwrite=True)
        assert len(hub.repos["user/digits"]) == 3 and "notes.txt" not in hub.repos["user/digits"][-1]
        assert torch.equal(scores(pull("hf://user/digits@1", "first").path), scores(run))
        assert torch.equal(scores(pull("user/digits", "last").path, "model"), scores(run, "model"))
        with pytest.raises(TransferError, match="push writes to the default branch"):
            push(experiment, workdir, "hf://user/digits@main")

    def test_a_changed_and_a_missing_file(self, run, hub, tmp_path):
        push(*opened(run), "hf://user/digits")
        files = hub.repos["user/digits"][-1]
        files["environment.json"] += b" "
        with pytest.raises(TransferError, match=r"hf://user/digits: environment.json has changed"):
            pull("hf://user/digits", tmp_path / "model")
        del files["environment.json"]
        with pytest.raises(TransferError, match=r"hf://user/digits: environment.json is missing"):
            pull("hf://user/digits", tmp_path / "model")
        del files[MANIFEST]
        with pytest.raises(TransferError, match=r"hf://user/digits has no manifest.json"):
            pull("hf://user/digits", tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_errors_of_the_hub_are_one_line(self, run, hub, tmp_path, monkeypatch):
        import huggingface_hub

        def refused(self, *given, **options):
            raise RuntimeError("401 Client Error\nsecond line")

        monkeypatch.setattr(huggingface_hub.HfApi, "repo_exists", refused)
        done = called("push", "hf://user/digits", "--workdir", run)
        assert done.returncode == 2 and "hf://user/digits: 401 Client Error (log in with hf auth login" in done.stderr

    def test_without_the_package(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(TransferError, match=r"pip install 'scoresde\[hub\]'"):
            pull("hf://user/digits", tmp_path / "model")


class TestPlaces:
    def test_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").mkdir()
        assert parse_place("hf://a/b") == HubRepository("a/b") and parse_place("hf://a/b@v1").revision == "v1"
        assert parse_place("a/b") == HubRepository("a/b") and parse_place("here/b") == LocalFolder(Path("here/b"))
        for local in ("here", "./a/b", "/a/b", "a/b/c", "model"):
            assert parse_place(local) == LocalFolder(Path(local)), local
        assert parse_place(Path("a/b")) == LocalFolder(Path("a/b"))
        for wrong in ("hf://a", "hf://a/b/c", "hf://../b", "hf://a/b@", "https://x/y", "", "  "):
            with pytest.raises(TransferError, match=r"is not a (repository|place)"):
                parse_place(wrong)

    @pytest.mark.parametrize(
        "option, value", [("license", "Apache 2\nx: y"), ("tags", ('a"b',)), ("tags", ("",)), ("weights", ())]
    )
    def test_words_of_the_card(self, run, tmp_path, option, value):
        with pytest.raises(ValueError, match=option):
            push(*opened(run), tmp_path / "out", **{option: value})
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_place(self, run):
        assert "required by push: PLACE" in called("push", "--workdir", run).stderr
        assert "required by pull: PLACE, --workdir" in called("pull").stderr
