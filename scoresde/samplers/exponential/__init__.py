"""Exponential integrators: multistep and single-step methods of any order, with or without noise."""

from scoresde._arguments import check_constructors
from scoresde.samplers.exponential.multistep import DEIS, AdamsBashforth, DPMSolverPlusPlus, ExponentialMultistep, UniPC
from scoresde.samplers.exponential.parameterization import Data, Form, Noise, Whitened, diffusion_time, level, log_level
from scoresde.samplers.exponential.runge_kutta import EDM, Churn, DPMSolverSingleStep, ExponentialRungeKutta

__all__ = [
    "AdamsBashforth",
    "Churn",
    "DEIS",
    "DPMSolverPlusPlus",
    "DPMSolverSingleStep",
    "Data",
    "EDM",
    "ExponentialMultistep",
    "ExponentialRungeKutta",
    "Form",
    "Noise",
    "UniPC",
    "Whitened",
    "diffusion_time",
    "level",
    "log_level",
]

check_constructors(globals())


def __dir__() -> list[str]:
    return list(__all__)
