"""Correctors: steps at a fixed time t that bring the state closer to the marginal distribution p_t.

A corrector evaluates the score, or the energy, itself. It may pass values, such as a momentum, from step to step and from
level to level. :class:`~scoresde.samplers.predictor_corrector.MALA` and
:class:`~scoresde.samplers.predictor_corrector.UnderdampedLangevin` have their own files. This one has the steps of
overdamped Langevin dynamics. A step with step size e is (Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5)::

    x <- x + e score(x, t) + sqrt(2 e) z

With a = A^2 the contraction of the forward step (1 - beta_i for DDPM's chain, 1 for VE), the step sizes are::

    Langevin           e = 2 a (snr ||z|| / ||score||)^2
    AnnealedLangevin   e = 2 a (snr sigma(t))^2

The paper's code averages the two norms of the first formula over the batch, so a sample depends on the other samples of
its batch. :class:`BatchLangevin` does the same, for agreement with the paper's code. :class:`Langevin` differs in two
points:

- It uses sqrt(d), the root mean square of ||z||, because a step size must not depend on the noise that it scales.
- It uses the norm of each sample's own score. In few dimensions the score of a sample may vanish, and the step would be
  unbounded. So ||score||^2 is pooled with ``PRIOR_DIMENSIONS`` additional coordinates of squared score 1 / sigma(t)^2,
  which is an upper bound of the mean. In 3072 dimensions this makes no difference. In two dimensions the step is at
  most 2.5 a (snr sigma)^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval

PRIOR_DIMENSIONS = 8
"""Number of coordinates that the bound 1 / sigma^2 counts for in the pooled squared score."""


class Corrector(ABC):
    """Base class of correctors, which take steps at time t.

    Attributes:
        steps: Number of steps at each time.
    """

    steps: int

    draws_per_step = 1  # without an annotation, so that it is not a field
    """Number of standard normals that a step uses. More than one are stacked, of shape ``(draws, *x.shape)``."""

    needs_transition = False
    """Whether a step uses the transition of ``interval``, which only processes with scalar coefficients have."""

    needs_standard_normals = False
    """Whether a step would be wrong with noise of another distribution, such as ``FilteredNoise``."""

    @abstractmethod
    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """One step at the start of ``interval``.

        Args:
            model: Evaluates the score, or the energy and the score.
            x: State, of shape ``(B, *state)``.
            interval: Step of the grid. Its ``index``, ``at.time``, ``a`` and ``level`` can be used, and all others if
                :attr:`needs_transition` is True.
            z: Standard normals of the shape of ``x``. Stacked if :attr:`draws_per_step` is more than one.
            past: The third value that the previous step returned, at the same or at the previous level. None for the
                first step.

        Returns:
            The new state; the same without the noise that the step added; and a value for the next step.
        """


@dataclass(frozen=True)
class LangevinDynamics(Corrector):
    """Base class of correctors by Langevin dynamics, with or without a momentum or a Metropolis step.

    Args:
        snr: Size r of a step relative to the noise level, in (0, 1000]. For overdamped Langevin steps it is the ratio of
            the contributions of noise and score. The paper uses 0.16 (VE) and 0.01 to 0.16 (VP).
        steps: Number of steps at each time.
    """

    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        check_number("snr", self.snr, above=0.0, most=1e3)
        check_count("steps", self.steps)


@dataclass(frozen=True)
class LangevinCorrector(LangevinDynamics):
    """Base class of overdamped Langevin dynamics. A subclass defines the size of a step.

    Args:
        snr: Signal-to-noise ratio r, the ratio of the contributions of noise and score, in (0, 1000].
        steps: Number of Langevin steps at each time, each with one evaluation of the score.
    """

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """x + e score + sqrt(2 e) z, and its mean x + e score."""
        score = model.score(x, interval.at)
        e = 2.0 * interval.a**2 * self.size(interval, score, z) ** 2
        e = expand(e, x) if isinstance(e, Tensor) else e
        mean = x + e * score
        return mean + (2.0 * e) ** 0.5 * z, mean, None

    @abstractmethod
    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor | float:
        """The factor snr ||z|| / ||score|| of the step size, or what replaces it.

        Args:
            interval: Step of the grid.
            score: The score, of shape ``(B, *state)``.
            z: Standard normals of the same shape.

        Returns:
            A number, or a tensor of shape ``()`` or ``(B,)``.
        """


@dataclass(frozen=True)
class Langevin(LangevinCorrector):
    """Langevin steps whose size depends on the norm of each sample's score.

    The step size is e = 2 a (snr ||z|| / ||score||)^2, where a is the squared contraction of the forward step, ||z|| is
    replaced by its root mean square, and ||score|| is bounded below.

    Args:
        snr, steps: See :class:`LangevinCorrector`.
    """

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor:
        flat = score.flatten(1) if score.ndim > 1 else score[:, None]
        square = (flat**2).sum(1) + PRIOR_DIMENSIONS / interval.level**2
        return self.snr * ((flat.shape[1] + PRIOR_DIMENSIONS) / square).sqrt()


@dataclass(frozen=True)
class AnnealedLangevin(LangevinCorrector):
    """Langevin steps whose size depends only on sigma(t), the annealed Langevin dynamics of Song & Ermon 2019.

    The step size is e = 2 a (snr sigma(t))^2, where a is the squared contraction of the forward step.

    Args:
        snr, steps: See :class:`LangevinCorrector`.
    """

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> float:
        return self.snr * interval.level


@dataclass(frozen=True)
class BatchLangevin(LangevinCorrector):
    """The reference implementation's Langevin corrector, with norms averaged over the batch.

    A sample depends on the other samples of its batch.

    Args:
        snr, steps: See :class:`LangevinCorrector`.
    """

    def size(self, interval: Interval, score: Tensor, z: Tensor) -> Tensor:
        def mean_norm(v: Tensor) -> Tensor:
            norms: Tensor = torch.linalg.vector_norm(v.reshape(len(v), -1), dim=1)
            return norms.mean()

        return self.snr * mean_norm(z) / mean_norm(score)


def step_normals(
    predictor_draws: int, corrector: Corrector | None, steps: int, x: Tensor, noise: NoiseSource
) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """The standard normals of each step: those of the predictor, and a list for the steps of the corrector. If a step
    uses more than one, they are stacked.

    Draw k of step i has the key i * (draws of a step) + k, with the purpose "predictor" or "corrector". Raises ValueError if the
    corrector needs standard normals and the noise has others.
    """
    if corrector is not None and corrector.needs_standard_normals and not noise.standard_normals:
        raise ValueError(
            f"noise is a {type(noise).__name__}, and {type(corrector).__name__} needs standard normals: give a NoiseSource, and "
            "Preconditioned(corrector, filter) to filter the steps"
        )
    corrector_draws = 0 if corrector is None else corrector.steps * corrector.draws_per_step
    counts = {"corrector": corrector_draws, "predictor": predictor_draws}
    keys = [(i * n + k, purpose) for i in range(steps) for purpose, n in counts.items() for k in range(n)]
    numbers, purposes = [number for number, _ in keys], [purpose for _, purpose in keys]
    draws = noise.normals(x.shape[1:], steps=numbers, purpose=purposes, dtype=x.dtype)
    for _ in range(steps):
        corrections = [next(draws) for _ in range(corrector_draws)]
        if corrector is not None and corrector.draws_per_step > 1:
            corrections = list(torch.stack(corrections).unflatten(0, (corrector.steps, corrector.draws_per_step)))
        z = [next(draws) for _ in range(predictor_draws)]
        yield (torch.stack(z) if predictor_draws > 1 else z[0] if z else None), corrections
