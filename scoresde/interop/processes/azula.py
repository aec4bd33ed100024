r"""Noise schedules of azula (probabilists/azula).

Time t runs from 0 (data) to 1 (noise), and x_t ~ N(alpha_t x, sigma_t^2 I), both as here. A schedule states alpha and
sigma only. F and g are derived by automatic differentiation, so ``check`` tests whether the pair is a process at all,
whether its noise covers the data at t = 1, and the prior::

    N(0, (alpha_1^2 + sigma_1^2) I)

from which azula's samplers start by default (``Sampler.init`` with mean 0 and variance 1 of the data).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde.interop.processes.methods import check_methods
from scoresde.sde import ScheduleSDE


class AzulaSDE(ScheduleSDE):
    r"""Process of a noise schedule of azula.

    .. math::
        x_t = \alpha_t\, x_0 + \sigma_t\, z, \qquad t \in [0, 1]

    The prior is :math:`N(0, (\alpha_1^2 + \sigma_1^2) I)`.

    Args:
        schedule: A schedule, e.g. ``azula.noise.VPSchedule()``.

    Raises:
        TypeError: If ``schedule`` is not an object of this kind.

    Example:
        >>> import torch
        >>> from scoresde.interop import AzulaSDE
        >>> sde = AzulaSDE(lambda t: (1.0 - 0.999 * t, t + 1e-3))  # an azula schedule returns alpha and sigma
        >>> sde.alpha(torch.tensor(1.0))
        tensor(0.0010)
    """

    def __init__(self, schedule: Any) -> None:
        check_methods("schedule", schedule, ("__call__",), "a noise schedule of azula")
        super().__init__()
        self.schedule = schedule

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        self.check_time(t)
        alpha, sigma = self.schedule(t.to(torch.float64).clamp(0.0, self.T))
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self._scales(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self._scales(t)[1]

    @torch.no_grad()
    def prior_std(self) -> float:
        """Standard deviation sqrt(alpha_1^2 + sigma_1^2) of the start of azula's samplers."""
        alpha, sigma = self._scales(torch.tensor(self.T, dtype=torch.float64))
        return float(alpha.hypot(sigma))
