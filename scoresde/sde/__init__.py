"""Processes: what destroys data, and the mathematics that reversing it needs."""

from scoresde.sde.base import SDE, ProbabilityFlow, ReverseSDE, Score, check_same_process
from scoresde.sde.chain import Chain, EulerChain, TableChain
from scoresde.sde.kernel import GaussianKernel, MapKernel, ScalarKernel
from scoresde.sde.langevin import CriticallyDampedLangevin
from scoresde.sde.linear import LinearSDE
from scoresde.sde.maps import BlockMap, DiagonalMap, LinearMap, ScalarMap
from scoresde.sde.modewise import BlurringSDE, ModewiseSDE
from scoresde.sde.scalar import ScalarSDE
from scoresde.sde.selfcheck import CheckReport, CheckRow, check
from scoresde.sde.subvp import SubVPSDE
from scoresde.sde.ve import VESDE
from scoresde.sde.vp import VPSDE

__all__ = [
    "SDE",
    "BlockMap",
    "BlurringSDE",
    "Chain",
    "CheckReport",
    "CheckRow",
    "CriticallyDampedLangevin",
    "DiagonalMap",
    "EulerChain",
    "GaussianKernel",
    "LinearMap",
    "LinearSDE",
    "MapKernel",
    "ModewiseSDE",
    "ProbabilityFlow",
    "ReverseSDE",
    "ScalarKernel",
    "ScalarMap",
    "ScalarSDE",
    "Score",
    "SubVPSDE",
    "TableChain",
    "VESDE",
    "VPSDE",
    "check",
    "check_same_process",
]
