"""Jump processes from configs: samples, bounds, guidance and reports are those of the library, and wrong settings are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.runs import load
from scoresde._files import read_sealed
from scoresde.guidance import ClassifierFree
from scoresde.jump import Absorbing, AncestralSampler, CategoricalModel, JumpLikelihood, KnownTokens
from scoresde.likelihood import bits_per_dim
from scoresde.noise import NoiseSource
from tests.experiment.conftest import HereCommand

DIGITS = "{'name': 'AsTokens', 'data': {'name': 'Digits'}}"
GUIDANCE = "{'name': 'ClassifierFree', 'weight': 200.0}"
SMALL = {
    "training__steps": 3, "training__warmup": 0, "training__learning_rate": 0.05, "training__batch_size": 8,
    "data": "{'name': 'AsTokens', 'data': {'name': 'Digits', 'labels': True}}",
    "network": "{'name': 'TokenTransformer', 'width': 16, 'depth': 1, 'heads': 2, 'embedding_size': 16}",
    "training__condition_dropout": 0.2, "sampling__count": 5, "sampling__batch_size": 3, "likelihood__limit": 5,
    "likelihood__batch_size": 3, "likelihood__method": "{'name': 'JumpLikelihood', 'draws': 3}",
    "samplers": "{'ancestral': {'name': 'AncestralSampler', 'steps': 6}}", "network__channels": None, "network__blocks": None,
    "samplers__predictor-corrector__steps": None, "likelihood__solver": None,
}  # fmt: skip


class JumpCommand(HereCommand):
    """The commands with configs/jump/digits.py and the settings `SMALL`."""

    def __call__(self, verb, *extra, **overrides):
        return super().__call__(verb, "jump", *extra, **{**SMALL, **overrides})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with samples, bounds, an evaluation and a report."""
    command = JumpCommand(tmp_path_factory.mktemp("jump") / "run")
    command.said = {}
    for verb in ("train", "sample", "likelihood", "evaluate", "report"):
        done = command(verb)
        assert done.returncode == 0, done.stderr
        command.said[verb] = done.stdout
    return command


def test_the_objects(trained):
    made, model, _ = load(str(trained.workdir))
    assert made.process == Absorbing(17) and isinstance(model, CategoricalModel)
    assert made.likelihood.method == JumpLikelihood(draws=3)
    with pytest.raises(TypeError, match="not an SDE: use experiment"):
        _ = made.sde


def test_samples_are_those_of_the_library(trained):
    made, model, _ = load(str(trained.workdir))
    label = made.data.test.conditions(slice(5))["label"]
    wanted = AncestralSampler(6)(made.process, model, (5, 1, 8, 8), seed=0, condition={"label": label})
    found = np.load(trained.workdir / "samples" / "ancestral.npz")
    assert found["x"].dtype == np.uint8 and np.array_equal(found["x"], wanted.samples.numpy())
    assert np.array_equal(found["raw"], found["x"]) and np.array_equal(found["condition_label"], label.numpy())
    facts = read_sealed(trained.workdir / "samples" / "ancestral.json")
    assert facts["nfe"] == wanted.nfe and facts["sampler"] == "AncestralSampler(steps=6, grid=equal_times)"


def test_bounds_are_those_of_the_library(trained):
    made, model, _ = load(str(trained.workdir))
    index = torch.arange(3)
    x, label = made.data.test.encode(index, seed=0), made.data.test.conditions(index)["label"]
    wanted = JumpLikelihood(draws=3)(
        made.process, model, x, noise=NoiseSource(0, index).again(0), condition={"label": label}
    )
    rows = (trained.workdir / "likelihood" / "test-bound.csv").read_text().splitlines()[1:]
    assert len(rows) == 5
    bits = bits_per_dim(wanted.log_prob, (1, 8, 8), made.data.transform)
    for row, nats, b in zip(rows, wanted.log_prob.tolist(), bits.tolist(), strict=False):
        cells = row.split(",")
        assert (float(cells[2]), float(cells[3])) == pytest.approx((nats, b), rel=1e-6)
        assert float(cells[4]) > 0.0 and cells[6] == "nan" and cells[7:9] == ["6", "0"]
    summary = read_sealed(trained.workdir / "likelihood" / "test-bound.json")
    assert summary["unit"] == "bits/dim" and summary["bound by"] == ["the reverse of a jump process"]
    assert set(summary["parts of the error"]) == {"sampling of events", "noise and times"}
    assert summary["solver"] == "3 times in continuous time, 2 replicates"
    assert summary["baseline"]["name"] == "independent token histogram"
    assert "a bound by the reverse of a jump process" in trained.said["likelihood"]


