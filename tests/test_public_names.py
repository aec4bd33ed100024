"""The names of the package itself: few enough to read."""

from __future__ import annotations

import inspect
from types import ModuleType

import scoresde

STAY = {"VPSDE", "SubVPSDE", "VESDE", "ScoreModel", "GaussianMixture", "log_likelihood", "bits_per_dim"}


def test_the_package_has_about_25_names():
    names = {name for name in dir(scoresde) if not isinstance(getattr(scoresde, name), ModuleType)} - {"__version__"}
    assert len(names) == 26 and names >= STAY
    assert set(dir(scoresde)) == set(scoresde.__all__) and len(dir(scoresde)) == len(scoresde.__all__) == 40


def test_every_name_is_a_sub_package_or_documented_class_or_function():
    for name in scoresde.__all__:
        thing = getattr(scoresde, name)
        assert name == "__version__" or inspect.getdoc(thing), name


def test_names_that_programs_rely_on_are_there():
    assert scoresde.losses.DenoisingScoreMatching is scoresde.DenoisingScoreMatching
    assert scoresde.samplers.PredictorCorrector is scoresde.PredictorCorrector
    assert scoresde.Levels is scoresde.score.quantized.Levels and scoresde.NoiseSource is scoresde.noise.NoiseSource
