"""Training objectives for score models."""

from scoresde._arguments import check_constructors
from scoresde.losses.base import Objective
from scoresde.losses.denoising import DenoisingScoreMatching, Draw
from scoresde.losses.explicit import ExplicitScoreMatching
from scoresde.losses.sliced import SlicedDraw, SlicedScoreMatching
from scoresde.losses.times import ChainTimes, TimeDistribution, UniformLogNoise, UniformTime

__all__ = [
    "ChainTimes",
    "DenoisingScoreMatching",
    "Draw",
    "ExplicitScoreMatching",
    "Objective",
    "SlicedDraw",
    "SlicedScoreMatching",
    "TimeDistribution",
    "UniformLogNoise",
    "UniformTime",
]

check_constructors(globals(), records=(Draw, SlicedDraw))
