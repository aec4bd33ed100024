"""``sampling.noise_filter``: colored noise of a run, fitted once, resumed and shared."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from scoresde.experiment import Workdir, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.config.builder import ConfigError
from scoresde.filters import FilteredNoise, MatrixFilter, fit_covariance_filter, fit_spectral_filter
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "training__steps": 2, "training__preview_every": 0, "sampling__count": 7, "sampling__batch_size": 3,
    "samplers": "{'unipc': {'name': 'EulerMaruyama', 'steps': 3}}",
}  # fmt: skip
SPECTRAL = {"sampling__noise_filter": {"name": "fit_spectral_filter", "alpha": 2.0}}
COVARIANCE = {"sampling__noise_filter": {"name": "fit_covariance_filter", "floor": 0.1}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filtered")
    train_here(experiment(**RUN), Workdir(folder))
    return folder


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return Workdir(tmp_path / "run")


def drawn(workdir, **options):
    sample(experiment(**{**RUN, **options}), workdir)
    return np.load(workdir.samples / "unipc.npz")["x"]


@pytest.mark.parametrize(
    ("node", "fit"),
    [
        (SPECTRAL, lambda x: fit_spectral_filter(x, 2.0)),
        (COVARIANCE, lambda x: fit_covariance_filter(x, floor=0.1)),
    ],
    ids=["spectral", "covariance"],
)  # fmt: skip
def test_samples_have_the_noise_of_the_filter(workdir, node, fit):
    found = drawn(workdir, **node)
    made = experiment(**RUN)
    model, _ = workdir.model(made)
    shape, filter = (7, *made.data.event_shape), fit(made.data.train.encode(slice(None), seed=0))
    noise = FilteredNoise.of(made.sampling.seed, 7, filter=filter)
    wanted = made.samplers["unipc"](made.model.sde, model, shape, noise=noise).samples
    assert np.abs(found - wanted.numpy()).max() < 1e-4
    assert np.abs(found - drawn(workdir)).max() > 1e-3, "without a filter they differ"


def test_the_filter_is_fitted_once(workdir, capsys):
    whole = drawn(workdir, **SPECTRAL)
    facts = json.loads((workdir.samples / "unipc.json").read_text())
    assert json.loads(facts["noise filter"]) == SPECTRAL["sampling__noise_filter"] and facts["noise filter digest"]
    (file,) = (workdir.path / "noise_filters").iterdir()
    written = file.stat().st_mtime_ns
    next((workdir.samples / "unipc").glob("shards-*/*.npz")).unlink()
    assert np.array_equal(drawn(workdir, **SPECTRAL), whole) and file.stat().st_mtime_ns == written
    shutil.rmtree(workdir.samples)
    sample(experiment(**RUN, **SPECTRAL), workdir, processes=2)
    assert np.array_equal(np.load(workdir.samples / "unipc.npz")["x"], whole) and file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-8])  # a damaged file is fitted again
    capsys.readouterr()
    assert np.array_equal(drawn(workdir, **SPECTRAL), whole)
    assert "fitting the filter of the noise" in capsys.readouterr().out
    drawn(workdir)
    assert "Changes: noise filter" in capsys.readouterr().out


def wrong(x: torch.Tensor) -> MatrixFilter:
    return MatrixFilter(torch.eye(2))


def test_what_is_refused(workdir):
    for node, message in (
        (
            {"name": "fit_spectral_filters"},
            r"sampling\.noise_filter\.name='fit_spectral_filters' is not known.*did you mean",
        ),
        ({"name": "fit_spectral_filter", "alfa": 2.0}, r"sampling\.noise_filter\.alfa is not known"),
        ({"name": "kernel_distance"}, r"sampling\.noise_filter: kernel_distance is not allowed here"),
        (3, r"sampling\.noise_filter=3 is not allowed"),
    ):
        with pytest.raises(ConfigError, match=message):
            experiment(**RUN, sampling__noise_filter=node)
    with pytest.raises(ConfigError, match=r"noise_filter returned .* for events \(2,\): return a SpectralFilter or"):
        drawn(workdir, sampling__noise_filter={"name": f"{__name__}:wrong"})
    samplers = "{'m': {'name': 'PredictorCorrector', 'steps': 2, 'corrector': {'name': 'MALA'}}}"
    with pytest.raises(ConfigError, match=r"config\.samplers\.m: MALA needs standard normals"):
        drawn(workdir, samplers=samplers, **SPECTRAL)
