r"""Corrector steps at a fixed time, with any jump process and any sampler with a grid.

A corrector step from time t goes forward to u > t and back:

.. math::
    x_u \sim q(x_u \mid x_t), \qquad x_t' \sim p(x_t \mid x_u)

The first part is exact. The second draws all coordinates independently, as in ancestral sampling. With an exact model
p_t is therefore invariant up to terms of order (u - t)^2, and exactly for a single coordinate. To first order in u - t
the step has the rates R(t) + R^(t) of Campbell et al., forward plus reverse. Coordinates that do not fit each other are drawn
again, so that errors of earlier steps decay.

References:
    Campbell et al. 2022, arXiv:2205.14987, section 4.4. Lugmayr et al. 2022, RePaint, arXiv:2201.09865 (forward and back).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, ancestral_step
from scoresde.jump.known import KnownTokens, following
from scoresde.jump.sampler import Callback, GridJumpSampler, JumpSampler
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class CorrectedSampler(JumpSampler):
    """Predictor-corrector sampling: corrector steps before each step of another sampler, but the first.

    Each corrector step has one evaluation of the model, at u = t + size (t_before - t), where t_before is the time before t
    in the grid.

    Args:
        predictor: The sampler, such as ``AncestralSampler(50)``.
        size: Size of a corrector step relative to the step of the predictor, > 0. u is at most T.
        corrections: Number of corrector steps at each time.

    References:
        Campbell et al. 2022, arXiv:2205.14987, section 4.4.

    Example:
        >>> from scoresde.jump import AncestralSampler, CorrectedSampler, MarkovChain, Uniform
        >>> process, chain = Uniform(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> CorrectedSampler(AncestralSampler(10))(process, chain.model(process), (4, 8)).nfe
        19
    """

    predictor: GridJumpSampler
    size: float = 0.5
    corrections: int = 1

    def __post_init__(self) -> None:
        check_number("size", self.size, above=0.0)
        check_count("corrections", self.corrections)

    def check_process(self, process: JumpProcess) -> None:
        self.predictor.check_process(process)

    def start_time(self, process: JumpProcess) -> float:
        return self.predictor.start_time(process)

    def run(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        times = self.predictor.times(process)
        for k in range(len(times) - 1):
            t, s = times[k], times[k + 1]
            u = torch.clamp(t + self.size * (times[k - 1] - t), max=process.T)
            for j in range(self.corrections if k else 0):
                new = corrector_step(process, model, x, t, u, noise, k * self.corrections + j)
                x = new if known is None else known.keep(x, new)
            new = self.predictor.step(process, model, x, t, s, noise, k)
            x = following(known, process, x, new, t, s, noise, k)
            callback(k + 1, s, x)
        return x, times


def corrector_step(
    process: JumpProcess, model: CountedModel, x: Tensor, t: Tensor, u: Tensor, noise: NoiseSource, number: int
) -> Tensor:
    """A step forward from t to u, and back.

    Args:
        process: The process.
        model: The model.
        x: States at t, ``(B, *event)``.
        t: Time of the states, ``()``.
        u: Later time, ``()``.
        noise: Source of the random numbers.
        number: Number of the step, part of the key.

    Returns:
        Other states at t, ``(B, *event)``.
    """
    later = process.transition_sample(x, t, u, noise, step=number)
    return ancestral_step(process, model, later, u, t, noise, step=number, purpose="back")
