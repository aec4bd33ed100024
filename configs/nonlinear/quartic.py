"""A process without a closed-form kernel: dx = -x^3 dt + dw, from data with two modes.

The states are simulated, and the score is trained by sliced score matching. The functions and classes of this file are named in
its own config, as ``configs.nonlinear.quartic:drift``, so the commands run in the folder that contains ``configs``.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from ml_collections import ConfigDict
from scipy.stats import gamma

from scoresde import GaussianMixture
from scoresde.data import Affine, Dataset, Splits
from scoresde.noise import NoiseSource


def drift(x, t):
    """f(x, t) = -x^3, the force of the potential x^4 / 4."""
    return -(x**3)


def diffusion(t):
    """g(t) = 1, one number for each sample."""
    return torch.ones_like(t)


@dataclass(frozen=True)
class Stationary:
    """The stationary distribution of the process, with the density exp(-x^4 / 2) / Z in each coordinate."""

    shape: tuple[int, ...] = (1,)

    def sample(self, n, seed=0, dtype=torch.float32, first=0):
        """|x|^4 / 2 has a Gamma(1/4) distribution, and the sign is random."""
        u = NoiseSource.of(seed, n, first).uniform(self.shape, step=0, purpose="quartic", dtype=torch.float64)
        size = (2.0 * gamma.ppf((2.0 * u - 1.0).abs().numpy(), 0.25)) ** 0.25
        return torch.from_numpy(np.copysign(size, u.numpy() - 0.5)).to(dtype)

    def log_prob(self, x):
        """The sum over coordinates of -x^4 / 2 - ln Z, with Z = 2^(5/4) Gamma(5/4)."""
        log_z = 1.25 * math.log(2.0) + math.lgamma(1.25)
        return (-0.5 * x**4 - log_z).reshape(len(x), -1).sum(1)


class TwoModes(Splits):
    """Samples of a mixture of two Gaussians on the line."""

    def __init__(self, count=100_000):
        mixture = GaussianMixture([[-1.2], [0.8]], [0.2, 0.3], [0.4, 0.6])
        train, test = mixture.sample(count, seed=0), mixture.sample(1000, seed=1)
        super().__init__(Dataset(train, Affine(), name="two modes"), Dataset(test, Affine(), name="two modes, test"))


def get_config():
    here = "configs.nonlinear.quartic"
    return ConfigDict({
        "data": {"name": f"{here}:TwoModes"},
        "sde": {
            "name": "NonlinearSDE", "f": {"name": f"{here}:drift"}, "g": {"name": f"{here}:diffusion"}, "T": 1.5,
            "prior": {"name": f"{here}:Stationary"}, "steps": 100,
        },
        "network": {"name": "MLP", "width": 64, "depth": 2},
        "model": {"prediction": "score"},
        "objective": {"name": "SlicedScoreMatching", "times": {"name": "UniformTime", "t_min": 0.05}},
        "training": {
            "steps": 2000, "batch_size": 1024, "learning_rate": 5e-3, "schedule": "cosine", "ema_decay": 0.99, "warmup": 50,
            "log_every": 100, "checkpoint_every": 500, "preview_every": 1000,
        },
        "sampling": {"count": 2000, "batch_size": 2000},
        "samplers": {"reverse": {"name": "ReverseSDESampler", "steps": 200, "t_min": 0.05, "denoise": False}},
        "likelihood": {"t_min": 0.05},
        "threads": 1,
    })  # fmt: skip
