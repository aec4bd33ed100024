"""A work folder belongs to one config: the first one, with which its checkpoints were trained."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest

from scoresde.experiment import Workdir, WorkdirError
from tests.experiment.conftest import TINY, called
from tests.experiment.training import experiment

REPETITIONS = 8


def claim(folder, scale, barrier, answers):
    """Claim one new folder after the other, at the same time as another process."""
    made = experiment(sde__beta_max=scale, **TINY)
    for number in range(REPETITIONS):
        barrier.wait(60)
        try:
            Workdir(folder / str(number)).claim(made, data=False)
            answers.put((number, scale, ""))
        except WorkdirError as problem:
            answers.put((number, scale, str(problem)))


def test_of_two_configs_at_once_one_is_kept_and_the_other_refused(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=claim, args=(tmp_path, scale, barrier, answers)) for scale in (15.0, 20.0)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in range(2 * REPETITIONS)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for number in range(REPETITIONS):
        (winner,) = [scale for n, scale, problem in found if n == number and not problem]
        (refused,) = [problem for n, _, problem in found if n == number and problem]
        assert "belongs to another config" in refused and "sde.beta_max" in refused
        kept = json.loads((tmp_path / str(number) / "config.json").read_text())
        assert kept["sde"]["beta_max"] == winner


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A folder with two steps of training on points of scale 2, three samples of them, and their likelihood."""
    folder = tmp_path_factory.mktemp("points")
    np.save(folder / "points.npy", 2.0 * np.random.default_rng(0).standard_normal((40, 2)))
    (folder / "config.py").write_text(CONFIG.format(points=str(folder / "points.npy")))
    for verb in ("train", "sample"):
        done = called(verb, "--config", folder / "config.py", "--workdir", folder / "run")
        assert done.returncode == 0, done.stderr
    return folder


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        device="cpu",
        data=dict(name="Arrays", train={points!r}, scale=2.0, shift=0.0),
        sde=dict(name="VPSDE"), network=dict(name="MLP", width=8, depth=1), objective=dict(name="DenoisingScoreMatching"),
        training=dict(steps=2, batch_size=4, preview_every=0, posthoc_widths=(0.05, 0.1), posthoc_every=1),
        sampling=dict(count=3, batch_size=3),
        samplers=dict(pc=dict(name="PredictorCorrector", steps=2)),
        likelihood=dict(limit=2, batch_size=2, grid_events=2, solver=dict(name="ScipyODE", rtol=0.05, atol=0.05)),
    ))
"""
VERBS = ("train", "sample", "likelihood", "evaluate", "report")


def test_what_a_folder_holds_is_shown(points):
    for verb in ("likelihood", "evaluate", "report"):
        done = called(verb, "--workdir", points / "run")
        assert done.returncode == 0, done.stderr
    page = (points / "run" / "report.html").read_text()
    for wanted in ("id='likelihood-test'", "pc: 3 samples", "id='evaluation-0'"):
        assert wanted in page
    assert "cannot be" not in page


@pytest.mark.covering
@pytest.mark.parametrize("verb", [*VERBS, "sample --weights 0.07"])
@pytest.mark.parametrize(
    "key, value", [("data.scale", 20.0), ("sde.name", "SubVPSDE"), ("network.depth", 2), ("seed", 5)]
)
def test_an_edited_config_is_compared_with_the_checkpoint(points, verb, key, value):
    file = points / "run" / "config.json"
    before = file.read_bytes()
    content = json.loads(before)
    *parents, last = key.split(".")
    node = content
    for part in parents:
        node = node[part]
    node[last] = value
    file.write_text(json.dumps(content))
    try:
        done = called(*verb.split(), "--workdir", points / "run")
    finally:
        file.write_bytes(before)
    assert done.returncode == 2, done.stdout
    assert f"{key}: " in done.stderr and f"-> {value!r}" in done.stderr, done.stderr
    assert "step-000000002.safetensors belongs to another config" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_samples_of_another_config_are_not_evaluated(points, tmp_path):
    other = tmp_path / "other"
    done = called("train", "--config", points / "config.py", "--workdir", other, "--config.seed=3")
    assert done.returncode == 0, done.stderr
    (points / "run" / "samples").rename(other / "samples")
    try:
        done = called("evaluate", "--workdir", other)
        shown = called("report", "--workdir", other)
    finally:
        (other / "samples").rename(points / "run" / "samples")
    assert done.returncode == 2 and "samples/pc.json" in done.stderr and "another config" in done.stderr
    assert shown.returncode == 0 and "another config, digest" in (other / "report.html").read_text()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b'{"seed": ', b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff\xfe"],
    ids=["empty", "list", "torn", "brackets", "nested", "utf-16"],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_config_that_is_none_is_refused_in_one_line(points, verb, text):
    file = points / "run" / "config.json"
    before = file.read_bytes()
    file.write_bytes(text)
    try:
        done = called(verb, "--config", points / "config.py", "--workdir", points / "run")
    finally:
        file.write_bytes(before)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "config.json" in done.stderr and "Restore the config.json" in done.stderr
