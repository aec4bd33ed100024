"""Samplers of few steps, fitted to a model."""

from scoresde._arguments import check_constructors
from scoresde.samplers.fitted.ddss import DDSS
from scoresde.samplers.fitted.expectation import Expectation, KernelExpectation
from scoresde.samplers.fitted.fast import Fast
from scoresde.samplers.fitted.fit_method import fit
from scoresde.samplers.fitted.ggdm import GGDM
from scoresde.samplers.fitted.grid import AdaptiveGrid, adaptive_grid
from scoresde.samplers.fitted.kernel_fit import cubic_kernel, distance_kernel, fit_ggdm
from scoresde.samplers.fitted.level_adjusted import LevelAdjustedDDIM
from scoresde.samplers.fitted.level_network import LevelNetwork, fit_level_network
from scoresde.samplers.fitted.noise_estimation import NoiseEstimation
from scoresde.samplers.fitted.pilot import Pilot
from scoresde.samplers.fitted.sampler import FittedMultistep, FittedSampler
from scoresde.samplers.fitted.unfitted import UnfittedSampler

__all__ = [
    "DDSS",
    "Expectation",
    "Fast",
    "FittedMultistep",
    "FittedSampler",
    "GGDM",
    "KernelExpectation",
    "LevelAdjustedDDIM",
    "LevelNetwork",
    "NoiseEstimation",
    "Pilot",
    "UnfittedSampler",
    "AdaptiveGrid",
    "adaptive_grid",
    "cubic_kernel",
    "distance_kernel",
    "fit",
    "fit_ggdm",
    "fit_level_network",
]

check_constructors(
    globals(),
    records=(Expectation, KernelExpectation),
    own_repr=(
        FittedMultistep,
        FittedSampler,
        GGDM,
        LevelAdjustedDDIM,
        LevelNetwork,
        NoiseEstimation,
        Pilot,
        AdaptiveGrid,
    ),  # a fit returns them
)


def __dir__() -> list[str]:
    return list(__all__)
