"""Data distributions whose score and density are known in closed form at every time under every linear process."""

from scoresde.distributions.empirical import SmoothedEmpirical
from scoresde.distributions.mixture import GaussianMixture

__all__ = ["GaussianMixture", "SmoothedEmpirical"]
