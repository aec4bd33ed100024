"""Objectives with losses that are not finite, for benchmarks/faults.py and the tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Transform
from scoresde.jump import ContinuousBound, JumpProcess
from scoresde.losses import (
    DenoisingScoreMatching,
    HybridLoss,
    Objective,
    ScheduleVariance,
    SlicedScoreMatching,
    TargetLikelihood,
    TimeDistribution,
    VariationalDiffusionLoss,
    VariationalSchedule,
)
from scoresde.sde import SDE, LinearSDE


class _SometimesBad(Objective):
    """An objective whose loss is NaN for the examples at positions 2 and 5 of every eight, in the given steps.

    The examples are identified by their position, so the fault does not depend on processes and micro-batches.
    """

    steps: frozenset[int] = frozenset()
    _factor: Tensor

    def draw(self, x0: Tensor, *, step: int | None = None, indices: Tensor | None = None, **given: Any) -> Any:
        assert indices is not None
        bad = torch.isin(indices % 8, torch.tensor([2, 5])) & (step in self.steps)
        self._factor = torch.where(bad, math.nan, 1.0)
        return super().draw(x0, step=step, indices=indices, **given)  # type: ignore[safe-super]

    def evaluate(self, model: Any, draw: Any, **condition: Any) -> Tensor:
        loss: Tensor = super().evaluate(model, draw, **condition)  # type: ignore[safe-super]
        return loss * self._factor


class Bad(_SometimesBad, DenoisingScoreMatching):
    """`DenoisingScoreMatching` with losses that are not finite in ``steps``."""

    def __init__(self, sde: LinearSDE, weighting: str = "variance", seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, weighting, seed=seed)
        self.steps = frozenset(steps)


class BadTargets(_SometimesBad, TargetLikelihood):
    """`TargetLikelihood` with losses that are not finite in ``steps``."""

    def __init__(self, sde: LinearSDE, target: str = "label", seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, target, seed=seed)
        self.steps = frozenset(steps)


class BadSliced(_SometimesBad, SlicedScoreMatching):
    """`SlicedScoreMatching` with losses that are not finite in ``steps``."""

    def __init__(self, sde: SDE, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, seed=seed)
        self.steps = frozenset(steps)


class BadHybrid(_SometimesBad, HybridLoss):
    """`HybridLoss` with losses that are not finite in ``steps``."""

    def __init__(
        self,
        sde: SDE,
        transform: Transform | None = None,
        *,
        times: TimeDistribution | None = None,
        seed: int = 0,
        steps: Sequence[int] = (),
    ) -> None:
        super().__init__(sde, transform, times=times, seed=seed)
        self.steps = frozenset(steps)


class BadSchedule(_SometimesBad, ScheduleVariance):
    """`ScheduleVariance` with losses that are not finite in ``steps``."""

    def __init__(self, sde: LinearSDE, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, seed=seed)
        self.steps = frozenset(steps)


class BadBound(_SometimesBad, VariationalDiffusionLoss):
    """`VariationalDiffusionLoss` with losses that are not finite in ``steps``."""

    def __init__(self, sde: LinearSDE, transform: Transform, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, transform, seed=seed)
        self.steps = frozenset(steps)


class BadEnds(_SometimesBad, VariationalSchedule):
    """`VariationalSchedule` with losses that are not finite in ``steps``."""

    def __init__(self, sde: LinearSDE, transform: Transform, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(sde, transform, seed=seed)
        self.steps = frozenset(steps)


class BadJumps(_SometimesBad, ContinuousBound):
    """`ContinuousBound` of a jump process with losses that are not finite in ``steps``."""

    def __init__(self, process: JumpProcess, seed: int = 0, steps: Sequence[int] = ()) -> None:
        super().__init__(process, seed=seed)
        self.steps = frozenset(steps)
