"""Score-based generative models in continuous time.

    from scoresde import VPSDE, ScoreModel, log_likelihood

A process destroys data, a score reverses it: train (`scoresde.losses`), sample (`scoresde.samplers`), weigh
(`scoresde.likelihood`). See docs/architecture.md for the rooms of the house.
"""

from scoresde import (
    data,
    distributions,
    ema,
    likelihood,
    losses,
    metrics,
    networks,
    noise,
    samplers,
    score,
    sde,
    solvers,
)
from scoresde.data import Affine, Quantized
from scoresde.distributions import GaussianMixture, SmoothedEmpirical
from scoresde.ema import EMA
from scoresde.levels import Levels
from scoresde.likelihood import Exact, Hutchinson, bits_per_dim, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import SDE, VESDE, VPSDE, LinearSDE, ScalarSDE, SubVPSDE
from scoresde.version import __version__

__all__ = [
    "Affine",
    "EMA",
    "Exact",
    "GaussianMixture",
    "Hutchinson",
    "Levels",
    "LinearSDE",
    "NoiseSource",
    "Quantized",
    "SDE",
    "ScalarSDE",
    "ScoreModel",
    "SmoothedEmpirical",
    "SubVPSDE",
    "VESDE",
    "VPSDE",
    "__version__",
    "bits_per_dim",
    "data",
    "distributions",
    "ema",
    "likelihood",
    "log_likelihood",
    "losses",
    "metrics",
    "networks",
    "noise",
    "samplers",
    "score",
    "sde",
    "solvers",
]
