r"""Schedulers of diffusers (huggingface/diffusers) with a table ``betas``.

A scheduler is discrete. It has N time steps, sorted here by their value: 0 is the least noise. Step i is the time
t = (i + 1) / N here, and t = 0 is the data. ``add_noise`` states the marginal of a step::

    x_i = alpha_i x_0 + sigma_i z        s_i = sqrt(alpha_i^2 + sigma_i^2),   a_i = alpha_i / s_i

The scale s_i is 1 for DDPM, DDIM and most others. Euler, Heun, LMS and KDPM2 schedulers have alpha = 1, because they
scale the input of the network instead. The table ``betas`` states the steps of the variance-preserving chain,
b_i^2 = prod_(j <= i) (1 - beta_j). It gives the SDE of the states multiplied by s::

    F = d ln(s b) / dt        g^2 = (s b)^2 d(b^-2) / dt

``check`` then compares ``betas`` with ``add_noise``, where a = b for a consistent scheduler. ln a, ln b, ln alpha and ln(s b) are
monotone cubic interpolations of their values at some of the time steps. The tables are float32. Differences between
ln a_i and ln b_i of at most 4 sqrt(i + 1) times the rounding unit, 1.5e-5 after 1000 steps, are rounding errors of the
products, and count as 0.

The prior is N(0, init_noise_sigma^2 I), from which the pipelines start. Steps that contain no data, alpha_i = 0, are
left out: no score is defined for them, and no SDE reaches them.

Schedulers without ``betas`` have no process of their own. The flow-matching schedulers are time grids of
``LinearInterpolantSDE`` (sigma is the time), the EDM, consistency and VE schedulers are time grids of ``EDMSDE``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.interop.processes.methods import check_methods
from scoresde.interop.processes.table import Table
from scoresde.sde import ScalarSDE

_METHODS = ("betas", "add_noise", "init_noise_sigma")
_WANTED = (
    "a scheduler of diffusers that has betas; flow-matching and EDM schedulers are time grids of LinearInterpolantSDE and "
    "EDMSDE"
)


class DiffusersSDE(ScalarSDE):
    r"""Process of a scheduler of diffusers.

    .. math::
        x_t = \alpha_i\, x_0 + \sigma_i\, z \quad \text{at} \quad t = (i + 1) / N, \qquad t \in [0, 1]

    Args:
        scheduler: A scheduler, e.g. ``DDPMScheduler()``, with all its time steps: before ``set_timesteps`` is called.
        knots: Number of time steps that the interpolation uses, evenly spaced, >= 2. All of them if there are fewer.
            The process has the exact values of the scheduler at these times. The time of ``check`` is proportional
            to it.

    Raises:
        TypeError: If ``scheduler`` is not an object of this kind.
        ValueError: If ``add_noise`` does not add more noise at each later step.
    """

    def __init__(self, scheduler: Any, knots: int = 50) -> None:
        check_methods("scheduler", scheduler, _METHODS, _WANTED)
        check_count("knots", knots, least=2)
        super().__init__(1.0)
        self.scheduler, self.knots = scheduler, knots
        # some constructors call set_timesteps(N)
        if (done := getattr(scheduler, "num_inference_steps", None)) not in (None, len(scheduler.betas)):
            raise ValueError(f"scheduler has {done} time steps, set by set_timesteps: give one before this call")
        alphas, sigmas = self.marginals()
        log_a = (alphas / alphas.hypot(sigmas)).log()
        self._check_noise(log_a)
        log_b = 0.5 * torch.log1p(-scheduler.betas[: len(alphas)].to(torch.float64)).cumsum(0)
        rounding = 4.0 * torch.finfo(scheduler.betas.dtype).eps * torch.arange(1, len(alphas) + 1).sqrt()
        log_b = torch.where((log_b - log_a).abs() <= rounding, log_a, log_b)
        self.log_a, self.log_alpha = self._table(log_a), self._table(alphas.log())
        self.log_b, self.log_sb = self._table(log_b), self._table(alphas.log() + (log_b - log_a))

    def _table(self, values: Tensor) -> Table:
        """Interpolation of a table of the scheduler that is 0 at t = 0."""
        steps = len(values)
        last = torch.linspace(0.0, steps, min(self.knots, steps) + 1, dtype=torch.float64)[1:].round().long() - 1
        zero = torch.zeros(1, dtype=torch.float64)
        return Table(torch.cat((zero, (last + 1) / steps)), torch.cat((zero, values[last])))

    @torch.no_grad()
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Coefficients of the marginals, read from ``add_noise``, of all time steps that contain data.

        Returns:
            alpha_i and sigma_i, each ``(N,)`` in float64, for increasing time steps.
        """
        steps = torch.arange(len(self.scheduler.betas))
        one, zero = torch.ones(len(steps), 1, dtype=torch.float64), torch.zeros(len(steps), 1, dtype=torch.float64)
        alphas = self.scheduler.add_noise(one, zero, steps).flatten().to(torch.float64)
        sigmas = self.scheduler.add_noise(zero, one, steps).flatten().to(torch.float64)
        return alphas[alphas > 0.0], sigmas[alphas > 0.0]

    def _check_noise(self, log_a: Tensor) -> None:
        rises = log_a.diff() >= 0.0
        if bool(rises.any()):
            i = int(rises.nonzero()[0])
            first, second = (float(log_a[k].exp()) for k in (i, i + 1))
            raise ValueError(
                f"scheduler {type(self.scheduler).__name__} does not define a process: its add_noise gives alpha = "
                f"{first:.4g} at time step {i} and {second:.4g} at {i + 1} (for alpha^2 + sigma^2 = 1), but later steps "
                "must have more noise"
            )

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.log_alpha.value(t).exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        ratio = torch.expm1(-2.0 * self.log_a.value(t)).clamp(min=0.0).sqrt()
        return (self.log_alpha.value(t).exp() * ratio).to(t.dtype)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return self.log_sb.slope(t).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        self.check_time(t)
        root = (-2.0 * self.log_b.slope(t)).clamp(min=0.0).sqrt()
        return ((self.log_sb.value(t) - self.log_b.value(t)).exp() * root).to(t.dtype)

    def prior_std(self) -> float:
        """Standard deviation ``init_noise_sigma`` of the prior."""
        return float(self.scheduler.init_noise_sigma)
