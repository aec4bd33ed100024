"""Samplers: what runs a process backwards."""

from scoresde.samplers import grids
from scoresde.samplers.base import Sampler, SampleResult
from scoresde.samplers.correctors import AnnealedLangevin, BatchLangevin, Corrector, Langevin
from scoresde.samplers.predictor_corrector import PredictorCorrector
from scoresde.samplers.predictors import Ancestral, EulerMaruyama, Predictor, ReverseDiffusion
from scoresde.samplers.probability_flow import ProbabilityFlowODE
from scoresde.samplers.reverse_sde import ReverseSDESampler
from scoresde.samplers.selfcheck import check
from scoresde.samplers.splitting import SymmetricSplitting
from scoresde.samplers.walk import ExactSteps, PaperSteps, Step, Stepping, Walk

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "BatchLangevin",
    "Corrector",
    "EulerMaruyama",
    "ExactSteps",
    "Langevin",
    "PaperSteps",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "ReverseDiffusion",
    "ReverseSDESampler",
    "SampleResult",
    "Sampler",
    "Step",
    "Stepping",
    "SymmetricSplitting",
    "Walk",
    "check",
    "grids",
]
