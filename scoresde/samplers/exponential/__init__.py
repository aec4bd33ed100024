"""Exponential integrators: multistep and Runge-Kutta methods of any order for linear processes, with or without noise."""

from scoresde._arguments import check_constructors
from scoresde.samplers.exponential.adams import AdamsBashforth
from scoresde.samplers.exponential.churn import Churn
from scoresde.samplers.exponential.deis import DEIS
from scoresde.samplers.exponential.dpm_solver import DPMSolverPlusPlus, DPMSolverSingleStep
from scoresde.samplers.exponential.edm import EDM
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    NoiseParameterization,
    Parameterization,
    Whitened,
    diffusion_time,
    log_noise_to_signal,
    noise_to_signal,
)
from scoresde.samplers.exponential.runge_kutta import ExponentialRungeKutta
from scoresde.samplers.exponential.unipc import UniPC

__all__ = [
    "AdamsBashforth",
    "Churn",
    "DEIS",
    "DPMSolverPlusPlus",
    "DPMSolverSingleStep",
    "DataParameterization",
    "EDM",
    "ExponentialMultistep",
    "ExponentialRungeKutta",
    "Parameterization",
    "NoiseParameterization",
    "UniPC",
    "Whitened",
    "diffusion_time",
    "noise_to_signal",
    "log_noise_to_signal",
]

check_constructors(globals())


def __dir__() -> list[str]:
    return list(__all__)
