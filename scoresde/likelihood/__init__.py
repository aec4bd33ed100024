"""Likelihoods: how probable data is under a score."""

from scoresde.likelihood.bits import bits_per_dim, bits_per_dim_error
from scoresde.likelihood.divergence import Divergence, Exact, Hadamard, Hutchinson, HutchPlusPlus
from scoresde.likelihood.engine import Engine
from scoresde.likelihood.flow import KnownBiases, LikelihoodResult, known_biases, log_likelihood
from scoresde.likelihood.grid import FlowGrid, standard_grid
from scoresde.likelihood.multistep import Multistep, fit_grid

__all__ = [
    "Divergence",
    "Engine",
    "Exact",
    "FlowGrid",
    "Hadamard",
    "HutchPlusPlus",
    "Hutchinson",
    "KnownBiases",
    "LikelihoodResult",
    "Multistep",
    "bits_per_dim",
    "bits_per_dim_error",
    "fit_grid",
    "known_biases",
    "log_likelihood",
    "standard_grid",
]
