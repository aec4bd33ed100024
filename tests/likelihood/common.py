"""Mixture, data and processes that several test files of the likelihood share."""

from __future__ import annotations

import math

import torch

from scoresde import GaussianMixture
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, LinearInterpolantSDE, Shifted, SubVPSDE

F64 = torch.float64
DISTRIBUTION = GaussianMixture(torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64), torch.tensor([0.3, 0.2]))
X = DISTRIBUTION.sample(6, seed=1, dtype=F64)
MU = torch.tensor([0.5, -0.4], dtype=F64)
PROCESSES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.01, 100.0),
    "cld": CriticallyDampedLangevin(),
    "blur": BlurringSDE((2,), blur=1.0),
    "shifted": Shifted(VPSDE(), MU),
    "interpolant": LinearInterpolantSDE(),
}


class Broken:
    """DISTRIBUTION's score, not finite at sample ``which`` of the batch at times in (low, high)."""

    def __init__(self, which, low, high=1.0):
        self.score, self.which, self.low, self.high = DISTRIBUTION.score(PROCESSES["vp"]), which, low, high

    def __call__(self, x, t):
        hit = torch.zeros(len(x), dtype=torch.bool)
        hit[[w for w in self.which if w < len(x)]] = True
        broken = hit & (t > self.low) & (t < self.high)
        return torch.where(broken[:, None], math.inf, self.score(x, t))
