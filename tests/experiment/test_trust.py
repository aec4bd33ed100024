"""The config.json of a work folder is data: it names the library's classes, and others only if the user trusts them."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from scoresde.experiment import ConfigError, load_config
from scoresde.experiment.config.trust import untrusted

from .canary import CALLS
from .conftest import called, ended

CANARY = "tests.experiment.canary"
SETTINGS = {
    "network": "{'name': 'MLP', 'width': 8, 'depth': 1}", "network__channels": None, "network__blocks": None,
    "training__steps": 1, "training__preview_every": 0, "sampling__count": 2,
    "samplers": "{'heun': {'name': 'EDM', 'steps': 2}}", "samplers__predictor-corrector__steps": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ended(tmp_path_factory, "train", "sample", **SETTINGS)[0]


@pytest.fixture
def foreign(trained, tmp_path):
    """A third-party folder with changes to its config: ``foreign({"sde": node})``."""

    def made(changes):
        folder = tmp_path / "foreign"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        content = json.loads((folder / "config.json").read_text())
        for key, node in changes.items():
            *parents, last = key.split(".")
            place = content
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = node
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    CALLS.clear()
    return made


NODES = {
    "sde": {"name": f"{CANARY}:Thing"},
    "sde of its kind": {"name": f"{CANARY}:Process"},
    "data": {"name": f"{CANARY}:Thing"},
    "network": {"name": f"{CANARY}:Thing"},
    "network.embedding": {"name": f"{CANARY}:function"},
    "model.prediction": {"name": f"{CANARY}:Thing"},
    "model.label": {"name": f"{CANARY}:Thing"},
    "model.name": f"{CANARY}:Thing",
    "objective": {"name": f"{CANARY}:Thing"},
    "objective.times": {"name": f"{CANARY}:Thing"},
    "training.name": f"{CANARY}:Thing",
    "training.steps": {"name": f"{CANARY}:Thing"},
    "sampling.name": f"{CANARY}:Thing",
    "samplers.x": {"name": f"{CANARY}:function"},
    "samplers.heun.churn": {"name": f"{CANARY}:Thing"},
    "samplers.heun.grid": {"name": f"{CANARY}:function"},
    "samplers.heun.grids": [{"name": f"{CANARY}:Thing"}, [{"a": {"name": f"{CANARY}:Thing"}}]],
    "likelihood.name": f"{CANARY}:Thing",
    "likelihood.solver": {"name": f"{CANARY}:Thing"},
    "likelihood.divergence": {"name": f"{CANARY}:Thing"},
    "evaluation.name": f"{CANARY}:Thing",
    "evaluation.extractor": {"name": f"{CANARY}:Extractor"},
    "threads": {"name": f"{CANARY}:Thing"},
}  # fmt: skip


def assert_refused(done, *wanted):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for text in wanted:
        assert text in done.stderr, done.stderr


class TestAFolderIsData:
    @pytest.mark.parametrize("key", NODES)
    def test_a_foreign_name_is_refused_in_every_node(self, foreign, key):
        folder = foreign({key.split(" ")[0]: NODES[key]})
        assert_refused(called("sample", "--workdir", folder), f"--trust {CANARY}", "since it runs code")
        assert CALLS == []

    @pytest.mark.parametrize("verb", ["train", "sample", "likelihood", "evaluate", "report"])
    def test_by_every_command(self, foreign, verb):
        folder = foreign({"sde": {"name": f"{CANARY}:Process"}})
        before = (folder / "log.txt").read_text()
        assert_refused(called(verb, "--workdir", folder), f"config.sde.name='{CANARY}:Process'", f"--trust {CANARY}")
        assert CALLS == [] and (folder / "log.txt").read_text() == before

    @pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "os.path:join", "builtins:eval", "scoresde:sde"])
    def test_it_is_not_imported(self, foreign, name, monkeypatch):
        monkeypatch.setattr("importlib.import_module", lambda name: CALLS.append(name))
        folder = foreign({"sde": {"name": name, "command": "true", "args": ["true"]}})
        assert_refused(called("sample", "--workdir", folder), f"config.sde.name={name!r}")
        assert_refused(called("check", "--config", folder / "config.json"), f"config.sde.name={name!r}")
        assert CALLS == []

    def test_the_current_folder_is_not_looked_in(self, trained, monkeypatch):
        """A third-party folder may be the current folder and contain modules that Python would import."""
        seen = []
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        monkeypatch.chdir(trained)
        monkeypatch.setattr("scoresde.experiment.report", lambda *given: seen.append(list(sys.path)))
        assert called("report", "--workdir", ".").returncode == 0
        assert seen and str(trained) not in seen[0]

    def test_own_names_of_another_kind(self, foreign):
        """Classes of the library that the key does not accept are not constructed."""
        for name in ("MLP", "karras", "scoresde.networks.mlp:MLP", "scoresde.experiment.folder.workdir:Workdir"):
            assert_refused(called("sample", "--workdir", foreign({"sde": {"name": name}})), "is not allowed here")
        done = called("sample", "--workdir", foreign({"sde": {"name": "scoresde.sde.processes.vp:torch"}}))
        assert_refused(done, "is a module")
        done = called("sample", "--workdir", foreign({"sde": {"name": "scoresde.experiment.config.builder:Path"}}))
        assert_refused(done, "is of pathlib")

    def test_a_program_in_a_file(self, foreign, tmp_path):
        """A TorchScript file may call operators of torch that write files."""
        torch.jit.script(torch.nn.Flatten()).save(str(tmp_path / "net.pt"))
        for name in ("TorchScript", "scoresde.metrics:TorchScript"):
            folder = foreign({"evaluation.extractor": {"name": name, "file": str(tmp_path / "net.pt"), "options": {}}})
            assert_refused(called("evaluate", "--workdir", folder), "--trust TorchScript")
        assert "--trust" not in called("evaluate", "--workdir", folder, "--trust", "TorchScript").stderr


class TestTrust:
    def test_by_a_flag(self, foreign):
        folder = foreign({"evaluation.extractor": {"name": f"{CANARY}:Extractor"}})
        before = (folder / "config.json").read_text()
        for trust in (CANARY, "tests", "tests.experiment"):
            done = called("sample", "--workdir", folder, "--trust", "other", "--trust", trust)
            assert done.returncode == 0, done.stderr
        assert CALLS == ["Extractor"] * 3
        assert (folder / "config.json").read_text() == before, "trust is never kept"
        assert_refused(called("sample", "--workdir", folder), f"--trust {CANARY}")
        for other in ("tests.experiment.can", "canary", f"{CANARY}:Extractor", "", "TorchScript"):
            assert_refused(called("sample", "--workdir", folder, "--trust", other), f"--trust {CANARY}")

    def test_the_type_is_checked_all_the_same(self, foreign):
        for name in ("Thing", "function"):
            folder = foreign({"sde": {"name": f"{CANARY}:{name}"}})
            assert_refused(called("sample", "--workdir", folder, "--trust", CANARY), "is not allowed here: give SDE")
        folder = foreign({"sde": {"name": "os:system", "command": "true"}})
        assert_refused(called("sample", "--workdir", folder, "--trust", "os"), "is a builtin_function_or_method")
        assert CALLS == []

    def test_all_modules_are_named_at_once(self, foreign):
        folder = foreign({"sde": {"name": "a.b:C"}, "evaluation.extractor": {"name": "d:E", "x": {"name": "a.b:D"}}})
        assert_refused(called("sample", "--workdir", folder), "--trust a.b --trust d,")

    def test_what_is_typed_is_trusted(self, trained, tmp_path):
        """Like the file of --config, it comes from the user."""
        CALLS.clear()
        shutil.copytree(trained, tmp_path / "run")
        extractor = f"--config.evaluation.extractor={{'name': '{CANARY}:Extractor'}}"
        assert called("sample", "--workdir", tmp_path / "run", extractor).returncode == 0
        assert CALLS == ["Extractor"]

    def test_in_python(self, foreign):
        file = foreign({"evaluation.extractor": {"name": f"{CANARY}:Extractor"}}) / "config.json"
        with pytest.raises(ConfigError, match="--trust"):
            load_config(file)
        assert load_config(file, trust=[CANARY]).evaluation.extractor.name == f"{CANARY}:Extractor"

    @pytest.mark.long
    def test_processes_that_share_the_work(self, foreign):
        folder = foreign(
            {"evaluation.extractor": {"name": f"{CANARY}:Extractor"}, "sampling.count": 4, "sampling.batch_size": 1}
        )
        done = called("sample", "--workdir", folder, "--processes", 2, "--trust", CANARY, "--config.sampling.seed=1")
        assert done.returncode == 0, done.stderr


def test_names_in_the_library():
    allowed = ("VPSDE", "scoresde.sde.processes.vp:VPSDE", "scoresde.sde:VPSDE", "no such name")
    assert untrusted({"a": [{"name": name} for name in allowed]}) == []
    foreign = (
        "scoresde:sde", "scoresde.__main__:main", "scoresde._files:write_atomic", "scoresde.no.file:X", "scoresde..sde:X",
        ":", "x:", ":y", ".x:y", "scoresde_other:X", "SCORESDE.sde:X",
    )  # fmt: skip
    for name in foreign:
        assert [found[1] for found in untrusted({"a": {"b": {"name": name}}})] == [name]
