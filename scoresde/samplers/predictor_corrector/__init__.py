"""Predictor-corrector sampling: predictors, correctors, and their loop."""

from scoresde._arguments import check_constructors
from scoresde.samplers.predictor_corrector.correctors import (
    AnnealedLangevin,
    BatchLangevin,
    Corrector,
    Langevin,
    LangevinCorrector,
    LangevinDynamics,
)
from scoresde.samplers.predictor_corrector.ddim import DDIM, ConsistentAnnealed
from scoresde.samplers.predictor_corrector.mala import MALA
from scoresde.samplers.predictor_corrector.preconditioned import Preconditioned
from scoresde.samplers.predictor_corrector.predictors import Ancestral, EulerMaruyama, Predictor, ReverseDiffusion
from scoresde.samplers.predictor_corrector.resampling import Resampling
from scoresde.samplers.predictor_corrector.sampler import PredictorCorrector
from scoresde.samplers.predictor_corrector.splitting import SymmetricSplitting
from scoresde.samplers.predictor_corrector.underdamped import UnderdampedLangevin

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "BatchLangevin",
    "ConsistentAnnealed",
    "Corrector",
    "DDIM",
    "EulerMaruyama",
    "Langevin",
    "LangevinCorrector",
    "LangevinDynamics",
    "MALA",
    "Preconditioned",
    "Predictor",
    "PredictorCorrector",
    "Resampling",
    "ReverseDiffusion",
    "SymmetricSplitting",
    "UnderdampedLangevin",
]

check_constructors(globals())


def __dir__() -> list[str]:
    return list(__all__)
