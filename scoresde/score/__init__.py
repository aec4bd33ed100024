"""Models of x_t: a network with a process, the meaning of the network's output, and the time embedding's input."""

from scoresde.score.base import NoiseConditionalModel
from scoresde.score.classifier import Classifier, Regressor, TargetModel
from scoresde.score.conditional import ConditionalModel
from scoresde.score.data_variance import AnalyticVariance, DataVariance, GaussianVariance
from scoresde.score.denoising import DenoisingErrors, denoising_errors
from scoresde.score.energy import EnergyModel, ProductOfExperts
from scoresde.score.features import ScoreFeatures, network_features, pixel_features, pooled_features
from scoresde.score.labels import Label, LogNoiseLabel, LogTimeLabel, SigmaLabel, TimeLabel
from scoresde.score.learned_variance import (
    FreeVariance,
    InterpolatedVariance,
    LearnedVariance,
    LearnedVarianceModel,
)
from scoresde.score.model import ScoreModel
from scoresde.score.predictions import (
    PREDICTIONS,
    DataPosterior,
    DataPrediction,
    MixedPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    Prediction,
    ScaledScorePrediction,
    ScorePrediction,
    VelocityPrediction,
    like,
)
from scoresde.score.quantized import Levels

__all__ = [
    "PREDICTIONS",
    "AnalyticVariance",
    "Classifier",
    "DataPosterior",
    "DataPrediction",
    "DataVariance",
    "DenoisingErrors",
    "EnergyModel",
    "FreeVariance",
    "GaussianVariance",
    "InterpolatedVariance",
    "Label",
    "LearnedVariance",
    "LearnedVarianceModel",
    "Levels",
    "LogNoiseLabel",
    "LogTimeLabel",
    "MixedPrediction",
    "ConditionalModel",
    "NoiseConditionalModel",
    "NoisePrediction",
    "PreconditionedPrediction",
    "Prediction",
    "Regressor",
    "ScaledScorePrediction",
    "ProductOfExperts",
    "ScoreFeatures",
    "ScoreModel",
    "ScorePrediction",
    "SigmaLabel",
    "TargetModel",
    "TimeLabel",
    "VelocityPrediction",
    "denoising_errors",
    "like",
    "network_features",
    "pixel_features",
    "pooled_features",
]
