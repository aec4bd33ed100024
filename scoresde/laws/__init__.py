"""Noise laws: the Gaussian, and what may stand in its place."""

from scoresde._arguments import check_constructors
from scoresde.laws.base import Gaussian, Noise, NoiseLaw, NoiseSum, chain_weights
from scoresde.laws.gamma import CentredGamma, GammaSchedule
from scoresde.laws.generalized import GeneralizedNormal, overlapping_scales
from scoresde.laws.mixture import MixtureSum, NormalMixture

__all__ = [
    "CentredGamma",
    "GammaSchedule",
    "Gaussian",
    "GeneralizedNormal",
    "MixtureSum",
    "Noise",
    "NoiseLaw",
    "NoiseSum",
    "NormalMixture",
    "chain_weights",
    "overlapping_scales",
]

check_constructors(globals())
