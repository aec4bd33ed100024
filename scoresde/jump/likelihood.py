"""How the likelihood of a model of a jump process is computed: the bound of ``bounds.py`` with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, shown
from scoresde.jump import grids
from scoresde.jump.base import JumpProcess
from scoresde.jump.bounds import TIMES, JumpBound, jump_bound
from scoresde.jump.grids import check_grid
from scoresde.noise import NoiseSource
from scoresde.samplers.discretization import plain_steps


@dataclass(frozen=True)
class JumpLikelihood:
    """How the lower bound of log p(x) of discrete data is computed.

    Args:
        steps: Number of steps K, or K + 1 descending times that end at 0, for the bound of an ``AncestralSampler`` with these
            steps. None for the bound in continuous time.
        grid: Function of ``scoresde.jump.grids`` that makes the times of K steps.
        draws: Number of terms that a replicate evaluates. None for all steps, or 32 times in continuous time.
        replicates: Number of repetitions of the whole estimate. Two or more give a standard error for each event.

    References:
        Austin et al. 2021, arXiv:2107.03006. Campbell et al. 2022, arXiv:2205.14987.

    Example:
        >>> from scoresde.jump import Absorbing, JumpLikelihood, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> JumpLikelihood(draws=8)(process, chain.model(process), chain.sample(4, 16)).nfe
        16
    """

    steps: int | Sequence[float] | Tensor | None = None
    grid: Callable[[JumpProcess, int], Tensor] = grids.equal_times
    draws: int | None = None
    replicates: int = 2

    def __post_init__(self) -> None:
        steps = None if self.steps is None else plain_steps(self.steps)
        if not isinstance(steps, int | tuple | None):
            raise ValueError(f"steps={shown(self.steps)} is not allowed: give a whole number >= 1, or descending times")
        object.__setattr__(self, "steps", steps)
        if self.draws is not None:
            check_count("draws", self.draws)
        check_count("replicates", self.replicates)

    def times(self, process: JumpProcess) -> Tensor | None:
        """The descending times of the steps.

        Args:
            process: The process.

        Returns:
            The times, (K + 1,) float64, or None in continuous time.

        Raises:
            ValueError: If they are not a grid of the process.
        """
        if self.steps is None:
            return None
        if isinstance(self.steps, tuple):
            return check_grid("steps", process, torch.tensor(self.steps, dtype=torch.float64))
        assert isinstance(self.steps, int)  # the constructor has converted them
        return check_grid("grid", process, self.grid(process, self.steps))

    @property
    def summary(self) -> str:
        """The settings in one line."""
        if self.steps is None:
            what = f"{self.draws or TIMES} times in continuous time"
        else:
            count = self.steps if isinstance(self.steps, int) else len(self.steps) - 1
            what = f"{count} steps" + ("" if self.draws is None else f", {self.draws} of them drawn for an event")
        return f"{what}, {self.replicates} replicate{'s' if self.replicates > 1 else ''}"

    def __call__(
        self,
        process: JumpProcess,
        model: Callable[..., Tensor],
        x: Tensor,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> JumpBound:
        """Lower bounds of log p(x).

        Args:
            process: The process of the model.
            model: The model, (x, t) -> logits of p(x_0 | x_t).
            x: Data, (B, *event).
            seed: Seed of the random draws.
            noise: Replaces ``seed``.
            condition: Conditions of the model by name, with one row for each sample.

        Returns:
            The bounds, as of ``jump_bound``.
        """
        return jump_bound(
            process, model, x, self.times(process), replicates=self.replicates, draws=self.draws, seed=seed, noise=noise,
            condition=condition,
        )  # fmt: skip
