"""Samplers of the reverse process.

The names of this package are those that most programs need. The sub-packages have the rest:

- ``scoresde.samplers.predictor_corrector``: predictors, correctors and their loop.
- ``scoresde.samplers.exponential``: multistep and single-step exponential integrators.
- ``scoresde.samplers.adaptive``: solvers with adaptive steps, and torchsde's solvers.
- ``scoresde.samplers.fitted``: samplers fitted to a model.
- ``scoresde.samplers.particles`` and ``scoresde.samplers.populations``: particles and the record of their weights.
- ``scoresde.samplers.checks``: checks for samplers that you write.
- ``scoresde.samplers.hooks``: functions that change the state after each step.
- ``scoresde.samplers.grids`` and ``scoresde.samplers.discretization``: time grids and the transitions between their times.
- ``scoresde.samplers.base`` and ``scoresde.samplers.grid_sampler``: base classes and results.
"""

from scoresde._arguments import check_constructors
from scoresde.samplers import grids
from scoresde.samplers.adaptive import AdaptiveSDE, ProbabilityFlowODE, ReverseSDESampler
from scoresde.samplers.base import Sampler
from scoresde.samplers.checks import check
from scoresde.samplers.discretization import ReferenceDiscretization
from scoresde.samplers.exponential import DEIS, EDM, DPMSolverPlusPlus, UniPC
from scoresde.samplers.fitted import Fast, fit
from scoresde.samplers.hooks import KeepKnown, ZeroMean
from scoresde.samplers.particles import ParticleSampler
from scoresde.samplers.predictor_corrector import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
)

__all__ = [
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "DDIM",
    "DEIS",
    "DPMSolverPlusPlus",
    "EDM",
    "EulerMaruyama",
    "Fast",
    "KeepKnown",
    "Langevin",
    "ParticleSampler",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "ReferenceDiscretization",
    "ReverseDiffusion",
    "ReverseSDESampler",
    "Sampler",
    "UniPC",
    "ZeroMean",
    "check",
    "fit",
    "grids",
]

check_constructors(globals())


def __dir__() -> list[str]:
    """The public names, without sub-packages and modules."""
    return list(__all__)
