"""Accurate paths of a model's probability flow. Samplers are fitted to them, and their errors are measured against them.

The paths are solved by UniPC with ``fine`` steps, on a grid that is adapted to the model (``grid.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde._validation import check_count, check_counts, check_number, check_sizes
from scoresde.samplers import grids
from scoresde.samplers.base import CountedScore, Sampler
from scoresde.samplers.exponential.coefficients import linear_process
from scoresde.samplers.exponential.unipc import UniPC
from scoresde.samplers.fitted.grid import AdaptiveGrid, adaptive_grid
from scoresde.sde import LinearSDE, Score
from scoresde.sde.scores import HALF

_KEPT = 50
"""Number of states of each path that are stored."""


@dataclass(frozen=True)
class Pilot:
    """Accurate paths of the probability flow from B starts. One pilot serves fits with any number of steps.

    Args:
        process: The process.
        grid: Its adaptive grid.
        mean: (*event), mean of the data.
        data_std: Standard deviation of the data about its mean.
        u: (K,), descending: the log spreads of the stored states.
        states: (K, B, *state), the paths.
        ends: (B, *state), E[x_0 | x] at the ends of the paths.
        evaluations: Number of evaluations of the score that the paths took, each for the whole batch.

    Raises:
        ValueError: If the shapes do not fit together.
    """

    process: LinearSDE
    grid: AdaptiveGrid
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
        """Solve the flow accurately for a batch of starts. This takes ``2 * fine + 21`` evaluations of the batch.

        Args:
            sde: Process of the score.
            score: (x, t) -> score.
            shape: (B, *event), with B at least 16. Most fits on 128 starts also hold on other starts.
            t_min: Time at which the paths end, > 0.
            fine: Number of steps of a path, at least 40.
            seed: Seed of the starts.
            dtype: Dtype of the states. In half precision it is the dtype of the score's x, and the states are float32.
            device: Device of the states.

        Returns:
            The pilot.

        Raises:
            TypeError: If the process is not linear.
            ValueError: If an argument is out of range.
        """
        check_counts("shape", shape)
        check_count("shape[0]", shape[0] if shape else 0, least=16)
        process, counted = linear_process(sde, "fit"), CountedScore(score, shape[0], dtype)
        dtype = torch.float32 if dtype in HALF else dtype

        def draw(sampler: Sampler, keep: int = 0):  # type: ignore[no-untyped-def]
            return sampler(process, counted, shape, seed=seed, dtype=dtype, device=device, keep_every=keep)

        rough = draw(UniPC(20, grid=grids.log_noise, t_min=t_min)).samples
        mean = rough.mean(0)
        data_std = float((rough - mean).double().square().mean().sqrt())
        grid = adaptive_grid(
            process, counted, shape, t_min=t_min, fine=fine, data_std=data_std, seed=seed, dtype=dtype, device=device
        )
        path = draw(UniPC(fine, grid=grid), max(1, fine // _KEPT))
        u = process.log_spread(path.times[:: max(1, fine // _KEPT)])
        return cls(process, grid, mean, data_std, u, path.trajectory.states[: len(u)], path.state, counted.calls)

    @property
    def starts(self) -> Tensor:
        """The states (B, *state) at T."""
        return self.states[0]

    def subset(self, rows: slice) -> Pilot:
        """The paths from some of the starts.

        Args:
            rows: Indices of the starts.

        Returns:
            A pilot with these paths.
        """
        return replace(self, states=self.states[:, rows], ends=self.ends[rows])

    def distances(self, ends: Tensor) -> Tensor:
        """Distances of end points from the ends of the paths.

        Args:
            ends: (B, *state), where a sampler ends from the same starts.

        Returns:
            (B,), root mean square distance per coordinate; inf if it is not finite.
        """
        return distances(ends, self.ends)

    def error(self, ends: Tensor) -> float:
        """The mean of :meth:`distances`.

        Args:
            ends: (B, *state), where a sampler ends from the same starts.

        Returns:
            The error, in units of the data.
        """
        return float(self.distances(ends).mean())

    def reference(self, steps: int) -> Sampler:
        """The method that solved the paths, with another number of steps.

        Args:
            steps: Number of evaluations of the score.

        Returns:
            The sampler.
        """
        return UniPC(steps - 1, grid=self.grid)


def distances(ends: Tensor, wanted: Tensor) -> Tensor:
    """Root mean square over coordinates of ``ends - wanted`` (B, *state): (B,) float64, inf if it is not finite."""
    away = (ends - wanted).double().flatten(1).square().mean(1).sqrt()
    return away.nan_to_num(nan=float("inf"))
