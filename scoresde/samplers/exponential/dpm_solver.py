r"""DPM-Solver++ of Lu et al. 2022 (arXiv:2211.01095): exponential integrators that interpolate the prediction of the data.

With lambda = ln(alpha / sigma), a step from t to s has h = lambda_s - lambda_t. With r = h' / h for the previous step
h' and its prediction D', k = 1 + eta^2 and G = 1 - e^(-k h), the second-order multistep method is

.. math::

    x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta^2 h} x_t + \alpha_s G D
        + \alpha_s \left(1 - \frac{G}{k h}\right) \frac{D - D'}{r} + \sigma_s \sqrt{1 - e^{-2 \eta^2 h}}\, z,
    \qquad D = E[x_0 | x_t].

eta = 0 is the probability flow, eta = 1 is SDE-DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.multistep import ExponentialMultistep, add_noise
from scoresde.samplers.exponential.parameterization import DataParameterization
from scoresde.samplers.exponential.runge_kutta import ExponentialRungeKutta
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.grids import focused
from scoresde.samplers.instants import Interval


class DPMSolverPlusPlus(ExponentialMultistep):
    """DPM-Solver++(2M); (3M) with ``order=3``; SDE-DPM-Solver++(2M) with ``eta=1``.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes one evaluation of the score.
        order: Number of predictions in a polynomial, 1 to 4.
        eta: Amount of noise. 0 is the probability flow, 1 is the reverse SDE.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Lu et al. 2022, arXiv:2211.01095.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 2,
        eta: float = 0.0,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, DataParameterization(), eta, grid=grid, t_min=t_min, denoise=denoise)

    def step(self, model: Model, x: Tensor, interval: Interval, z: Any, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The equation above for orders 1 and 2; the general step for higher orders."""
        if self.order > 2:
            return super().step(model, x, interval, z, past)
        at, to, eta = interval.at, interval.to, self.eta
        h, k = to.lam - at.lam, 1.0 + eta**2
        gain, data = -math.expm1(-k * h), model.data(x, at)
        mean = torch.add(to.sigma / at.sigma * math.exp(-(eta**2) * h) * x, data, alpha=to.alpha * gain)
        if past is not None and self.order == 2:
            before, r = past[0], past[1] / h
            mean.add_(data - before, alpha=to.alpha * (1.0 - gain / (k * h)) / r)
        return add_noise(mean, z, to.sigma, eta, h), mean, (data, h)


class DPMSolverSingleStep(ExponentialRungeKutta):
    """DPM-Solver++(2S); (3S) with ``order=3``. These methods use no predictions of previous steps.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes ``order`` evaluations of the score.
        order: 1, 2 or 3.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Lu et al. 2022, arXiv:2211.01095.
    """

    def __init__(
        self,
        steps: Times = 10,
        order: int = 2,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, DataParameterization(), grid=grid, t_min=t_min, denoise=denoise)
