"""Accurate paths of a model's flow: what samplers are fitted to, and the yardstick of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde._validation import check_count, check_counts, check_number, check_sizes
from scoresde.samplers import grids
from scoresde.samplers.base import CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import linear
from scoresde.samplers.exponential.multistep import UniPC
from scoresde.samplers.fitted.pilot import PilotGrid, pilot_grid
from scoresde.sde import LinearSDE, Score
from scoresde.sde.scores import HALF

_KEPT = 50
"""States of an accurate path that are kept."""


@dataclass(frozen=True)
class Pilot:
    """Accurate paths of the flow from B starts: what samplers of any number of steps are fitted to, and judged by.

    process: the process. grid: its pilot grid. mean: (*event) and data_std: of the data.
    u: (K,) falling and states: (K, B, *state), the paths. ends: (B, *state), E[x_0 | x] at their ends.
    evaluations: of the score, each for the batch, that it took.
    """

    process: LinearSDE
    grid: PilotGrid
    mean: Tensor
    data_std: float
    u: Tensor
    states: Tensor
    ends: Tensor
    evaluations: int

    def __post_init__(self) -> None:
        check_number("data_std", self.data_std, above=0.0)
        check_count("evaluations", self.evaluations, least=1)
        check_sizes("u", self.u, "K")
        check_sizes("states", self.states, len(self.u), "...")
        check_sizes("ends", self.ends, "B", "...")
        if self.states.shape[1:] != self.ends.shape:
            raise ValueError(
                f"states has shape {tuple(self.states.shape)} and ends has {tuple(self.ends.shape)}: give (K, B, *state) "
                "and (B, *state)"
            )
        check_sizes("mean", self.mean, *self.grid.event_shape)

    @classmethod
    def of(
        cls,
        sde: LinearSDE,
        score: Score,
        shape: Sequence[int],
        *,
        t_min: float = grids.T_MIN,
        fine: int = 200,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Pilot:
        """Solve the flow accurately for a batch of starts, at ``2 * fine + 21`` evaluations of the batch.

        Args:
            sde: Process of the score.
            score: (x, t) -> score.
            shape: (B, *event), B at least 16; 128 starts are enough for most fits to hold on other starts.
            t_min: Where the paths end, > 0.
            fine: Steps of a path, at least 40.
            seed: Key of the starts.
            dtype: Of the states; in half precision that of the x that the score gets, with states in float32.
            device: Of the states.
        """
        check_counts("shape", shape)
        check_count("shape[0]", shape[0] if shape else 0, least=16)
        process, counted = linear(sde, "fit"), CountedScore(score, shape[0], dtype)
        dtype = torch.float32 if dtype in HALF else dtype

        def draw(sampler: Sampler, keep: int = 0):  # type: ignore[no-untyped-def]
            return sampler(process, counted, shape, seed=seed, dtype=dtype, device=device, keep_every=keep)

        rough = draw(UniPC(20, grid=grids.log_noise, t_min=t_min)).samples
        mean = rough.mean(0)
        data_std = float((rough - mean).double().square().mean().sqrt())
        grid = pilot_grid(
            process, counted, shape, t_min=t_min, fine=fine, data_std=data_std, seed=seed, dtype=dtype, device=device
        )
        path = draw(UniPC(fine, grid=grid), max(1, fine // _KEPT))
        u = process.log_spread(path.times[:: max(1, fine // _KEPT)])
        return cls(process, grid, mean, data_std, u, path.trajectory.states[: len(u)], path.state, counted.calls)

    @property
    def starts(self) -> Tensor:
        """(B, *state) at T."""
        return self.states[0]

    def part(self, rows: slice) -> Pilot:
        """The paths from some of the starts."""
        return replace(self, states=self.states[:, rows], ends=self.ends[rows])

    def distances(self, ends: Tensor) -> Tensor:
        """(B,) `distances` of ``ends`` (B, *state) from the paths' ends."""
        return distances(ends, self.ends)

    def error(self, ends: Tensor) -> float:
        """The mean of `distances`."""
        return float(self.distances(ends).mean())

    def reference(self, steps: int) -> Sampler:
        """The method by which the paths were solved, with ``steps`` evaluations."""
        return UniPC(steps - 1, grid=self.grid)


def distances(ends: Tensor, wanted: Tensor) -> Tensor:
    """(B,) float64, root mean square over coordinates of ``ends - wanted`` (B, *state); inf where it is not finite."""
    away = (ends - wanted).double().flatten(1).square().mean(1).sqrt()
    return away.nan_to_num(nan=float("inf"))
