"""The names of the package itself: few enough to read."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

import scoresde
from scoresde.experiment.config.builder import known_names

STAY = {"VPSDE", "SubVPSDE", "VESDE", "ScoreModel", "GaussianMixture", "log_likelihood", "bits_per_dim"}


def test_the_package_has_about_25_names():
    names = {name for name in dir(scoresde) if not isinstance(getattr(scoresde, name), ModuleType)} - {"__version__"}
    assert len(names) == 26 and names >= STAY
    assert set(dir(scoresde)) == set(scoresde.__all__) and len(dir(scoresde)) == len(scoresde.__all__) == 40


def test_every_name_is_a_sub_package_or_documented_class_or_function():
    for name in scoresde.__all__:
        thing = getattr(scoresde, name)
        assert name == "__version__" or inspect.getdoc(thing), name


def test_samplers_has_the_names_that_a_user_wants():
    names = dir(scoresde.samplers)
    assert set(names) == set(scoresde.samplers.__all__) and len(names) == 23
    assert [name for name in names if isinstance(getattr(scoresde.samplers, name), ModuleType)] == ["grids"]


@pytest.mark.parametrize("package", ["adaptive", "checks", "exponential", "fitted", "predictor_corrector"])
def test_sub_packages_of_samplers_list_their_public_names(package):
    module = importlib.import_module(f"scoresde.samplers.{package}")
    assert sorted(dir(module)) == sorted(module.__all__)
    for name in module.__all__:
        assert inspect.getdoc(getattr(module, name)), name


def test_a_config_finds_every_sampler_by_its_name():
    for package in ("adaptive", "exponential", "fitted", "predictor_corrector"):
        module = importlib.import_module(f"scoresde.samplers.{package}")
        assert {name: getattr(module, name) for name in module.__all__}.items() <= known_names().items()
    assert known_names()["ReferenceDiscretization"] is scoresde.samplers.ReferenceDiscretization


def test_names_that_programs_rely_on_are_there():
    assert scoresde.losses.DenoisingScoreMatching is scoresde.DenoisingScoreMatching
    assert scoresde.samplers.PredictorCorrector is scoresde.PredictorCorrector
    assert scoresde.Levels is scoresde.score.quantized.Levels and scoresde.NoiseSource is scoresde.noise.NoiseSource
