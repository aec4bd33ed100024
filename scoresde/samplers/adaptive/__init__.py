"""Solvers with adaptive steps for the probability flow and the reverse SDE, and torchsde's solvers."""

from scoresde._arguments import check_constructors
from scoresde.samplers.adaptive.adaptive_sde import AdaptiveSDE
from scoresde.samplers.adaptive.probability_flow import ProbabilityFlowODE
from scoresde.samplers.adaptive.reverse_sde import ReverseSDESampler

__all__ = ["AdaptiveSDE", "ProbabilityFlowODE", "ReverseSDESampler"]

check_constructors(globals())


def __dir__() -> list[str]:
    return list(__all__)
