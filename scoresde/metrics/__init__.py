"""Figures of merit, and the yardsticks beside them."""

from scoresde.metrics.baselines import CANDIDATES, Baseline, gaussian_mixtures, pixel_histogram

__all__ = ["CANDIDATES", "Baseline", "gaussian_mixtures", "pixel_histogram"]
