"""Figures of merit, and the yardsticks beside them."""

from scoresde.metrics.baselines import Baseline, gaussian_mixtures, pixel_histogram

__all__ = ["Baseline", "gaussian_mixtures", "pixel_histogram"]
