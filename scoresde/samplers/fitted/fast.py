"""``Fast``: a sampler that fits itself to the model, for few evaluations per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.conditions import rows_of
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore
from scoresde.samplers.exponential.coefficients import linear_process
from scoresde.samplers.fitted.fit_method import fit
from scoresde.samplers.fitted.pilot import Pilot
from scoresde.samplers.fitted.sampler import FittedSampler
from scoresde.samplers.fitted.unfitted import UnfittedSampler
from scoresde.samplers.grids import end_time
from scoresde.sde import SDE, LinearSDE, Score


class Fast(UnfittedSampler):
    """:func:`fit` as a sampler, for example for configs.

    Each call fits again, with the same pilot. :meth:`prepared` fits once and returns the fitted sampler. ``nfe`` of the
    result counts the evaluations of the samples, without those of the fit.

    Args:
        steps: Number of evaluations of the score per sample, at least 2.
        pilot: Number of starts of the pilot, at least 16.
        search: Number of iterations of the second stage of the fit. None: the default of :func:`fit`.
        seed: Seed of the pilot and of the held-out starts.
        held_out: Number of new starts on which the error is measured, at least 16.
        t_min: Time at which the flow ends, > 0. None: the process's own ``t_min`` if it has one, else 1e-3.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        steps: int = 10,
        pilot: int = 128,
        search: int | None = None,
        seed: int = 0,
        held_out: int = 2000,
        *,
        t_min: float | None = None,
    ) -> None:
        check_count("steps", steps, least=2)
        check_count("pilot", pilot, least=16)
        if t_min is not None:
            check_number("t_min", t_min, above=0.0)
        check_count("seed", seed, least=0)
        check_count("held_out", held_out, least=16)
        if search is not None:
            check_count("search", search, least=0)
        self.steps, self.pilot, self.search, self.t_min, self.seed = steps, pilot, search, t_min, seed
        self.held_out = held_out

    @property
    def fit_rows(self) -> int:
        """``pilot``."""
        return self.pilot

    def check_process(self, sde: SDE) -> None:
        linear_process(sde, type(self).__name__)

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        data: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> FittedSampler:
        """Fit a sampler to the model. This takes hundreds to thousands of evaluations of a batch of ``pilot`` samples.

        Args:
            sde: Process of the score.
            score: (x, t) -> score.
            event_shape: Shape of a sample.
            data: Not used.
            dtype: Dtype of the pilot.
            device: Device of the pilot.

        Returns:
            The fitted sampler.
        """
        shape = (self.pilot, *event_shape)
        t_min = end_time(sde, self.t_min)
        pilot = Pilot.of(sde, score, shape, t_min=t_min, seed=self.seed, dtype=dtype, device=device)
        return fit(
            sde, score, self.steps, pilot=pilot, search=self.search, held_out=self.held_out, seed=self.seed, dtype=dtype
        )

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        event = sde.extract_data(x).shape[1:]
        # conditions of the pilot's starts are those of the samples, in turn
        pilot_score = rows_of(score.score, torch.arange(self.pilot) % len(x))
        ready = self.prepared(sde, pilot_score, event, dtype=score.dtype or x.dtype, device=x.device)
        return ready.run(sde, score, x, noise, callback)
