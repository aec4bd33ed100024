"""Noise distributions: the Gaussian and alternatives to it."""

from scoresde._arguments import check_constructors
from scoresde.noise_distributions.base import DensityNoise, Gaussian, NoiseDistribution, NoiseSum
from scoresde.noise_distributions.gamma import CenteredGamma
from scoresde.noise_distributions.generalized import GeneralizedNormal, overlapping_scales
from scoresde.noise_distributions.mixture import MixtureSum, NormalMixture

__all__ = [
    "CenteredGamma",
    "Gaussian",
    "GeneralizedNormal",
    "MixtureSum",
    "NoiseDistribution",
    "DensityNoise",
    "NoiseSum",
    "NormalMixture",
    "overlapping_scales",
]

check_constructors(globals())
