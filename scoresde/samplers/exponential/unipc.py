"""UniPC of Zhao et al. 2023 (arXiv:2302.04867): DPM-Solver++ with a corrector that needs no further evaluation.

The corrector of the state x_i is a step from x_(i-1) by the polynomial that also goes through the prediction at x_i. It
raises the order by one. ``multistep.py`` has the method, and ``history.py`` its coefficients.
"""

from __future__ import annotations

from scoresde.samplers.discretization import Grid, Times, discretization, plain_steps
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import DataParameterization
from scoresde.samplers.grids import focused

_THIRD = 15
"""Number of steps from which the default order is 3."""


class UniPC(ExponentialMultistep):
    """UniPC-p: p = ``order`` predictions in a polynomial, and the corrector. It converges with order p + 1.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes one evaluation of the score.
        order: 1 to 4. None: 3 from 15 steps on; 2 for fewer steps, where a higher order is less stable.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Zhao et al. 2023, arXiv:2302.04867.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int | None = None,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        if order is None:
            order = 2 if discretization(plain_steps(steps), grid, t_min).steps < _THIRD else 3
        super().__init__(steps, order, DataParameterization(), corrector=True, grid=grid, t_min=t_min, denoise=denoise)
