"""Processes: what destroys data, and the mathematics that reversing it needs."""

from scoresde._arguments import check_constructors
from scoresde.sde.base import SDE, Score, check_same_process
from scoresde.sde.chain import Chain, EulerChain, TableChain
from scoresde.sde.cosine import CosineVPSDE
from scoresde.sde.edm import EDMSDE
from scoresde.sde.interpolant import LinearInterpolantSDE
from scoresde.sde.kernel import GaussianKernel, MapKernel, ScalarKernel, ShiftedKernel
from scoresde.sde.langevin import CriticallyDampedLangevin
from scoresde.sde.learned import LearnedSNRSDE
from scoresde.sde.linear import LinearSDE
from scoresde.sde.logsnr import LogSNRLinearSDE, LogSNRSDE
from scoresde.sde.maps import BlockMap, DiagonalMap, LinearMap, ScalarMap
from scoresde.sde.matrix import MatrixSDE
from scoresde.sde.modewise import BlurringSDE, ModewiseSDE
from scoresde.sde.nonlinear import NonlinearSDE, Prior
from scoresde.sde.scalar import ScalarSDE
from scoresde.sde.schedule import Schedule, ScheduleSDE
from scoresde.sde.scores import evaluation_mode
from scoresde.sde.selfcheck import CheckReport, CheckRow, check
from scoresde.sde.shifted import Shifted
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
    "CosineVPSDE",
    "CriticallyDampedLangevin",
    "DiagonalMap",
    "EDMSDE",
    "EulerChain",
    "GaussianKernel",
    "LearnedSNRSDE",
    "LinearInterpolantSDE",
    "LinearMap",
    "LinearSDE",
    "LogSNRLinearSDE",
    "LogSNRSDE",
    "MapKernel",
    "MatrixSDE",
    "ModewiseSDE",
    "NonlinearSDE",
    "Prior",
    "ScalarKernel",
    "ScalarMap",
    "ScalarSDE",
    "Schedule",
    "ScheduleSDE",
    "Score",
    "Shifted",
    "ShiftedKernel",
    "SubVPSDE",
    "TableChain",
    "VESDE",
    "VPSDE",
    "check",
    "check_same_process",
    "evaluation_mode",
]

check_constructors(globals(), records=(CheckReport, CheckRow))
