"""Metrics of sample quality, and baselines to compare them with.

Features of samples and their statistics    extractors, moments
Distances between two sets of features      frechet, kernel, sliced; precision: overlap of the two sets
A yardstick for distances                   yardstick
Scores of forecasts                         ranked_probability
Baseline density models                     baselines; codecs: lossless image files; texts: compressors
Classifiers that are trained on samples     classifiers
"""

from scoresde._arguments import check_constructors
from scoresde.metrics.baselines import CANDIDATES, Baseline, gaussian_log_prob, gaussian_mixtures, pixel_histogram
from scoresde.metrics.classifiers import Accuracy, SampleAccuracies, classifier_accuracy, sample_accuracies
from scoresde.metrics.codecs import CODECS, codec_bits_per_dim
from scoresde.metrics.extractors import Coordinates, Extractor, Network, TorchScript
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.kernel import KernelDistance, kernel_distance
from scoresde.metrics.moments import MomentAccumulator, Moments
from scoresde.metrics.precision import PrecisionRecall, precision_recall
from scoresde.metrics.ranked_probability import crps, fair_crps
from scoresde.metrics.sliced import sliced_wasserstein
from scoresde.metrics.texts import COMPRESSORS, compressor_bits_per_byte, markov_bits
from scoresde.metrics.yardstick import RelativeDistance, halves, relative_distance

__all__ = [
    "Accuracy",
    "CANDIDATES",
    "CODECS",
    "COMPRESSORS",
    "Baseline",
    "Coordinates",
    "Extractor",
    "MomentAccumulator",
    "KernelDistance",
    "Moments",
    "Network",
    "PrecisionRecall",
    "RelativeDistance",
    "SampleAccuracies",
    "TorchScript",
    "classifier_accuracy",
    "codec_bits_per_dim",
    "compressor_bits_per_byte",
    "crps",
    "fair_crps",
    "frechet_distance",
    "gaussian_log_prob",
    "gaussian_mixtures",
    "halves",
    "kernel_distance",
    "markov_bits",
    "pixel_histogram",
    "precision_recall",
    "relative_distance",
    "sample_accuracies",
    "sliced_wasserstein",
]

check_constructors(
    globals(), records=(Accuracy, Baseline, KernelDistance, PrecisionRecall, RelativeDistance, SampleAccuracies)
)