def test_the_report_and_the_evaluation(trained):
    page = (trained.workdir / "report.html").read_text()
    assert "Absorbing(tokens=17" in page and "TokenTransformer with" in page
    assert "at most, by the reverse of a jump process, 3 times in continuous time, 2 replicates" in page
    for wrong in ("dequantization", "Hadamard", "chain", "Tweedie", "CategoricalModel of"):
        assert wrong not in page, wrong
    assert read_sealed(trained.workdir / "evaluation" / "ancestral.json")["frechet distance"] > 0.0


def test_two_processes_and_guidance(trained, tmp_path):
    done = trained("sample", "--processes", "2", sampling__seed=7, guidance=GUIDANCE)
    assert done.returncode == 0, done.stderr
    made, model, _ = load(str(trained.workdir))
    label = made.data.test.conditions(slice(5))["label"]
    wanted = AncestralSampler(6)(
        made.process, ClassifierFree(model, 200.0), (5, 1, 8, 8), seed=7, condition={"label": label}
    ).samples
    plain = AncestralSampler(6)(made.process, model, (5, 1, 8, 8), seed=7, condition={"label": label}).samples
    found = np.load(trained.workdir / "samples" / "ancestral.npz")["x"]
    assert np.array_equal(found, wanted.numpy()) and not np.array_equal(found, plain.numpy())
    facts = json.loads(read_sealed(trained.workdir / "samples" / "ancestral.json")["guidance"])
    assert facts == {"name": "ClassifierFree", "weight": 200.0}


def test_infilling(trained, tmp_path):
    made, model, _ = load(str(trained.workdir))
    raw = made.data.test.events(torch.arange(2)).numpy().astype(float)
    raw[:, :, 4:] = np.nan
    np.save(tmp_path / "in.npy", raw)
    done = trained("edit", "--task", "inpaint", "--input", str(tmp_path / "in.npy"), "--samples", "2")
    assert done.returncode == 0, done.stderr
    (folder,) = (trained.workdir / "edits").iterdir()
    found = np.stack([np.load(folder / f"in-{k}" / "samples.npz")["x"] for k in range(2)])
    y, known = torch.from_numpy(np.nan_to_num(raw)).long(), torch.from_numpy(~np.isnan(raw))
    assert (found[:, :, :, :4] == y.numpy()[:, None, :, :4]).all() and found.shape == (2, 2, 1, 8, 8)
    pairs = [t.repeat_interleave(2, 0) for t in (y, known)]
    noise = NoiseSource(0, torch.tensor([0, 1, 2**16, 2**16 + 1]))
    wanted = AncestralSampler(6)(made.process, model, (4, 1, 8, 8), known=KnownTokens(*pairs), noise=noise).samples
    assert np.array_equal(found.reshape(4, 1, 8, 8), wanted.numpy())
    for options in (("--task", "edit", "--t", "0.3"), ("--task", "inpaint", "--noise-std", "0.1")):
        done = trained("edit", *options, "--input", str(tmp_path / "in.npy"))
        assert done.returncode == 2 and "is not allowed for tokens" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sde__name": "VPSDE"}, "config.sde and config.process exclude each other"),
        ({"process__name": "VPSDE"}, "config.process: VPSDE is not allowed here: give JumpProcess, allowed are Absorbing"),
        ({"process__tokens": 5}, "config.process.tokens=5 is not allowed: the data has 17 tokens"),
        ({"data": "{'name': 'Digits'}"}, "config.process is for data of tokens"),
        ({"process": "None", "sde": "{'name': 'VPSDE'}"}, "config.sde is not for data of tokens"),
        ({"process": "None"}, "config.process is missing"),
        ({"network": "{'name': 'SmallUNet'}"}, "SmallUNet is a network of real numbers"),
        ({"objective__name": "DenoisingScoreMatching"}, "config.objective: DenoisingScoreMatching is not allowed here"),
        ({"samplers": "{'a': {'name': 'DDIM'}}"}, "DDIM is not allowed here: give JumpSampler, allowed are Ancestral"),
        ({"samplers": "{'a': {'name': 'AncestralSampler', 'steps': (0.5, 0.0)}}"}, "config.samplers.a: steps begins at t=0.5"),
        ({"model__steps": 10}, "config.model.steps=10 is not for jump processes"),
        ({"likelihood__tolerance": 0.1}, "config.likelihood.tolerance=0.1 is for the probability flow"),
        ({"likelihood__method": "{'name': 'ChainBound'}"}, ": give a JumpLikelihood"),
        ({"data": DIGITS, "guidance": GUIDANCE}, "ClassifierFree needs conditions"),
        ({"guidance": "{'name': 'DynamicThreshold'}"}, "'DynamicThreshold' is not for jump processes: give ClassifierFree, "),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(tmp_path, options, message):
    command = JumpCommand(tmp_path / "run")
    done = command("train", **options)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert not command.workdir.exists()
