r"""DEIS of Zhang & Chen 2023 (arXiv:2204.13902): the prediction of the noise is interpolated by polynomials of the time.

For scalar coefficients, with rho = sigma / alpha and the polynomial through the last ``order`` predictions of the
noise,

.. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t + \alpha_s \int_{\rho_t}^{\rho_s} \epsilon(\rho)\, d\rho.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scoresde.samplers.discretization import Grid, Times
from scoresde.samplers.exponential.multistep import ExponentialMultistep
from scoresde.samplers.exponential.parameterization import NoiseParameterization, diffusion_time
from scoresde.samplers.grids import focused


class DEIS(ExponentialMultistep):
    """tAB-DEIS: polynomials of t. With ``variable=noise_to_signal`` it is rhoAB-DEIS.

    Args:
        steps: Number of steps N, or N + 1 descending times. A step takes one evaluation of the score.
        order: Number of predictions in a polynomial, 1 to 4.
        variable: Variable of the polynomials, see :class:`Parameterization`.
        grid: Function of ``scoresde.samplers.grids``.
        t_min: Last time. None: the process's own if it has one, otherwise 1e-3.
        denoise: Return E[x_0 | x] instead of x at the end. This takes one more evaluation.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Zhang & Chen 2023, arXiv:2204.13902.
    """

    def __init__(
        self,
        steps: Times = 20,
        order: int = 3,
        variable: Callable[[Tensor, Tensor], Tensor] = diffusion_time,
        *,
        grid: Grid = focused,
        t_min: float | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(steps, order, NoiseParameterization(variable), grid=grid, t_min=t_min, denoise=denoise)

    @property
    def variable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Variable of the polynomials."""
        return self.parameterization.variable
