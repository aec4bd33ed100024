"""Predictor-corrector sampling (Song et al. 2021, arXiv:2011.13456, section 4.2, algorithm 1)::

    x ~ p_T
    for each step from t to s < t:
        corrector:  steps at t, e.g. Langevin steps
        predictor:  a step from t to s
    return the mean of the last predictor step

The order is that of the reference implementation. The algorithm as printed has the predictor first. With the corrector
first, the run ends with the mean of a predictor step, which is a denoising step without an extra evaluation of the
score, and the first corrector steps correct the prior. Either part may be left out.
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
from scoresde.samplers.predictor_corrector.correctors import Corrector, step_normals
from scoresde.samplers.predictor_corrector.predictors import Predictor, ReverseDiffusion, ReverseSteps, predictor_draws
from scoresde.sde import SDE, LinearSDE, ScalarSDE


class PredictorCorrector(ReverseSteps):
    """Predictor-corrector sampling with any predictor and any corrector.

    Args:
        predictor: A :class:`~scoresde.samplers.predictor_corrector.Predictor` with the default grid, or None for
            Langevin dynamics alone.
        corrector: A :class:`~scoresde.samplers.predictor_corrector.Corrector`, or None.
        steps: Number of predictor steps N, N + 1 descending times, or a ``ReferenceDiscretization``.
        grid: Function of ``scoresde.samplers.grids`` that makes the times.
        t_min: Last time. None takes the process's own ``t_min`` if it has one, else 1e-3.
        denoise: Return the mean of the last step (the paper's choice) instead of the state.

    Raises:
        TypeError: If a part is not a predictor or a corrector.
        ValueError: If both parts are None, or if the predictor has its own grid.
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

    def check_noise(self, sde: SDE) -> None:
        """Raise TypeError if the noise of the process is not Gaussian and the predictor needs Gaussian noise."""
        if self.predictor is not None:
            self.predictor.check_noise(sde)

    @property
    def parts(self) -> tuple[Predictor | None, Corrector | None]:
        """The predictor and the corrector."""
        return self.predictor, self.corrector

    def process(self, sde: SDE) -> LinearSDE:
        """Return ``sde``. Raise TypeError unless it is linear and the corrector supports it."""
        linear = super().process(sde)
        if self.corrector is not None and self.corrector.needs_transition and not self.has_step(linear):
            raise TypeError(
                f"{self.corrector!r} does not fit {sde!r} with {self.predictor!r}: it needs a process with scalar "
                "coefficients and a predictor with a scalar step"
            )
        return linear

    def has_step(self, process: LinearSDE) -> bool:
        """Whether the predictor has a :meth:`step` for the process."""
        return super().has_step(process) and (self.predictor is None or self.predictor.has_step(process))

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        """The steps, checked by the predictor."""
        return intervals if self.predictor is None else self.predictor.prepared_intervals(sde, intervals)

    def draws(self, steps: int, x: Tensor, noise: NoiseSource, intervals: list[Interval]) -> Iterator[Any]:
        """The standard normals of the predictor, and a list for the corrector."""
        return step_normals(predictor_draws(self.predictor), self.corrector, steps, x, noise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The steps of the corrector, then the step of the predictor. Each part passes its own values to its next step."""
        predictor_z, corrector_z = z
        predictor_past, corrector_past = past or (None, None)
        mean = x
        for each in corrector_z:
            assert self.corrector is not None
            x, mean, corrector_past = self.corrector.step(model, x, interval, each, corrector_past)
            x = model.counted.hooked(interval.index, interval.at.clock, x)
        if self.predictor is not None:
            x, mean, predictor_past = self.predictor.step(model, x, interval, predictor_z, predictor_past)
        return x, mean, (predictor_past, corrector_past)
