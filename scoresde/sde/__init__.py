"""Processes: what destroys data, and the mathematics that reversing it needs."""

from scoresde.sde.base import SDE, LinearSDE, ProbabilityFlow, ReverseSDE, Score, check_same_process
from scoresde.sde.chain import Chain, EulerChain, TableChain
from scoresde.sde.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.subvp import SubVPSDE
from scoresde.sde.ve import VESDE
from scoresde.sde.vp import VPSDE

__all__ = [
    "SDE",
    "Chain",
    "EulerChain",
    "GaussianKernel",
    "LinearSDE",
    "ProbabilityFlow",
    "ReverseSDE",
    "ScalarKernel",
    "Score",
    "SubVPSDE",
    "TableChain",
    "VESDE",
    "VPSDE",
    "check_same_process",
]
