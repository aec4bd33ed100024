"""The sweeps of docs/sweeps.md, at a tiny size; killed and started again, they end with the same comparison."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from scoresde.experiment.jobs.evaluation import EvaluationJob
from tests.experiment.conftest import ROOT

PAGE = (ROOT / "docs" / "sweeps.md").read_text()
TIMES = ("seconds of training", "path")


def figures(file):
    """The records of a comparison, without times and places."""
    return [{k: v for k, v in run.items() if k not in TIMES} for run in json.loads(file.read_text())["runs"]]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_sweep_in_python_goes_on_after_an_interrupt(place, monkeypatch):
    """Interrupted in the evaluation of the second of two runs; only the rest is computed."""
    (code,) = re.findall(r"\n\n((?:    .*\n|\n)+)", PAGE[PAGE.index("## A sweep in Python") :])
    code = textwrap.dedent(code).replace('"300"', '"4"').replace('"359"', '"8"').replace('"width": 128', '"width": 16')
    code = code.replace("(0.0005, 0.002, 0.008)", "(0.0005, 0.002)")
    tiny = '"likelihood.limit": "4", "likelihood.grid_events": "0", "model.prediction": "noise", "evaluation.subset_size": "50"'
    code = code.replace('"training.steps"', f'{tiny}, "training.steps"')
    features, count = EvaluationJob.features, 0

    def once(job, part):
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        return features(job, part)

    monkeypatch.setattr(EvaluationJob, "features", once)
    with pytest.raises(KeyboardInterrupt):
        exec(code, {})
    assert sorted(path.name for path in (place / "runs" / "sweep").iterdir()) == ["rate-0.0005", "rate-0.002"]
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("*.safetensors")}
    exec(code, {})
    assert before and all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    found = figures(place / "runs" / "sweep.json")
    assert [run["training.learning_rate"] for run in found] == [0.0005, 0.002]
    assert all(run["test bits/dim"] > 0 and run["ddim count"] == 8 and run["steps"] == 4 for run in found)


@pytest.mark.long
def test_the_sweep_in_a_shell_goes_on_after_a_kill(place):
    """The script of the page in bash, killed twice with all of its processes."""
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    script = script.replace("=300", "=6").replace("=359", "=8").replace('"width": 128', '"width": 16')
    script = script.replace(
        "scoresde train", "scoresde train --config.likelihood.limit=4 --config.model.prediction=noise"
    )
    command = f'scoresde() {{ {sys.executable} -m scoresde "$@"; }}\n{script}'
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for sign in ("rate-0.0005/likelihood/test.json", "rate-0.002/config.json"):
        killed = subprocess.Popen(
            ["bash", "-c", command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while not (place / "runs" / "sweep" / sign).exists():
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found = figures(place / "runs" / "sweep.json")
    shutil.rmtree(place / "runs")
    subprocess.run(["bash", "-c", command], capture_output=True, check=True, env=environment, timeout=600)
    assert figures(place / "runs" / "sweep.json") == found and len(found) == 3
