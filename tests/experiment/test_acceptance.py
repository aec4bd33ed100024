"""The acceptance of Metropolis steps: saved with the samples, the same after a restart, and shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scoresde.experiment import Workdir, load_config, read_samples
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.results.shards import SampleStore, acceptance_parts
from tests.experiment.conftest import TINY, CopyCommand, ended

MALA = {
    "training__steps": 2, **TINY, "model": "{'name': 'EnergyModel'}", "sampling__count": 5, "sampling__batch_size": 3,
    "samplers": "{'mala': {'name': 'PredictorCorrector', 'corrector': {'name': 'MALA', 'snr': 0.3, 'steps': 2}, 'steps': 10}}",
    "samplers.predictor-corrector.steps": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained folder with 5 samples in batches of 3."""
    return ended(tmp_path_factory, "train", "sample", **MALA)


def test_the_parts_are_means_of_the_proposals():
    probabilities = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    found = acceptance_parts(probabilities)
    assert found.shape == (3, 16) and found.dtype == np.float32
    assert found[1, 0] == pytest.approx(float(probabilities[:3, 1].mean()), abs=1e-6)  # 40 = 8 * 3 + 8 * 2
    assert found[2, -1] == pytest.approx(float(probabilities[-2:, 2].mean()), abs=1e-6)
    assert acceptance_parts(probabilities[:2]).shape == (3, 2) and acceptance_parts(None).size == 0


def test_it_is_that_of_the_sampler(run):
    """5 samples in one call of the sampler, 20 proposals each."""
    workdir = Workdir(run.workdir)
    made = Experiment.from_config(load_config(workdir.config_file))
    model, _ = workdir.model(made)
    result = made.samplers["mala"](model.sde, model, (5, *made.data.event_shape), seed=0)
    assert result.acceptance.shape == (20, 5) and 0.01 < float(result.acceptance.mean()) < 0.99
    with np.load(run.workdir / "samples" / "mala.npz") as file:
        assert np.allclose(file["acceptance"], acceptance_parts(result.acceptance), atol=1e-5)
    parts = list(read_samples(run.workdir / "samples" / "mala.json"))
    assert [part["acceptance"].shape for part in parts] == [(3, 16), (2, 16)]


def test_it_is_shown(run, tmp_path):
    facts = json.loads((run.workdir / "samples" / "mala.json").read_text())
    means = facts["acceptance"]
    words = f"acceptance {sum(means) / 16:.2f} ({min(means):.2f} to {max(means):.2f} over the levels)"
    assert len(means) == 16 and words in (run.workdir / "log.txt").read_text()
    command = CopyCommand(run.workdir, tmp_path, **MALA)
    command("report")
    assert words in (command.workdir / "report.html").read_text()


def test_a_batch_that_is_drawn_again_is_the_same(run, tmp_path):
    command = CopyCommand(run.workdir, tmp_path, **MALA)
    shards = sorted((command.workdir / "samples" / "mala").glob("shards-*/*.npz"))
    before = SampleStore(shards[0].parents[1], json.loads((shards[0].parent / "settings.json").read_text())).read(
        shards[1].name
    )
    shards[1].unlink()
    command("sample")
    with np.load(shards[1]) as again:
        assert np.array_equal(again["acceptance"], before.acceptance) and np.array_equal(again["x"], before.x)


def test_a_shard_whose_acceptance_has_changed_is_drawn_again(run, tmp_path):
    command = CopyCommand(run.workdir, tmp_path, **MALA)
    shard = min((command.workdir / "samples" / "mala").glob("shards-*/*.npz"))
    with np.load(shard) as file:
        content = dict(file)
    np.savez(shard, **{**content, "acceptance": content["acceptance"] * 0.5})
    assert "its digest does not match: drawn again" in command("sample").stdout
