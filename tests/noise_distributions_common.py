"""Noise distributions for the tests, their samples, and goodness-of-fit tests."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from scoresde.noise import NoiseSource
from scoresde.noise_distributions import (
    CenteredGamma,
    NormalMixture,
)

F64 = torch.float64


FALSE_ALARM = 1e-6


SKEWED = NormalMixture.standardized([0.3, 0.7], [-1.5, 0.2], [0.3, 1.0])


HEAVY = NormalMixture.standardized([0.9, 0.1], [0.0, 0.0], [0.5, 2.8])


def gamma(k, theta):
    return CenteredGamma(k, theta), stats.gamma(k, loc=-k * theta, scale=theta)


class Mixed:
    """Mixture of SciPy normal distributions."""

    def __init__(self, noise):
        self.parts = [(w, stats.norm(m, s)) for w, m, s in zip(noise.weights, noise.means, noise.stds, strict=True)]

    def cdf(self, x):
        return sum(w * part.cdf(x) for w, part in self.parts)

    def logpdf(self, x):
        return np.log(sum(w * part.pdf(x) for w, part in self.parts))


def draw(noise, count=1000, event_shape=(200,), seed=1, first=0, step=0, purpose="test", dtype=F64):
    source = NoiseSource.of(seed, count, first)
    return noise.sample(source, event_shape, step=step, purpose=purpose, dtype=dtype)


def ks(values, reference):
    return stats.kstest(values.flatten().numpy(), reference.cdf).pvalue


def moments_pvalue(values, variance, kurtosis):
    """The smaller of two two-sided p-values: of mean 0 and of the variance, whose standard error follows from the kurtosis."""
    x = values.flatten().numpy()
    errors = (
        x.mean() / math.sqrt(variance / x.size),
        (np.mean(x**2) / variance - 1) / math.sqrt((kurtosis + 2) / x.size),
    )
    return min(2 * stats.norm.sf(abs(e)) for e in errors)
