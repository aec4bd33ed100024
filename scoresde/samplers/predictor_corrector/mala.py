r"""The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996) as a corrector.

A Langevin step of size e is a proposal with density q(y | x) = N(y; x + e score(x), 2 e I)::

    y = x + e score(x) + sqrt(2 e) z
    accept y with the probability min(1, p(y) q(x | y) / (p(x) q(y | x))), else stay at x

The step back from y to x would need the noise z' = -z - sqrt(e / 2) (score(x) + score(y)). With p = exp(-E) the logarithm of
the ratio is

.. math::
    E(x) - E(y) + \tfrac{1}{2} \|z\|^2 - \tfrac{1}{2} \|z'\|^2

Langevin steps alone converge to a distribution with an error of order e. For N(0, s^2) its variance is s^2 / (1 - e / (2
s^2)). With the acceptance step, the limit is p_t for every e. A larger e moves farther and is accepted less often. The best
rate for many dimensions is 0.574 (Roberts & Rosenthal 1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.correctors import LangevinDynamics


@dataclass(frozen=True)
class MALA(LangevinDynamics):
    """The Metropolis-adjusted Langevin algorithm: Langevin steps that are accepted or rejected, so that p_t is exact.

    The step size is e = 2 a (snr sigma(t))^2, that of :class:`AnnealedLangevin`. The score must have a method ``energy(x, t)``
    that returns -log p_t(x) up to a constant, as an ``EnergyModel`` and the score of a ``GaussianMixture`` have. A level needs
    ``steps + 1`` evaluations of the energy and its gradient. ``result.acceptance`` has the probabilities of acceptance,
    ``(K, B)``.

    The steps do not separate a mean from its noise. So ``PredictorCorrector(None, MALA())`` returns the last state.

    Args:
        snr, steps: See :class:`LangevinDynamics`.

    References:
        Roberts & Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete approximations".
        Roberts & Rosenthal 1998, "Optimal scaling of discrete approximations to Langevin diffusions".
    """

    draws_per_step = 2  # the proposal, and one number for the acceptance
    needs_standard_normals = True

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """A proposal y = x + e score(x) + sqrt(2 e) z, and the decision between x and y."""
        at, e = interval.at, 2.0 * (self.snr * interval.a * interval.level) ** 2
        known = past is not None and past.index == interval.index and past.x is x
        energy, score = (past.energy, past.score) if known else model.energy_and_score(x, at)
        z, uniform = z[0], torch.special.ndtr(z[1].reshape(len(x), -1)[:, 0])
        y = x + e * score + (2.0 * e) ** 0.5 * z
        energy_y, score_y = model.energy_and_score(y, at)
        back = z + (0.5 * e) ** 0.5 * (score + score_y)
        probability = (energy - energy_y + 0.5 * (square(z) - square(back))).clamp(max=0.0).exp()
        model.counted.acceptance.append(probability)
        # a probability that is not a number makes the state NaN, which the sampler reports
        accepted = uniform < probability
        x = torch.where(expand(accepted, x), y, x.masked_fill(expand(probability.isnan(), x), math.nan))
        score = torch.where(expand(accepted, x), score_y, score)
        return x, x, Point(interval.index, x, torch.where(accepted, energy_y, energy), score)


@dataclass(frozen=True)
class Point:
    """Energy and score at the state x, at the level ``index``."""

    index: int
    x: Tensor
    energy: Tensor
    score: Tensor


def square(v: Tensor) -> Tensor:
    """||v||^2 for each sample, (B,)."""
    return (v**2).reshape(len(v), -1).sum(1)
