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

import torch
from torch import Tensor

from scoresde._validation import check_choice
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.correctors import Corrector
from scoresde.samplers.predictors import Predictor, ReverseDiffusion
from scoresde.samplers.walk import Step, Stepping, Steps, given_steps
from scoresde.sde import SDE, LinearSDE


class PredictorCorrector(Sampler):
    """Any predictor with any corrector.

    predictor: a `Predictor`; None for Langevin dynamics alone. `ReverseDiffusion()` unless given.
    corrector: a `Corrector`, or None.
    steps: number N of predictor steps, N + 1 descending times, or a `Stepping`: ``ExactSteps(N, grid)``,
        ``PaperSteps(N)``.
    denoise: return the mean of the last step (the paper's choice), or the noisy state.
    """

    def __init__(
        self,
        predictor: Predictor | None = ReverseDiffusion(),  # noqa: B008  (frozen)
        corrector: Corrector | None = None,
        steps: Steps | Stepping = 1000,
        *,
        denoise: bool = True,
    ) -> None:
        for name, part, kind in (("predictor", predictor, Predictor), ("corrector", corrector, Corrector)):
            if part is not None and not isinstance(part, kind):
                raise TypeError(f"{name}={part!r} is not a {kind.__name__}; None leaves it out")
        check_choice("denoise", denoise, (True, False))
        if predictor is None and corrector is None:
            raise ValueError("predictor=None and corrector=None: give at least one")
        self.predictor, self.corrector, self.denoise = predictor, corrector, denoise
        self.stepping = steps if isinstance(steps, Stepping) else given_steps(steps)

    def __repr__(self) -> str:
        return (
            f"PredictorCorrector(predictor={self.predictor!r}, corrector={self.corrector!r}, steps={self.stepping!r})"
        )

    def start_time(self, sde: SDE) -> float:
        """The first time of the grid."""
        return self.stepping.start_time(_check_linear(sde))

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        _check_linear(sde)
        predictor = self.predictor
        if predictor is not None:
            predictor.check(sde)
        walk = self.stepping.walk(sde)
        draws = self._draws(len(walk), x, noise)
        if predictor is not None:
            predictor = predictor.prepare(sde, walk, x)
        mean = x
        for step in walk.steps(like=x):
            t = step.t.expand(len(x))
            x, mean = self._correct(score, step, t, x, draws)
            if predictor is not None:
                z = self._draw(predictor, draws)
                x = predictor.approach(sde, step, x, z)
                x, mean = predictor.step(sde, step, x, score(x, t), z)
            callback(step.index + 1, step.s, x)
        return (mean if self.denoise else x), walk.times

    def _draws(self, steps: int, x: Tensor, noise: NoiseSource) -> dict[str, Iterator[Tensor]]:
        """The standard normals of each part, one after the other: draw k of step i has the key i * (draws a step) + k."""
        each = {
            "predictor": 0 if self.predictor is None else self.predictor.draws,
            "corrector": 0 if self.corrector is None else self.corrector.steps,
        }
        return {
            purpose: noise.normals(x.shape[1:], steps=range(steps * draws), purpose=purpose, dtype=x.dtype)
            for purpose, draws in each.items()
        }

    @staticmethod
    def _draw(predictor: Predictor, draws: dict[str, Iterator[Tensor]]) -> Tensor | None:
        """The noise of a step."""
        if not predictor.stochastic:
            return None
        z = [next(draws["predictor"]) for _ in range(predictor.draws)]
        return z[0] if predictor.draws == 1 else torch.stack(z)

    def _correct(
        self, score: CountedScore, step: Step, t: Tensor, x: Tensor, draws: dict[str, Iterator[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        mean = x
        if self.corrector is not None:
            for _ in range(self.corrector.steps):
                x, mean = self.corrector.step(step, x, score(x, t), next(draws["corrector"]))
        return x, mean


def _check_linear(sde: SDE) -> LinearSDE:
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no closed-form transition, which predictor-corrector sampling needs")
    return sde
