"""Likelihoods: how probable data is under a score."""

from scoresde.likelihood.bits import bits_per_dim, bits_per_dim_error
from scoresde.likelihood.divergence import Divergence, Exact, Hutchinson
from scoresde.likelihood.flow import LikelihoodResult, log_likelihood

__all__ = [
    "Divergence",
    "Exact",
    "Hutchinson",
    "LikelihoodResult",
    "bits_per_dim",
    "bits_per_dim_error",
    "log_likelihood",
]
