"""Exponential integrators: multistep and single-step methods of any order, with or without noise."""

from scoresde._arguments import check_constructors
from scoresde.samplers.exponential.multistep import DEIS, AdamsBashforth, DPMSolverPlusPlus, ExponentialMultistep, UniPC
from scoresde.samplers.exponential.parameterization import (
    DataParameterization,
    NoiseParameterization,
    Parameterization,
    Whitened,
    diffusion_time,
    log_noise_to_signal,
    noise_to_signal,
)
from scoresde.samplers.exponential.runge_kutta import EDM, Churn, DPMSolverSingleStep, ExponentialRungeKutta

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
