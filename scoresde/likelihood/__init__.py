"""Log-likelihoods of data under a score model: the probability flow, lower bounds, dequantization, bits per dimension."""

from scoresde._arguments import check_constructors
from scoresde.likelihood.bits import bits_per_dim, bits_per_dim_error
from scoresde.likelihood.bounds import BoundResult, elbo
from scoresde.likelihood.classification import Classification, classify
from scoresde.likelihood.dequantization import (
    DequantizedResult,
    Dequantizer,
    FlowDequantizer,
    UniformDequantizer,
    importance_weighted_bound,
)
from scoresde.likelihood.divergence import Divergence, Exact, Hadamard, Hutchinson, HutchPlusPlus
from scoresde.likelihood.engine import Engine
from scoresde.likelihood.flow import KnownBiases, LikelihoodResult, known_biases, log_likelihood
from scoresde.likelihood.grid import FlowGrid, standard_grid
from scoresde.likelihood.levels import NoisyLevels, noisy_levels
from scoresde.likelihood.multistep import DEFAULT_TOLERANCE, Multistep, fit_grid
from scoresde.likelihood.variational import VariationalBound, variational_bound

__all__ = [
    "DEFAULT_TOLERANCE",
    "BoundResult",
    "Classification",
    "DequantizedResult",
    "Dequantizer",
    "Divergence",
    "Engine",
    "Exact",
    "FlowDequantizer",
    "FlowGrid",
    "Hadamard",
    "HutchPlusPlus",
    "Hutchinson",
    "KnownBiases",
    "LikelihoodResult",
    "Multistep",
    "NoisyLevels",
    "UniformDequantizer",
    "VariationalBound",
    "bits_per_dim",
    "bits_per_dim_error",
    "classify",
    "elbo",
    "fit_grid",
    "importance_weighted_bound",
    "known_biases",
    "log_likelihood",
    "noisy_levels",
    "standard_grid",
    "variational_bound",
]

check_constructors(
    globals(),
    records=(
        BoundResult,
        Classification,
        DequantizedResult,
        KnownBiases,
        LikelihoodResult,
        NoisyLevels,
        VariationalBound,
    ),
)
