r"""The sampler of EDM (Karras et al. 2022, arXiv:2206.00364, algorithm 2).

For scalar coefficients the derivative of x / alpha by rho = sigma / alpha is the prediction of the noise. Heun's method
is

.. math::

    \tilde x_s &= \frac{\alpha_s}{\alpha_t} x_t + \alpha_s (\rho_s - \rho_t)\, \epsilon(x_t, t),

    x_s &= \frac{\alpha_s}{\alpha_t} x_t
        + \alpha_s (\rho_s - \rho_t)\, \frac{\epsilon(x_t, t) + \epsilon(\tilde x_s, s)}{2}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.churn import Churn
from scoresde.samplers.exponential.parameterization import NoiseParameterization, noise_to_signal
from scoresde.samplers.exponential.runge_kutta import ExponentialRungeKutta
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.grids import karras
from scoresde.samplers.instants import Interval, instants, with_noise
from scoresde.sde import LinearSDE, ScalarSDE


class EDM(ExponentialRungeKutta):
    """The sampler of EDM: Heun's method in sigma / alpha, with optional churn.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes two evaluations of the score, or one without
            ``heun``.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        heun: False for Euler's method.
        churn: Noise that is added before each step. None: the deterministic sampler. Churn needs a process whose maps
            commute. For Langevin diffusion, where this sampler needs about 60 steps also without churn, use
            ``ExponentialRungeKutta(steps, 2, Whitened(data_std=...), heun=True, churn=churn)``.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Karras et al. 2022, arXiv:2206.00364.
    """

    def __init__(
        self,
        steps: Times = 18,
        *,
        grid: Grid = karras,
        t_min: float | None = None,
        heun: bool = True,
        churn: Churn | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(
            steps,
            2 if heun else 1,
            NoiseParameterization(noise_to_signal),
            heun=heun,
            churn=churn,
            grid=grid,
            t_min=t_min,
            denoise=denoise,
        )

    def has_step(self, process: LinearSDE) -> bool:
        return isinstance(process, ScalarSDE)

    def prepared_intervals(self, sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
        with_noise(sde, intervals)
        if self.churn is None:
            return intervals
        times = self.churn.times(sde, torch.tensor([i.at.t for i in intervals], dtype=torch.float64))
        raised = instants(sde, times, like=intervals[0].at.time)
        return [replace(interval, churned=at) for interval, at in zip(intervals, raised, strict=True)]

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The equations above, after churn."""
        at, to = interval.at, interval.to
        if self.churn is not None and interval.churned is not None:
            x, at = self.churn.added(x, at, interval.churned, z), interval.churned
        start, rise = to.alpha / at.alpha * x, to.sigma - to.alpha * at.sigma / at.alpha
        noise = model.noise(x, at)
        x = start + rise * noise
        if self.heun:
            x = start + 0.5 * rise * (noise + model.noise(x, to))
        return x, x, None
