"""The likelihood command and the report say so if a model is worse than the simplest density model of the same events."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scoresde.data import Affine, Dataset, Digits
from scoresde.experiment.results.simple_baseline import SimpleBaseline, simple_baseline
from scoresde.metrics import pixel_histogram
from tests.experiment.conftest import TINY, HereCommand

FEW = {"training__steps": 2, **TINY, "likelihood__limit": 4}


def test_digits_are_compared_with_the_histogram_of_the_same_events():
    digits = Digits()
    found = simple_baseline(digits.train, digits.test, 50, 0)
    wanted = pixel_histogram(digits.train.raw, digits.test.raw[:50], 17)
    assert (found.value, found.standard_error, found.discrete) == (wanted.bits_per_dim, wanted.standard_error, True)
    assert found.value != pytest.approx(pixel_histogram(digits.train.raw, digits.test.raw, 17).bits_per_dim, rel=1e-4)


def test_real_data_is_compared_with_a_gaussian_in_the_units_of_the_data():
    """Data of known density: the fit is close to it, also after a transform. Planted: without the change of volume."""
    covariance = torch.tensor([[4.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.tensor([10.0, -3.0], dtype=torch.float64), covariance)
    torch.manual_seed(0)
    raw = law.sample((3000,))
    sets = [Dataset(part, Affine(10.0, 2.5)) for part in (raw[:2000], raw[2000:])]
    found, truth = simple_baseline(*sets, 1000, 0), float(law.log_prob(raw[2000:]).mean())
    assert found.value == pytest.approx(truth, abs=0.01) and not found.discrete
    assert abs(found.value - 2 * np.log(2.5) - truth) > 1.0


def test_lower_bits_and_higher_nats_are_better():
    bits, nats = SimpleBaseline("histogram", 2.0, 0.1, True), SimpleBaseline("Gaussian", -3.0, None, False)
    assert bits.beats(2.1) and not bits.beats(1.9) and nats.beats(-3.1) and not nats.beats(-2.9)
    assert bits.sentence(1.9) == nats.sentence(-2.9) == ""
    assert (
        bits.sentence(2.5)
        == "the model (2.5000 bits/dim) is worse than the histogram (2.0000 bits/dim) on the same events"
    )


def test_without_two_different_events_there_is_none():
    data = Dataset(torch.ones(5, 2), Affine())
    assert simple_baseline(data, data, 5, 0) is None


@pytest.mark.parametrize("real", [False, True])
def test_a_bad_model_is_named(tmp_path, real):
    """After two steps, the log, the summary and the report have the warning."""
    more = {}
    if real:
        raw = np.random.default_rng(0).normal(size=(100, 2)) * 3.0
        np.save(tmp_path / "x.npy", raw)
        more["data"] = str({"name": "Arrays", "train": str(tmp_path / "x.npy"), "levels": 0, "scale": 0.1})
    here = HereCommand(tmp_path / "run")
    for verb in ("train", "likelihood", "report"):
        done = here(verb, **{**FEW, **more})
        assert done.returncode == 0, done.stderr
    found = json.loads((here.workdir / "likelihood" / "test.json").read_text())
    name = "Gaussian fitted to the training data" if real else "independent pixel histogram"
    value = found["nats_of_data" if real else "bits_per_dim"]
    assert found["baseline"]["name"] == name and f"is worse than the {name}" in found["baseline"]["worse"]
    assert (value < found["baseline"]["value"]) == real
    page = (here.workdir / "report.html").read_text()
    assert f"Warning: {found['baseline']['worse']}." in page and page.count(f"<td>{name}</td>") == 1
    assert f"WARNING: {found['baseline']['worse']}" in (here.workdir / "log.txt").read_text()
