r"""Adams' methods in coordinates in which the probability flow of Gaussian data stands still.

For scalar coefficients, with S = c^2 alpha^2 + sigma^2 for data of standard deviation c and w = x / sqrt(S),

.. math:: \frac{dw}{du} = N, \qquad N = -\frac{\sigma^2}{\sqrt{S}} \left(\nabla \log p_t(x) + \frac{x}{S}\right).

The Adams-Bashforth method integrates the polynomial through the last ``order`` values of N. The corrector is the
Adams-Moulton method.
"""

from __future__ import annotations

from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import Whitened
from scoresde.samplers.grids import focused


class AdamsBashforth(ExponentialMultistep):
    """Adams-Bashforth method in whitened coordinates.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes one evaluation of the score.
        order: Number of predictions in a polynomial, 1 to 4.
        data_std: Standard deviation of the data about zero, > 0.
        corrector: Correct each state by the Adams-Moulton method, with the evaluation made there.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 2,
        data_std: float = 0.5,
        *,
        corrector: bool = False,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        parameterization = Whitened(data_std=data_std)
        super().__init__(steps, order, parameterization, corrector=corrector, grid=grid, t_min=t_min, denoise=denoise)
        self.data_std = data_std
