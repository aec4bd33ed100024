"""Correctors: Langevin steps at a fixed time, towards the law p_t that the predictor meant to reach.

    x <- x + e score(x, t) + sqrt(2 e) z         (Song et al. 2021, algorithms 4 and 5)

with step size e. With a = A^2 the step's contraction (1 - beta_i for DDPM's chain, 1 for VE):

    Langevin           e = 2 a (snr ||z|| / ||score||)^2
    AnnealedLangevin   e = 2 a (snr sigma(t))^2

The paper's code averages both norms of the first over the batch, so that a sample depends on its neighbours: that is
`BatchLangevin`, kept for agreement with it. `Langevin` takes each sample's own score norm and sqrt(d) for ||z||. Two
consequences are met by it: a step size must not depend on the noise that it scales, hence sqrt(d), the root mean square of
||z||; and in few dimensions a sample may sit where its score vanishes, so ||score||^2 is pooled with `PRIOR_DIMENSIONS`
imaginary coordinates of squared score 1 / sigma(t)^2, its upper bound in the mean: no matter in 3072 dimensions, and
in two a step of at most 2.5 a (snr sigma)^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.samplers.walk import Step

PRIOR_DIMENSIONS = 8
"""Weight of the bound 1 / sigma^2 in the pooled squared score, in coordinates."""


@dataclass(frozen=True)
class Corrector(ABC):
    """Langevin dynamics at time t.

    snr: ratio r of the noise's to the score's contribution, in (0, 1000]; the paper takes 0.16 (VE), 0.01 to 0.16 (VP).
    steps: Langevin steps at each time, each of them one evaluation of the score.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        check_number("snr", self.snr, above=0.0, most=1e3)
        check_count("steps", self.steps)

    def step(self, step: Step, x: Tensor, score: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """(state, mean) after one Langevin step, both the shape of x."""
        e = expand(2.0 * step.kernel.contraction() * self.size(step, score, z) ** 2, x)
        mean = x + e * score
        return mean + (2.0 * e).sqrt() * z, mean

    @abstractmethod
    def size(self, step: Step, score: Tensor, z: Tensor) -> Tensor:
        """snr ||z|| / ||score||, shape () or (B,)."""


@dataclass(frozen=True)
class Langevin(Corrector):
    """Langevin steps whose size follows each sample's own score."""

    def size(self, step: Step, score: Tensor, z: Tensor) -> Tensor:
        flat = score.flatten(1) if score.ndim > 1 else score[:, None]
        square = (flat**2).sum(1) + PRIOR_DIMENSIONS / step.sigma**2
        return self.snr * ((flat.shape[1] + PRIOR_DIMENSIONS) / square).sqrt()


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    """Langevin steps whose size follows sigma(t) alone (Song & Ermon 2019's annealing)."""

    def size(self, step: Step, score: Tensor, z: Tensor) -> Tensor:
        return self.snr * step.sigma


@dataclass(frozen=True)
class BatchLangevin(Corrector):
    """The reference implementation's `langevin`: norms averaged over the batch. A sample depends on its neighbours."""

    def size(self, step: Step, score: Tensor, z: Tensor) -> Tensor:
        def mean_norm(v: Tensor) -> Tensor:
            return torch.linalg.vector_norm(v.reshape(len(v), -1), dim=1).mean()

        return self.snr * mean_norm(z) / mean_norm(score)
