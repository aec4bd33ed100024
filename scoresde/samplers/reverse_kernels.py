"""The Gaussian reverse kernels p(x_s | x_t) = N(m(x_t), L L^T) of the steps of a stochastic predictor.

A predictor returns m and m + L z for standard normals z. m is a function of the state and of the score at the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.samplers.base import CountedScore
from scoresde.samplers.discretization import Discretization, Step
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.predictors import Predictor
from scoresde.score.data_variance import MODEL
from scoresde.sde import LinearSDE, ScalarSDE

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReverseKernel:
    """One step of a predictor.

    Attributes:
        time: The time t for the score, of shape ``(B,)``.
        end: The time s for a callback, of shape ``()``.
        mean: The function (x, score) -> m.
        scale: The function z -> L z.
        transposed: The function v -> L^T v.
    """

    time: Tensor
    end: Tensor
    mean: Callable[[Tensor, Tensor], Tensor]
    scale: Map
    transposed: Map


def check_predictor(predictor: object) -> None:
    """Raise TypeError or ValueError unless the steps of a predictor are Gaussian."""
    if not isinstance(predictor, Predictor):
        raise TypeError(f"predictor={predictor!r} is not a Predictor: give Ancestral() or ReverseDiffusion()")
    own = type(predictor).before_score is not Predictor.before_score or predictor.draws_per_step != 1
    if own or not predictor.stochastic:
        raise TypeError(
            f"predictor={predictor!r} has no steps that add Gaussian noise to a function of x_t: give Ancestral() or "
            "ReverseDiffusion()"
        )
    if getattr(predictor, "variance", None) == MODEL:
        raise TypeError(
            f"predictor={predictor!r} has noise that depends on the state: give a variance that is a function of the noise level"
        )
    if not predictor.has_default_grid:
        raise ValueError(
            f"predictor={predictor!r} has a grid of its own: give steps, grid, t_min and denoise to the sampler"
        )


def reverse_kernels(
    predictor: Predictor, sde: LinearSDE, plan: Discretization, like: Tensor
) -> tuple[Tensor, list[ReverseKernel]]:
    """The steps of a predictor on a grid.

    Args:
        predictor: The predictor.
        sde: The process.
        plan: The grid.
        like: A state ``(B, *state)``.

    Returns:
        The times of the grid, and N kernels.

    Raises:
        TypeError: If the process has no scalar coefficients, and the predictor does not know the kernel of its noise.
    """
    if isinstance(sde, ScalarSDE) and predictor.has_step(sde):
        times = plan.times(sde)
        intervals = predictor.prepared_intervals(sde, plan.intervals(sde, times, like))
        return times, [_scalar(predictor, interval) for interval in intervals]
    predictor.check(sde)
    transitions = plan.transitions(sde)
    rows = [interval.at.time for interval in transitions.corrector_intervals(like)]
    steps = transitions.steps(like)
    return transitions.times, [_of_maps(predictor, sde, step, t) for step, t in zip(steps, rows, strict=True)]


def _scalar(predictor: Predictor, interval: Interval) -> ReverseKernel:
    """A step with scalar coefficients. Its standard deviation is what the step adds for z = 1."""

    def mean(x: Tensor, score: Tensor) -> Tensor:
        found: Tensor = predictor.step(_known(score), x, interval, 0.0, None)[1]
        return found

    zero = torch.zeros(1, dtype=torch.float64)
    moved, still, _ = predictor.step(_known(zero), zero, interval, torch.ones_like(zero), None)
    std = float(moved - still)
    return ReverseKernel(interval.at.time, interval.to.clock, mean, lambda z: std * z, lambda v: std * v)


def _of_maps(predictor: Predictor, sde: LinearSDE, step: Step, time: Tensor) -> ReverseKernel:
    noise = predictor.noise_kernel(step)

    def mean(x: Tensor, score: Tensor) -> Tensor:
        return predictor.map_step(sde, step, x, score, torch.zeros_like(x))[1]

    return ReverseKernel(time, step.s, mean, noise.scale, noise.scale_transposed)


def _known(score: Tensor) -> Model:
    """The model of a score that has been evaluated."""
    return Model(CountedScore(lambda x, t: score), None)
