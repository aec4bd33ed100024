"""Samplers of few steps, fitted to a model."""

from scoresde._arguments import check_constructors
from scoresde.samplers.fitted.expectation import Expectation
from scoresde.samplers.fitted.fast import Fast
from scoresde.samplers.fitted.fit_method import fit
from scoresde.samplers.fitted.grid import AdaptiveGrid, adaptive_grid
from scoresde.samplers.fitted.pilot import Pilot
from scoresde.samplers.fitted.sampler import FittedMultistep, FittedSampler

__all__ = [
    "Expectation",
    "Fast",
    "FittedMultistep",
    "FittedSampler",
    "Pilot",
    "AdaptiveGrid",
    "fit",
    "adaptive_grid",
]

check_constructors(
    globals(),
    records=(Expectation,),
    own_repr=(FittedMultistep, FittedSampler, Pilot, AdaptiveGrid),  # a fit returns them
)


def __dir__() -> list[str]:
    return list(__all__)
