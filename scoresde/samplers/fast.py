"""The default for few evaluations: a sampler that fits itself to the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.fitted import FittedSampler
from scoresde.samplers.fitting import Pilot, fit
from scoresde.samplers.grids import T_MIN
from scoresde.sde import LinearSDE, Score


class Fast(Sampler):
    """`fit` as a sampler, for configs and for who wants samples soon: `prepared` pays for the pilot and the fit once.

    Called without that it prepares itself at every call, from the same pilot each time; ``nfe`` counts the samples' evaluations.

    steps: evaluations, 2 and more. pilot: starts of the pilot, 16 and more. search: of `fit`. t_min: where the flow ends, > 0.
    seed: of the pilot.
    """

    def __init__(
        self, steps: int = 10, pilot: int = 128, search: int | None = None, t_min: float = T_MIN, seed: int = 0
    ) -> None:
        check_count("steps", steps, least=2)
        check_count("pilot", pilot, least=16)
        check_number("t_min", t_min, above=0.0)
        check_count("seed", seed, least=0)
        self.steps, self.pilot, self.search, self.t_min, self.seed = steps, pilot, search, t_min, seed

    def __repr__(self) -> str:
        return f"Fast(steps={self.steps}, pilot={self.pilot}, search={self.search}, t_min={self.t_min:g}, seed={self.seed})"

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> FittedSampler:
        """What `fit` makes of the model, at hundreds to thousands of evaluations of a batch of ``pilot``."""
        shape = (self.pilot, *event_shape)
        pilot = Pilot.of(sde, score, shape, t_min=self.t_min, seed=self.seed, dtype=dtype, device=device)
        return fit(sde, score, self.steps, pilot=pilot, search=self.search)

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        event = sde.project(x).shape[1:]
        ready = self.prepared(sde, score.score, event, dtype=x.dtype, device=x.device)
        return ready.run(sde, score, x, noise, callback)
