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
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval

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

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor) -> tuple[Tensor, Tensor]:
        """x + e score + sqrt(2 e) z, one Langevin step at the time where ``interval`` starts.

        Args:
            model: Gives the score.
            x: (B, *state).
            interval: The step of the grid; its ``at``, ``a`` and ``level`` are used.
            z: Standard normals like x.

        Returns:
            The state and its mean, x + e score.
        """
        score = model.score(x, interval.at)
        e = 2.0 * interval.a**2 * self.size(interval, score, z) ** 2
        e = expand(e, x) if isinstance(e, Tensor) else e
        mean = x + e * score
        return mean + (2.0 * e) ** 0.5 * z, mean

    @abstractmethod
    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor | float:
        """snr ||z|| / ||score||, a number or of shape () or (B,)."""


@dataclass(frozen=True)
class Langevin(Corrector):
    """Langevin steps whose size follows each sample's own score."""

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor:
        flat = score.flatten(1) if score.ndim > 1 else score[:, None]
        square = (flat**2).sum(1) + PRIOR_DIMENSIONS / interval.level**2
        return self.snr * ((flat.shape[1] + PRIOR_DIMENSIONS) / square).sqrt()


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    """Langevin steps whose size follows sigma(t) alone (Song & Ermon 2019's annealing)."""

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> float:
        return self.snr * interval.level


@dataclass(frozen=True)
class BatchLangevin(Corrector):
    """The reference implementation's `langevin`: norms averaged over the batch. A sample depends on its neighbours."""

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor:
        def mean_norm(v: Tensor) -> Tensor:
            norms: Tensor = torch.linalg.vector_norm(v.reshape(len(v), -1), dim=1)
            return norms.mean()

        return self.snr * mean_norm(z) / mean_norm(score)


def normals_of(
    ahead: int, corrector: Corrector | None, steps: int, x: Tensor, noise: NoiseSource
) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """The standard normals of each step: ``ahead`` of the predictor's, stacked where more than one, and the corrector's, a list.

    Draw k of step i has the key i * (draws of a step) + k, for the purposes "predictor" and "corrector".
    """
    again = 0 if corrector is None else corrector.steps
    counts = {"corrector": again, "predictor": ahead}
    keys = [(i * n + k, purpose) for i in range(steps) for purpose, n in counts.items() for k in range(n)]
    numbers, purposes = [number for number, _ in keys], [purpose for _, purpose in keys]
    draws = noise.normals(x.shape[1:], steps=numbers, purpose=purposes, dtype=x.dtype)
    for _ in range(steps):
        corrections = [next(draws) for _ in range(again)]
        z = [next(draws) for _ in range(ahead)]
        yield (torch.stack(z) if ahead > 1 else z[0] if z else None), corrections
