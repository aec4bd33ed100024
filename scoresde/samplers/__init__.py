"""Samplers: what runs a process backwards."""

from scoresde._arguments import check_constructors
from scoresde.samplers import grids
from scoresde.samplers.adaptive.adaptive_sde import AdaptiveSDE
from scoresde.samplers.adaptive.probability_flow import ProbabilityFlowODE
from scoresde.samplers.adaptive.reverse_sde import ReverseSDESampler
from scoresde.samplers.base import Sampler, SampleResult, Trajectory
from scoresde.samplers.checks import check
from scoresde.samplers.discretization import (
    Discretization,
    ExactTransitions,
    ReferenceDiscretization,
    Step,
    Transitions,
)
from scoresde.samplers.exponential.multistep import DEIS, AdamsBashforth, DPMSolverPlusPlus, ExponentialMultistep, UniPC
from scoresde.samplers.exponential.parameterization import Data, Form, Noise, Whitened, diffusion_time, level, log_level
from scoresde.samplers.exponential.runge_kutta import EDM, Churn, DPMSolverSingleStep, ExponentialRungeKutta
from scoresde.samplers.fitted.accurate import Pilot
from scoresde.samplers.fitted.expectation import Expectation
from scoresde.samplers.fitted.fast import Fast
from scoresde.samplers.fitted.fit_method import fit
from scoresde.samplers.fitted.pilot import PilotGrid, pilot_grid
from scoresde.samplers.fitted.sampler import FittedMultistep, FittedSampler
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.samplers.predictor_corrector.correctors import AnnealedLangevin, BatchLangevin, Corrector, Langevin
from scoresde.samplers.predictor_corrector.ddim import DDIM, ConsistentAnnealed
from scoresde.samplers.predictor_corrector.predictors import Ancestral, EulerMaruyama, Predictor, ReverseDiffusion
from scoresde.samplers.predictor_corrector.sampler import PredictorCorrector
from scoresde.samplers.predictor_corrector.splitting import SymmetricSplitting

__all__ = [
    "AdamsBashforth",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "BatchLangevin",
    "Churn",
    "ConsistentAnnealed",
    "Corrector",
    "DDIM",
    "DEIS",
    "Discretization",
    "DPMSolverPlusPlus",
    "DPMSolverSingleStep",
    "Data",
    "EDM",
    "EulerMaruyama",
    "ExactTransitions",
    "ExponentialMultistep",
    "ExponentialRungeKutta",
    "Expectation",
    "Fast",
    "FittedMultistep",
    "FittedSampler",
    "Form",
    "GridSampler",
    "Langevin",
    "Noise",
    "Pilot",
    "PilotGrid",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "ReverseDiffusion",
    "ReverseSDESampler",
    "SampleResult",
    "Sampler",
    "ReferenceDiscretization",
    "Step",
    "SymmetricSplitting",
    "Trajectory",
    "Transitions",
    "UniPC",
    "Whitened",
    "check",
    "diffusion_time",
    "fit",
    "grids",
    "level",
    "log_level",
    "pilot_grid",
]

check_constructors(
    globals(),
    records=(Expectation, SampleResult, Step, Trajectory, Transitions),
    own_repr=(FittedMultistep, FittedSampler, Pilot, PilotGrid),  # made by a fit
)
