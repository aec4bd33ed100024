"""Samplers: what runs a process backwards."""

from scoresde._arguments import check_constructors
from scoresde.samplers import grids
from scoresde.samplers.accurate import Pilot
from scoresde.samplers.adaptive_sde import AdaptiveSDE
from scoresde.samplers.base import Sampler, SampleResult, Trajectory
from scoresde.samplers.correctors import AnnealedLangevin, BatchLangevin, Corrector, Langevin
from scoresde.samplers.expectation import Expectation
from scoresde.samplers.fast import Fast
from scoresde.samplers.fitted import FittedMultistep, FittedSampler
from scoresde.samplers.fitting import fit
from scoresde.samplers.forms import Data, Form, Noise, Whitened, diffusion_time, level, log_level
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.samplers.multistep import DEIS, AdamsBashforth, DPMSolverPlusPlus, ExponentialMultistep, UniPC
from scoresde.samplers.pilot import PilotGrid, pilot_grid
from scoresde.samplers.posterior import DDIM, ConsistentAnnealed
from scoresde.samplers.predictor_corrector import PredictorCorrector
from scoresde.samplers.predictors import Ancestral, EulerMaruyama, Predictor, ReverseDiffusion
from scoresde.samplers.probability_flow import ProbabilityFlowODE
from scoresde.samplers.reverse_sde import ReverseSDESampler
from scoresde.samplers.selfcheck import check
from scoresde.samplers.single_step import EDM, Churn, DPMSolverSingleStep, ExponentialRungeKutta
from scoresde.samplers.splitting import SymmetricSplitting
from scoresde.samplers.walk import Discretization, ExactTransitions, ReferenceDiscretization, Step, Transitions

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
