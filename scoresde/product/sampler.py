r"""The sampler of product processes: a step of an SDE's predictor and a step of the jump processes, on one grid.

At each step from t to s the model is evaluated once. Its score goes to the predictor, its logits to the posterior of the
jump processes, and both parts are drawn independently given x_t:

.. math::
    x_s^{real} \sim \text{predictor}(x_t^{real}, \nabla \log p_t), \qquad
    x_s^j \sim \sum_{x_0} q_j(x_s^j \mid x_t^j, x_0)\, p(x_0^j = x_0 \mid x_t)

For an exact model the error has order 1 in the number of steps, as for ``AncestralSampler``. The grid ends at t_min. The
last step returns the mean of the real coordinates, and draws the categorical ones from p(x_0 | x_t), so that no mask
remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_number, shown
from scoresde.conditions import given
from scoresde.jump.sampler import Callback
from scoresde.noise import NoiseSource
from scoresde.product.process import ProductProcess, check_product_model
from scoresde.samplers.arguments import whole_shape
from scoresde.samplers.base import CountedScore, SampleResult
from scoresde.samplers.discretization import Discretization, Grid, Steps, discretization, plain_steps
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.grids import uniform
from scoresde.samplers.predictor_corrector.ddim import DDIM
from scoresde.samplers.predictor_corrector.predictors import Predictor
from scoresde.score.data_variance import MODEL
from scoresde.sde.scores import in_evaluation_mode


class ProductSampler:
    """A step of a predictor for the real coordinates, and an ancestral step for the categorical ones, on one grid.

    Args:
        predictor: The step of the real coordinates: ``DDIM()``, ``Ancestral()``, ``EulerMaruyama()`` and others, without a grid
            of its own. ``DDIM()`` by default.
        steps: Number of steps N, each with one evaluation of the model, or N + 1 descending times.
        grid: Function of ``scoresde.samplers.grids`` that makes the times.
        t_min: Last time. None takes the SDE's own ``t_min`` if it has one, else 1e-3.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.product import LabeledMixture, ProductProcess, ProductSampler
        >>> mixture = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(2)])
        >>> result = ProductSampler(steps=20)(process, mixture.model(process), (4, 2))
        >>> result.samples.shape, result.nfe
        (torch.Size([4, 2]), 20)
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        steps: Steps = 100,
        *,
        grid: Grid = uniform,
        t_min: float | None = None,
    ) -> None:
        predictor = DDIM() if predictor is None else predictor
        if not isinstance(predictor, Predictor) or predictor.draws_per_step != 1:
            raise TypeError(
                f"predictor={shown(predictor)} is not allowed: give DDIM(), Ancestral(), EulerMaruyama(), ..."
            )
        if type(predictor).before_score is not Predictor.before_score or getattr(predictor, "variance", None) == MODEL:
            raise TypeError(f"predictor={predictor!r} needs more than the score: give e.g. DDIM() or Ancestral()")
        if not predictor.has_default_grid:
            raise ValueError(
                f"predictor={predictor!r} has a grid of its own: give steps, grid and t_min to the sampler"
            )
        plain = plain_steps(steps)
        if isinstance(plain, Discretization):
            raise ValueError(f"steps={shown(steps)} is not allowed: give a whole number >= 1, or descending times")
        if t_min is not None:
            check_number("t_min", t_min, least=0.0)
        self.predictor, self.steps, self.grid, self.t_min = predictor, plain, grid, t_min
        discretization(plain, grid, t_min)

    def check_process(self, process: ProductProcess) -> None:
        """Check that the grid begins at T, where the samples start.

        Args:
            process: The process.

        Raises:
            ValueError: If it begins below T.
        """
        times = discretization(self.steps, self.grid, self.t_min).times(process.sde)
        if float(times[0]) < process.T * (1.0 - 1e-6):
            raise ValueError(f"steps begins at t={float(times[0]):g}: give a grid that begins at T={process.T:g}")

    @torch.no_grad()
    @in_evaluation_mode("model")
    def __call__(
        self,
        process: ProductProcess,
        model: Callable[..., Tensor],
        shape: Sequence[int],
        *,
        condition: Mapping[str, Any] | None = None,
        seed: int = 0,
        first: int = 0,
        noise: NoiseSource | None = None,
        device: torch.device | str | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Draw samples.

        Args:
            process: The process of the model.
            model: A callable (x, t) that returns the packed output. Its networks are in evaluation mode during the run.
            shape: ``(B, d)``.
            condition: Conditions of the model by name. A tensor has one row for each sample, or no dimension.
            seed: Key of the draws, in [0, 2^64). Sample i depends only on (seed, first + i), up to rounding.
            first: Index of the first sample.
            noise: A source of noise that replaces ``(seed, first)``.
            device: Device of the samples.
            callback: A function ``(k, t, state)``, called with the start (k = 0) and after every step k.

        Returns:
            The packed samples, float32, and statistics of the run.

        Raises:
            ValueError: If an argument is not allowed, or the model returns NaN.
        """
        shape = whole_shape(shape)
        check_product_model(process, model)
        count = process.check_shape(shape)
        self.check_process(process)
        model = given(model, condition)
        noise = NoiseSource.for_batch(noise, count, seed, first, device)
        x = process.prior_sample(shape, noise=noise)
        plan = discretization(self.steps, self.grid, self.t_min)
        times, predictor = plan.times(process.sde), self.predictor
        real, states = process.split(x)
        intervals = predictor.prepared_intervals(process.sde, plan.intervals(process.sde, times, real))
        draws, sources = predictor.draws(len(intervals), real, noise, intervals), process.noises(noise)
        report = callback or _ignored
        report(0, times[0], x)
        past, mean = None, real
        for k, interval in enumerate(intervals):
            score, logits = process.split_output(model(process.join(real, states), interval.at.time), x)
            known = Model(CountedScore(lambda x, t, score=score: score), None)  # type: ignore[misc]
            real, mean, past = predictor.step(known, real, interval, next(draws), past)
            s = torch.zeros_like(times[0]) if k == len(intervals) - 1 else times[k + 1]
            states = tuple(
                group.jump.reverse_sample(part, own, s, times[k], source, step=k)
                for group, part, own, source in zip(process.groups, states, logits, sources, strict=True)
            )
            report(k + 1, times[k + 1], process.join(real, states))
        x = process.join(mean, states)
        failed = ~x.isfinite().all(1)
        if bool(failed.any()):
            raise FloatingPointError(f"samples {noise.indices[failed].tolist()[:8]} are not finite: give more steps")
        spent = torch.full((count,), len(intervals))
        return SampleResult(
            x, x, len(intervals), times, noise.seed, int(noise.indices[0]), torch.zeros(count, dtype=torch.bool), spent
        )


def _ignored(step: int, t: Tensor, x: Tensor) -> None:
    pass
