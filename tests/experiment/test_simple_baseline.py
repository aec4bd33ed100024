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
    assert found.value == pytest.approx(wanted.bits_per_dim, rel=1e-12) and found.discrete and len(found.values) == 50
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


def test_a_warning_needs_the_wrong_side_and_states_the_paired_difference():
    """Lower bits and higher nats are better. A difference within two standard errors is not called worse."""
    values = torch.tensor([1.0, 5.0, 3.0, 9.0], dtype=torch.float64)
    bits, nats = SimpleBaseline("histogram", values, True), SimpleBaseline("Gaussian", -values, False)

    def shifted(baseline, *by):
        return dict(enumerate((baseline.values + torch.tensor(by)).tolist()))

    assert (
        bits.sentence(shifted(bits, -0.1, -0.1, -0.1, -0.1)) == nats.sentence(shifted(nats, 0.1, 0.1, 0.1, 0.1)) == ""
    )
    assert bits.sentence(shifted(bits, 0.4, 0.6, 0.5, 0.5)) == (
        "the model (5.0000 bits/dim) is worse than the histogram (4.5000 bits/dim): the difference on the same events is "
        "+0.5000 +- 0.0408"
    )
    said = nats.sentence(shifted(nats, -3.0, 2.0, -2.0, 2.0))
    assert (
        "the model (-4.7500 nats) is not better than the Gaussian (-4.5000 nats)" in said
        and "-0.2500 +- 1.3150" in said
    )
    # rows that failed are left out of both means
    assert "the model (3.5000 bits/dim) is worse than the histogram (2.0000 bits/dim)" in bits.sentence(
        {0: 2.4, 2: 4.6}
    )
    assert "+- unknown" in bits.sentence({0: 2.0}) and bits.sentence({}) == ""


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
    assert found["baseline"]["name"] == name and f"than the {name}" in found["baseline"]["worse"]
    assert (value < found["baseline"]["value"]) == real
    page = (here.workdir / "report.html").read_text()
    assert f"Warning: {found['baseline']['worse']}." in page and page.count(f"<td>{name}</td>") == 1
    assert f"WARNING: {found['baseline']['worse']}" in (here.workdir / "log.txt").read_text()
