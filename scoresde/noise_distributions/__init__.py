"""Noise distributions: the Gaussian and alternatives to it."""

from scoresde._arguments import check_constructors
from scoresde.noise_distributions.base import DensityNoise, Gaussian, NoiseDistribution, NoiseSum, chain_weights
from scoresde.noise_distributions.gamma import CenteredGamma, GammaSchedule
from scoresde.noise_distributions.generalized import GeneralizedNormal, overlapping_scales
from scoresde.noise_distributions.mixture import MixtureSum, NormalMixture

__all__ = [
    "CenteredGamma",
    "GammaSchedule",
    "Gaussian",
    "GeneralizedNormal",
    "MixtureSum",
    "NoiseDistribution",
    "DensityNoise",
    "NoiseSum",
    "NormalMixture",
    "chain_weights",
    "overlapping_scales",
]

check_constructors(globals())
