"""Stochastic processes that transform data into noise, their transition kernels, and their self-check."""

from scoresde._arguments import check_constructors
from scoresde.sde.base import SDE, Score, check_same_process
from scoresde.sde.checks import CheckReport, CheckRow, check
from scoresde.sde.linalg.kernel import GaussianKernel, MapKernel, ScalarKernel, ShiftedKernel
from scoresde.sde.linalg.maps import BlockMap, DiagonalMap, LinearMap, ScalarMap
from scoresde.sde.linear import LinearSDE
from scoresde.sde.nonlinear import NonlinearSDE, Prior
from scoresde.sde.processes.cosine import CosineVPSDE
from scoresde.sde.processes.edm import EDMSDE
from scoresde.sde.processes.interpolant import LinearInterpolantSDE
from scoresde.sde.processes.langevin import CriticallyDampedLangevin
from scoresde.sde.processes.learned import LearnedSNRSDE
from scoresde.sde.processes.logsnr import LogSNRLinearSDE, LogSNRSDE
from scoresde.sde.processes.matrix import MatrixSDE
from scoresde.sde.processes.modewise import BlurringSDE, ModewiseSDE
from scoresde.sde.processes.non_gaussian import (
    GammaNoise,
    LevelNoise,
    NonGaussianChain,
    NonGaussianSDE,
    ProcessNoise,
    StepNoise,
)
from scoresde.sde.processes.schedule import Schedule, ScheduleSDE
from scoresde.sde.processes.shifted import Shifted
from scoresde.sde.processes.subvp import SubVPSDE
from scoresde.sde.processes.ve import VESDE
from scoresde.sde.processes.vp import VPSDE
from scoresde.sde.scalar import Chain, EulerChain, ScalarSDE, TableChain
from scoresde.sde.scores import evaluation_mode

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
    "GammaNoise",
    "GaussianKernel",
    "LearnedSNRSDE",
    "LevelNoise",
    "LinearInterpolantSDE",
    "LinearMap",
    "LinearSDE",
    "LogSNRLinearSDE",
    "LogSNRSDE",
    "MapKernel",
    "MatrixSDE",
    "ModewiseSDE",
    "NonGaussianChain",
    "NonGaussianSDE",
    "NonlinearSDE",
    "Prior",
    "ProcessNoise",
    "ScalarKernel",
    "ScalarMap",
    "ScalarSDE",
    "Schedule",
    "ScheduleSDE",
    "Score",
    "Shifted",
    "ShiftedKernel",
    "StepNoise",
    "SubVPSDE",
    "TableChain",
    "VESDE",
    "VPSDE",
    "check",
    "check_same_process",
    "evaluation_mode",
]

check_constructors(globals(), records=(CheckReport, CheckRow))
