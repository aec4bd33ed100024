"""Guidance: scores that are made of other scores and of what should guide them.

A member takes a score and is a score, so it works with every sampler. Its docstring states which distribution it
samples from: the exact conditional one, or an approximation and in which sense.
"""

from scoresde._arguments import check_constructors
from scoresde.guidance.base import Guidance
from scoresde.guidance.classifier_free import ClassifierFree
from scoresde.guidance.composition import ComposedConditions, MixtureOfExperts
from scoresde.guidance.likelihoods import ClassifierGuidance, TaskGuidance
from scoresde.guidance.measurements import IsotropicMoments, MeasurementGuidance, TweedieMoments
from scoresde.guidance.posterior_sampling import DiffusionPosteriorSampling
from scoresde.guidance.thresholds import DynamicThreshold, StaticThreshold, Threshold

__all__ = [
    "ClassifierFree",
    "ClassifierGuidance",
    "ComposedConditions",
    "DiffusionPosteriorSampling",
    "DynamicThreshold",
    "Guidance",
    "IsotropicMoments",
    "MeasurementGuidance",
    "MixtureOfExperts",
    "StaticThreshold",
    "TaskGuidance",
    "Threshold",
    "TweedieMoments",
]

check_constructors(globals())
