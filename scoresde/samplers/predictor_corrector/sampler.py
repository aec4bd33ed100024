"""Predictor-corrector sampling (Song et al. 2021, section 4.2, algorithm 1).

    x ~ p_T
    for each step from t down to s:
        corrector:  its Langevin steps at t
        predictor:  from t to s
    return the mean of the last predictor step

The order is that of the reference implementation, which differs from the algorithm as printed (predictor first): so the last
thing that happens is a predictor's mean, a denoising step that costs no extra evaluation of the score, and the first
corrector mends the prior. Either part may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.samplers.discretization import Grid, Steps
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.grids import uniform
from scoresde.samplers.instants import Interval
from scoresde.samplers.predictor_corrector.correctors import Corrector, normals_of
from scoresde.samplers.predictor_corrector.predictors import Predictor, ReverseDiffusion, ReverseSteps, draws_ahead
from scoresde.sde import LinearSDE, ScalarSDE


class PredictorCorrector(ReverseSteps):
    """Any predictor with any corrector.

    Args:
        predictor: A `Predictor`, whose own grid is left at its defaults; None for Langevin dynamics alone.
        corrector: A `Corrector`, or None.
        steps: Number of predictor steps N, N + 1 descending times, or a `ReferenceDiscretization`.
        grid: Function of `scoresde.samplers.grids`.
        t_min: Last time; None for the process's own where it has one, else 1e-3.
        denoise: Return the mean of the last step (the paper's choice) in place of the state.

    Raises:
        TypeError: For a part of another kind.
        ValueError: Without a part, and for a predictor with a grid of its own.
    """

    def __init__(
        self,
        predictor: Predictor | None = ReverseDiffusion(),  # noqa: B008  (frozen)
        corrector: Corrector | None = None,
        steps: Steps = 1000,
        *,
        grid: Grid = uniform,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        for name, part, kind in (("predictor", predictor, Predictor), ("corrector", corrector, Corrector)):
            if part is not None and not isinstance(part, kind):
                raise TypeError(f"{name}={part!r} is not a {kind.__name__}; None leaves it out")
        if predictor is None and corrector is None:
            raise ValueError("predictor=None and corrector=None: give at least one")
        if predictor is not None and not predictor.has_default_grid:
            raise ValueError(f"predictor={predictor!r} has a grid of its own: give steps, grid, t_min and denoise here")
        self.predictor, self.corrector = predictor, corrector
        self.set_grid(steps, grid, t_min, denoise=denoise)

    @property
    def parts(self) -> tuple[Predictor | None, Corrector | None]:
        """The predictor and the corrector."""
        return self.predictor, self.corrector

    def has_step(self, process: LinearSDE) -> bool:
        """Whether the predictor has a `step` for the process."""
        return super().has_step(process) and (self.predictor is None or self.predictor.has_step(process))

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps, once the predictor took them."""
        return intervals if self.predictor is None else self.predictor.prepared_intervals(sde, intervals)

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        """Standard normals: the predictor's, and a list of the corrector's."""
        return normals_of(draws_ahead(self.predictor), self.corrector, steps, x, noise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The corrector's Langevin steps, then the predictor's step."""
        ahead, again = z
        mean = x
        for each in again:
            assert self.corrector is not None
            x, mean = self.corrector.step(model, x, interval, each)
        if self.predictor is None:
            return x, mean, None
        return self.predictor.step(model, x, interval, ahead, past)
