"""Training objectives."""

from scoresde._arguments import check_constructors
from scoresde.losses.base import Objective
from scoresde.losses.denoising import DenoisingScoreMatching
from scoresde.losses.explicit import ExplicitScoreMatching
from scoresde.losses.importance import ImportanceTimes
from scoresde.losses.noisy import Draw, NoisyDataObjective
from scoresde.losses.reverse_steps import HybridLoss, VariationalLoss
from scoresde.losses.schedule import ScheduleVariance
from scoresde.losses.sliced import SlicedDraw, SlicedScoreMatching
from scoresde.losses.target import TargetLikelihood
from scoresde.losses.times import ChainTimes, TimeDistribution, UniformLogNoise, UniformTime

__all__ = [
    "ChainTimes",
    "DenoisingScoreMatching",
    "Draw",
    "ExplicitScoreMatching",
    "HybridLoss",
    "ImportanceTimes",
    "NoisyDataObjective",
    "Objective",
    "ScheduleVariance",
    "SlicedDraw",
    "SlicedScoreMatching",
    "TargetLikelihood",
    "TimeDistribution",
    "UniformLogNoise",
    "UniformTime",
    "VariationalLoss",
]

check_constructors(globals(), records=(Draw, SlicedDraw))
