"""Training objectives."""

from scoresde._arguments import check_constructors
from scoresde.losses.base import Objective, SDEObjective, TimedObjective
from scoresde.losses.denoising import DenoisingScoreMatching, NoiseRegression
from scoresde.losses.explicit import ExplicitScoreMatching
from scoresde.losses.importance import ImportanceTimes
from scoresde.losses.noisy import Draw, NoisyDataObjective
from scoresde.losses.reverse_steps import HybridLoss, VariationalLoss
from scoresde.losses.schedule import ScheduleVariance, VariationalSchedule
from scoresde.losses.sliced import SlicedDraw, SlicedScoreMatching
from scoresde.losses.target import TargetLikelihood
from scoresde.losses.times import ChainTimes, LowDiscrepancy, TimeDistribution, UniformLogNoise, UniformTime
from scoresde.losses.variational import VariationalDiffusionLoss, VariationalDraw, VariationalTerms

__all__ = [
    "ChainTimes",
    "DenoisingScoreMatching",
    "Draw",
    "ExplicitScoreMatching",
    "HybridLoss",
    "ImportanceTimes",
    "LowDiscrepancy",
    "NoiseRegression",
    "NoisyDataObjective",
    "Objective",
    "SDEObjective",
    "ScheduleVariance",
    "SlicedDraw",
    "SlicedScoreMatching",
    "TargetLikelihood",
    "TimedObjective",
    "TimeDistribution",
    "UniformLogNoise",
    "UniformTime",
    "VariationalLoss",
    "VariationalDiffusionLoss",
    "VariationalDraw",
    "VariationalSchedule",
    "VariationalTerms",
]

check_constructors(globals(), records=(Draw, SlicedDraw, VariationalDraw, VariationalTerms))
